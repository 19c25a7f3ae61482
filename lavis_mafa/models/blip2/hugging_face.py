"""BLIP-2 stage 1 in transformers' words: state dicts of `blip2` and `mafa_blip2` ↔ Blip2ForImageTextRetrieval.

That class has no room for the temperature and the language head; they are kept in a file beside it. Only EVA towers
have a counterpart there. Source of the names: transformers' modeling_blip_2.py. Tested in
tests/models/test_hugging_face.py: equal logits on a tiny network, equal keys and shapes at full size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig

State = Mapping[str, Tensor]
BESIDE = "lavis_mafa.safetensors"  # what Blip2ForImageTextRetrieval has no room for
BESIDE_KEYS = ("temp", "Qformer.cls.")

# ours → theirs: how a name begins, then what is replaced within it
NAMES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding", ()),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding", ()),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding.", ()),
    (
        "visual_encoder.blocks.",
        "vision_model.encoder.layers.",
        (
            (".norm1.", ".layer_norm1."),
            (".norm2.", ".layer_norm2."),
            (".attn.qkv.", ".self_attn.qkv."),
            (".attn.proj.", ".self_attn.projection."),
        ),
    ),
    ("ln_vision.", "vision_model.post_layernorm.", ()),
    ("Qformer.bert.embeddings.LayerNorm.", "qformer.layernorm.", ()),
    ("Qformer.bert.embeddings.", "embeddings.", ()),
    (
        "Qformer.bert.encoder.",
        "qformer.encoder.",
        ((".attention.self.", ".attention.attention."), (".crossattention.self.", ".crossattention.attention.")),
    ),
    ("query_tokens", "query_tokens", ()),
    ("vision_proj.", "vision_projection.", ()),
    ("text_proj.", "text_projection.", ()),
    ("itm_head.", "itm_head.", ()),
)


def is_hugging_face(state: Iterable[str]) -> bool:
    """Whether the names are those of Blip2ForImageTextRetrieval."""
    return {"vision_projection.weight", "qformer.layernorm.weight"} <= set(state)


def to_hugging_face(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state of Blip2ForImageTextRetrieval, what it has no room for).

    Args:
        state: of `blip2` or `mafa_blip2`, its tower included.

    Raises:
        ValueError: a tower that is no EVA, or none.
    """
    if "visual_encoder.blocks.0.attn.qkv.weight" not in state or "visual_encoder.norm.weight" in state:
        raise ValueError(
            "Blip2ForImageTextRetrieval has an EVA tower (vit_model: eva_clip_g), and these weights have another or "
            "none: convert a model of that tower, its tower's weights included"
        )
    beside = {key: value for key, value in state.items() if key.startswith(BESIDE_KEYS)}
    rest = {key: value for key, value in state.items() if key not in beside and not key.endswith("position_ids")}
    found: dict[str, Tensor] = {}
    for key, value in rest.items():
        if key.endswith(".attn.v_bias"):
            continue
        if key.endswith(".attn.q_bias"):  # EVA's keys have no bias
            name = key.replace(".q_bias", ".qkv.bias")
            value = torch.cat([value, torch.zeros_like(value), state[key.replace(".q_bias", ".v_bias")]])
        else:
            name = key
        found[_renamed(name, forth=True)] = value
    return found, beside


def from_hugging_face(state: State, beside: State | None = None) -> dict[str, Tensor]:
    """The state of `mafa_blip2`; `beside`: what `to_hugging_face` kept apart.

    Raises:
        ValueError: a bias of the attention's keys, for which an EVA tower has no room; a name of another class.
    """
    found = dict(beside or {})
    for key, value in state.items():
        name = _renamed(key, forth=False)
        if not name.endswith(".attn.qkv.bias"):
            found[name] = value
            continue
        query, keys, values = value.chunk(3)
        if keys.any():
            raise ValueError(f"{key} has a bias of the keys, for which an EVA tower has no room")
        found |= {name.replace(".qkv.bias", ".q_bias"): query, name.replace(".qkv.bias", ".v_bias"): values}
    return found


def config_of(model: Any) -> Blip2Config:
    """The config of the Blip2ForImageTextRetrieval that has the shapes of a `mafa_blip2` with an EVA tower."""
    tower, bert = model.visual_encoder, model.Qformer.config
    (height, width), (patch, _) = tower.patch_embed.img_size, tower.patch_embed.patch_size
    if height != width:
        raise ValueError(f"the tower reads {height} x {width} pixels; transformers' reads squares")
    hidden = tower.cls_token.shape[-1]
    vision = Blip2VisionConfig(
        hidden_size=hidden,
        intermediate_size=tower.blocks[0].mlp.fc1.out_features,
        num_hidden_layers=len(tower.blocks),
        num_attention_heads=tower.blocks[0].attn.num_heads,
        image_size=height,
        patch_size=patch,
        layer_norm_eps=tower.blocks[0].norm1.eps,
    )
    same = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    qformer = Blip2QFormerConfig(
        **{name: getattr(bert, name) for name in (*same, "layer_norm_eps", "max_position_embeddings")},
        vocab_size=model.Qformer.bert.embeddings.word_embeddings.num_embeddings,
        cross_attention_frequency=bert.cross_attention_freq,
        encoder_hidden_size=hidden,
        use_qformer_text_input=True,
    )
    return Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        num_query_tokens=model.query_tokens.shape[1],
        image_text_hidden_size=model.vision_proj.out_features,
    )


def _renamed(key: str, forth: bool) -> str:
    for ours, theirs, within in NAMES:
        old, new = (ours, theirs) if forth else (theirs, ours)
        if key.startswith(old):
            name = new + key[len(old) :]
            for inner, outer in within:
                name = name.replace(inner, outer) if forth else name.replace(outer, inner)
            return name
    raise ValueError(f"{key} is no name of {'a BLIP-2 stage 1' if forth else 'Blip2ForImageTextRetrieval'}")
