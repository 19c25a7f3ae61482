"""Con-D: a frozen image-text matching network as PairScorer (MAFA, arXiv 2312.06112, efficient connection mining).

It has its own tokenizer, resolution and normalisation, and stands outside the student's state_dict, DDP and train().
Every image is encoded once a batch, and not at all where its frozen tower is the student's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

import torch
from lavis.common.registry import registry
from lavis.models.albef_models import AlbefBase
from lavis.models.base_model import BaseModel
from lavis.models.blip2_models.blip2_qformer import Blip2Qformer
from torch import Tensor, nn
from transformers import BatchEncoding

from lavis_mafa.common.config_file import loaded, merged
from lavis_mafa.common.precision import PRECISIONS, full_float32
from lavis_mafa.core.batch import Batch, rows_of, sent
from lavis_mafa.core.scorer import View, same_view
from lavis_mafa.models.albef.pretrain import MafaAlbef
from lavis_mafa.models.attention import fuse_attention, images_of_pairs
from lavis_mafa.models.blip2.stage1 import MafaBlip2, QformerState
from lavis_mafa.models.pretrained import local_files, weights_switches
from lavis_mafa.models.protocols import Student
from lavis_mafa.models.text import TokenizedOnce
from lavis_mafa.scorers.networks import DUAL_ENCODERS, Network, build_network
from lavis_mafa.scorers.pair_blocks import BLOCK, pair_blocks
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest, Section

ARCHITECTURES = (
    "mafa_blip2",
    "mafa_albef",
    "mafa_albef_retrieval",
    "blip2_image_text_matching",
    "blip2",
    "blip2_feature_extractor",
    "albef_retrieval",
    "blip_image_text_matching",
    "blip_retrieval",
)
EncodeImages = Callable[[BaseModel, Batch, Tensor], Tensor]
Match = Callable[[BaseModel, Tensor, BatchEncoding, Tensor, Tensor], Tensor]


def _vit_images(model: BaseModel, batch: Batch, rows: Tensor) -> Tensor:
    if "image_tokens" in batch:
        tokens: Tensor = rows_of(batch["image_tokens"], rows).float()
    else:
        tokens = model.visual_encoder(rows_of(batch["judge_image"], rows))
    return tokens


def _qformer_images(model: BaseModel, batch: Batch, rows: Tensor) -> Tensor:
    tokens: Tensor = model.ln_vision(_vit_images(model, batch, rows))
    return tokens


def _qformer_match(
    model: BaseModel, image_embeds: Tensor, tokens: BatchEncoding, image_K: Tensor, text_K: Tensor
) -> Tensor:
    return MafaBlip2.match_logits(model, QformerState(image_embeds, None, tokens), image_K, text_K)


def _albef_match(
    model: BaseModel, image_embeds: Tensor, tokens: BatchEncoding, image_K: Tensor, text_K: Tensor
) -> Tensor:
    bert = getattr(model.text_encoder, "bert", model.text_encoder)  # a pre-trained ALBEF holds BERT below its MLM head
    text = bert(tokens.input_ids, attention_mask=tokens.attention_mask, return_dict=True, mode="text").last_hidden_state
    with images_of_pairs(bert, image_K):
        output = bert(
            encoder_embeds=text[text_K],
            attention_mask=tokens.attention_mask[text_K],
            encoder_hidden_states=image_embeds,
            return_dict=True,
            mode="fusion",
        )
    logits_K2: Tensor = model.itm_head(output.last_hidden_state[:, 0])
    return logits_K2


def _blip_match(
    model: BaseModel, image_embeds: Tensor, tokens: BatchEncoding, image_K: Tensor, text_K: Tensor
) -> Tensor:
    ids = tokens.input_ids[text_K].clone()
    ids[:, 0] = model.tokenizer.enc_token_id
    output = model.text_encoder(
        ids,
        attention_mask=tokens.attention_mask[text_K],
        encoder_hidden_states=image_embeds[image_K],
        encoder_attention_mask=torch.ones(len(image_K), image_embeds.shape[1], dtype=torch.long, device=ids.device),
        return_dict=True,
    )
    logits_K2: Tensor = model.itm_head(output.last_hidden_state[:, 0])
    return logits_K2


def _paths(model: nn.Module) -> tuple[EncodeImages, Match]:
    if isinstance(model, Blip2Qformer):
        return _qformer_images, _qformer_match
    return _vit_images, _albef_match if isinstance(model, AlbefBase) else _blip_match


@dataclass
class ItmScorer(Network):
    """PairScorer over a frozen ITM network.

    Attributes:
        shares_tower: its frozen tower is the student's, so the batch's `image_tokens` serve both.
        precision: of its own tower, fp32 or bf16; the head and its scores are float32 either way.
        chunk: pairs scored in one pass.
    """

    shares_tower: bool = False
    precision: str = "fp32"
    chunk: int = BLOCK

    def __post_init__(self) -> None:
        self._tokenized = TokenizedOnce(self.model.tokenizer, self.text_processor, self.model.max_txt_len)
        self.model.eval().requires_grad_(False)
        if isinstance(self.model, Blip2Qformer):
            fuse_attention(self.model.Qformer)
        elif isinstance(self.model, AlbefBase):
            fuse_attention(self.model.text_encoder)
        self._encode, self._match = _paths(self.model)

    @property
    def view(self) -> View:
        return self.vis_processor

    @torch.no_grad()
    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """P(match) (K,) of pairs (image_K[k], text_K[k]), positions in the collated batch; an image is encoded once."""
        images, image_of_K = torch.unique(image_K.cpu(), return_inverse=True)
        texts, text_of_K = torch.unique(text_K.cpu(), return_inverse=True)
        on = partial(sent, device=self.model.device)  # blocks of pairs are made on the CPU: no pass waits for another
        seen, logits_K2 = self._seen(batch), torch.empty(len(image_K), 2, device=self.model.device)
        table = self._tokenized([batch["caption"][row] for row in texts.tolist()])
        low = PRECISIONS[self.precision]
        device = self.model.device.type
        with torch.autocast(device, enabled=False) if low else full_float32(device):
            with torch.autocast(device, low, enabled=low is not None):
                embeds = self._encode(self.model, seen, images).float()
            for block in pair_blocks(image_of_K, text_of_K, table.length_C, self.chunk):
                words = table.block(block.text_C)
                tokens = BatchEncoding({name: on(value) for name, value in words.items()})
                asked = embeds[on(block.image_N)], tokens, on(block.image_of_k), on(block.text_of_k)
                logits_K2[on(block.rows_k)] = self._match(self.model, *asked).float()
        return logits_K2.softmax(dim=1)[:, 1]

    def _seen(self, batch: Batch) -> Batch:
        if self.shares_tower and "image_tokens" in batch:
            return {"image_tokens": batch["image_tokens"]}
        return {"judge_image": batch["judge_image"]}


def build_con_d(cfg: Section, device: torch.device, section: str = "run.con_d") -> ItmScorer:
    """Build a Con-D.

    Args:
        cfg: `arch`, `model_type`, and any key of that model's config (`finetuned`, `vocab`).
        device: where it runs.
        section: the config's section that names it, for errors.

    Raises:
        ValueError: an unknown arch or type, weights that are missing or fit in part: never a silently random network.
    """
    return ItmScorer(**vars(build_network(cfg, device, section, ARCHITECTURES)))


def build_embedder(cfg: Section, device: torch.device, section: str) -> ItmScorer | Network:
    """What embeds images and captions: a matching network, or a dual encoder.

    Args:
        cfg, device, section: see build_con_d.

    Raises:
        ValueError: as build_con_d.
    """
    network = build_network(cfg, device, section, (*ARCHITECTURES, *DUAL_ENCODERS))
    if cfg["arch"] not in DUAL_ENCODERS:
        return ItmScorer(**vars(network))
    network.model.eval().requires_grad_(False)
    return network


def share_tower(scorer: ItmScorer, student: Student) -> None:
    """Mark that Con-D stands on the student's frozen tower, and drop its copy: ECM then costs the Q-Former alone."""
    model = scorer.model
    if not getattr(student, "tower_is_frozen", False) or not isinstance(model, (Blip2Qformer, MafaAlbef)):
        return
    own, theirs = student.visual_encoder, model.visual_encoder
    first, second = own.state_dict(), theirs.state_dict()
    if first.keys() == second.keys() and all(torch.equal(first[key], second[key].to(first[key])) for key in first):
        scorer.shares_tower = True
        scorer.model.visual_encoder = own


def tower_precision(section: Section, device: torch.device, where: str) -> str:
    """`precision` of the section; by default bf16 on a GPU, where a tower in float32 may cost more than the student.

    Raises:
        ValueError: another precision.
    """
    asked = section.get("precision") or ("bf16" if device.type == "cuda" else "fp32")
    if asked not in ("fp32", "bf16"):
        raise ValueError(f"{where}.precision is {asked!r}: allowed is fp32 or bf16, of its tower, or null")
    return str(asked)


def lower_tower(scorer: ItmScorer) -> None:
    """Its own tower in bf16: weights of matrix products and convolutions, which is LAVIS' choice for towers in fp16.
    Scores belong to the precision that they were made in, so the fingerprint names it."""
    for module in scorer.model.visual_encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
    scorer.precision, scorer.fingerprint = "bf16", f"{scorer.fingerprint}:bf16"


def _build(request: ScorerRequest) -> ItmScorer:
    precision = tower_precision(request.section, request.device, request.where)
    scorer, student, data = build_con_d(request.section, request.device, request.where), request.student, request.data
    if student is not None and data is not None and same_view(scorer.view, data.vis_processor):
        share_tower(scorer, student)
    if scorer.shares_tower and request.section.get("precision"):
        raise ValueError(
            f"{request.where}.precision: its tower is that of the model in training, and runs in run.precision: drop it"
        )
    if precision == "bf16" and not scorer.shares_tower:
        lower_tower(scorer)
    return scorer


def _files(section: Section) -> Iterator[tuple[str, str]]:
    """Those of our own models; LAVIS' find theirs, or fetch them."""
    model_cls = registry.get_model_class(section["arch"])
    if model_cls.__module__.startswith("lavis_mafa."):
        packaged = loaded(model_cls.default_config_path(section["model_type"]))
        yield from local_files(merged(packaged.model, section, weights_switches(packaged.model, section, "run.con_d")))


JUDGES.add(*ARCHITECTURES)(
    Judge(
        _build,
        ("preprocess", "precision"),
        is_model=True,
        files=_files,
        costs="its weights, its tower's in 16 bits on a GPU, passes without gradient",
    )
)
