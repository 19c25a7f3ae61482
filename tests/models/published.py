"""Keys and shapes of the files that the authors publish, written down from their code and configs, not from LAVIS'.

salesforce/ALBEF: models/{vit,xbert,model_pretrain,model_retrieval,model_vqa,model_pretrain_nlvr}.py
jaeseokbyun/GRIT-VLP: models/{model_pretrain_GRIT_VLP,model_retrieval,xbert}.py, configs/config_bert.json
jaeseokbyun/MAFA: models/model_pretrain_MAFA.py, Pretrain_MAFA.py
salesforce/BLIP: models/{vit,med,blip_retrieval}.py; salesforce/LAVIS: models/blip2_models/{Qformer,blip2_qformer}.py
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """ViT-B/16 and BERT base, as published; a test may ask for smaller ones."""

    width: int = 768
    inner: int = 3072
    layers: int = 12
    fusion: int = 6
    words: int = 30522
    positions: int = 512
    patch: int = 16
    blocks: int = 12
    embed: int = 256
    queue: int = 65536


BASE = Size()


def below(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{key}": shape for key, shape in shapes.items()}


def linear(name: str, out: int, width: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def vit(size: Size, image: int) -> Shapes:
    width, patches = size.width, (image // size.patch) ** 2
    block = norm("norm1", width) | linear("attn.qkv", 3 * width, width) | linear("attn.proj", width, width)
    block |= norm("norm2", width) | linear("mlp.fc1", 4 * width, width) | linear("mlp.fc2", width, 4 * width)
    shapes: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, patches + 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, size.patch, size.patch), "patch_embed.proj.bias": (width,)}
    for number in range(size.blocks):
        shapes |= below(f"blocks.{number}", block)
    return shapes | norm("norm", width)


def attention(width: int, keys: int) -> Shapes:
    inner = linear("self.query", width, width) | linear("self.key", width, keys) | linear("self.value", width, keys)
    return inner | linear("output.dense", width, width) | norm("output.LayerNorm", width)


def feed_forward(size: Size, suffix: str = "") -> Shapes:
    inner = linear(f"intermediate{suffix}.dense", size.inner, size.width)
    return (
        inner | linear(f"output{suffix}.dense", size.width, size.inner) | norm(f"output{suffix}.LayerNorm", size.width)
    )


def bert(
    size: Size, crossed: Collection[int], layers: int | None = None, keys: int | None = None, types: int = 2
) -> Shapes:
    """Embeddings and layers, no pooler; layers of `crossed` attend to an image of width `keys`; 0 types: BLIP's."""
    width = size.width
    shapes: Shapes = {"embeddings.position_ids": (1, size.positions)}
    tables = {"word": size.words, "position": size.positions, "token_type": types}
    shapes |= {f"embeddings.{name}_embeddings.weight": (rows, width) for name, rows in tables.items() if rows}
    shapes |= norm("embeddings.LayerNorm", width)
    for number in range(size.layers if layers is None else layers):
        layer = below("attention", attention(width, width)) | feed_forward(size)
        layer |= below("crossattention", attention(width, keys or width)) if number in crossed else {}
        shapes |= below(f"encoder.layer.{number}", layer)
    return shapes


def with_head(size: Size, network: Shapes) -> Shapes:
    """BertForMaskedLM and BertLMHeadModel: the network below `bert`, and the tied head, saved whole."""
    head = {"bias": (size.words,)} | linear("transform.dense", size.width, size.width)
    head |= norm("transform.LayerNorm", size.width) | linear("decoder", size.words, size.width)
    return below("bert", network) | below("cls.predictions", head)


def heads(size: Size, vision: int | None = None) -> Shapes:
    projections = linear("vision_proj", size.embed, vision or size.width) | linear("text_proj", size.embed, size.width)
    return projections | linear("itm_head", 2, size.width) | {"temp": ()}


def with_momentum(shapes: Shapes) -> Shapes:
    """Beside every encoder, decoder and projection its momentum copy."""
    copied = ("visual_encoder.", "text_encoder.", "text_decoder.", "vision_proj.", "text_proj.")
    return shapes | {key.replace(".", "_m.", 1): shape for key, shape in shapes.items() if key.startswith(copied)}


def queues(size: Size, pointer: str, ids: bool) -> Shapes:
    shapes: Shapes = {"image_queue": (size.embed, size.queue), "text_queue": (size.embed, size.queue)}
    return shapes | {pointer: (1,)} | ({"idx_queue": (1, size.queue)} if ids else {})


def fusion_bert(size: Size) -> Shapes:
    return bert(size, range(size.fusion, size.layers))


def grit_vlp(size: Size = BASE, image: int = 256) -> Shapes:
    """Pre-training of GRIT-VLP, and of MAFA: ALBEF_Base, neither momentum nor queue."""
    text = below("text_encoder", with_head(size, fusion_bert(size)))
    return below("visual_encoder", vit(size, image)) | text | heads(size)


def albef(size: Size = BASE, image: int = 256) -> Shapes:
    """ALBEF.pth."""
    return with_momentum(grit_vlp(size, image)) | queues(size, "queue_ptr", ids=False)


def grit_vlp_retrieval(size: Size = BASE, image: int = 384) -> Shapes:
    """Fine-tuning with `use_momentum: false`, as GRIT-VLP and MAFA evaluate it."""
    text = below("text_encoder", fusion_bert(size))
    return below("visual_encoder", vit(size, image)) | text | heads(size)


def albef_retrieval(size: Size = BASE, image: int = 384) -> Shapes:
    """mscoco.pth and flickr30k.pth."""
    return with_momentum(grit_vlp_retrieval(size, image)) | queues(size, "queue_ptr", ids=True)


def albef_vqa(size: Size = BASE, image: int = 384) -> Shapes:
    """vqa.pth: the decoder has six layers, each with cross-attention."""
    text = below("text_encoder", fusion_bert(size))
    decoder = below("text_decoder", with_head(size, bert(size, range(6), layers=6)))
    return with_momentum(below("visual_encoder", vit(size, image)) | text | decoder)


def albef_nlvr_pretrain(size: Size = BASE, image: int = 256) -> Shapes:
    """pretrain_model_nlvr.pth, of text assignment: 18 layers, a head of three classes."""
    text = below("text_encoder", bert(size, range(size.fusion, 18), layers=18))
    rest = {key: shape for key, shape in heads(size).items() if not key.startswith("itm_head")}
    return below("visual_encoder", vit(size, image)) | text | rest | linear("ta_head", 3, size.width)


def blip_retrieval(size: Size = Size(words=30524, queue=57600), image: int = 384) -> Shapes:
    """model_base_retrieval_coco.pth: no token types, cross-attention in every layer."""
    text = below("text_encoder", bert(size, range(size.layers), types=0))
    network = below("visual_encoder", vit(size, image)) | text | heads(size)
    return with_momentum(network) | queues(size, "ptr_queue", ids=True)


def blip2(size: Size = Size(words=30523), vision: int = 1408) -> Shapes:
    """blip2_pretrained.pth: no tower, which was frozen; a second feed-forward for the queries."""
    network = bert(size, range(0, size.layers, 2), keys=vision, types=0)
    for number in range(size.layers):
        network |= below(f"encoder.layer.{number}", feed_forward(size, "_query"))
    shapes: Shapes = {"query_tokens": (1, 32, size.width)} | norm("ln_vision", vision)
    return shapes | below("Qformer", with_head(size, network)) | heads(size)


FILES: dict[str, Callable[[], Shapes]] = {
    function.__name__: function
    for function in (
        *(albef, grit_vlp, albef_retrieval, grit_vlp_retrieval, albef_vqa, albef_nlvr_pretrain),
        *(blip_retrieval, blip2),
    )
}


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    whole = ("position_ids", "queue_ptr", "ptr_queue", "idx_queue")
    kinds = {key: torch.int64 if key.endswith(whole) else torch.float32 for key in shapes}
    return {key: torch.empty(shape, dtype=kinds[key], device="meta") for key, shape in shapes.items()}


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Values of unit gain, so that a small network says different things of different texts."""
    generator = torch.Generator().manual_seed(seed)
    state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    for key, value in state.items():
        if key.endswith("position_ids"):
            state[key] = torch.arange(value.shape[1])[None]
        elif value.dim() < 2:  # norms and biases
            state[key] = 0.1 * value + key.endswith("weight")
        elif "embed" not in key:
            state[key] = value * value[0].numel() ** -0.5
    for key in [key for key in state if ".decoder." in key]:  # tied: saved twice
        head, text = key.split("decoder.")[0], key.split("cls.")[0]
        state[key] = state[f"{text}bert.embeddings.word_embeddings.weight" if "weight" in key else f"{head}bias"]
    return state
