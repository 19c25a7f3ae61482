"""Con-D: a frozen image-text matching network as PairScorer (design, section 1).

It has its own tokenizer, resolution and normalisation, and stands outside the student's state_dict, DDP and train(). Every
image is encoded once a batch, and not at all where its frozen tower is the student's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lavis.common.registry import registry
from lavis.models import load_preprocess
from lavis.models.albef_models import AlbefBase
from lavis.models.base_model import BaseModel
from lavis.models.blip2_models.blip2_qformer import Blip2Qformer
from omegaconf import OmegaConf
from torch import Tensor, nn

from lavis_mafa.models.attention import fuse_attention
from lavis_mafa.models.blip2 import MafaBlip2, QformerState
from lavis_mafa.models.text import tokenize

ARCHITECTURES = ("mafa_blip2", "blip2_image_text_matching", "blip2", "albef_retrieval", "blip_image_text_matching")
EncodeImages = Callable[[Any, Mapping[str, Any], Tensor], Tensor]
Match = Callable[[Any, Tensor, Any, Tensor, Tensor], Tensor]


def _qformer_images(model: Any, batch: Mapping[str, Any], rows: Tensor) -> Tensor:
    return model.ln_vision(batch["image_tokens"][rows] if "image_tokens" in batch else model.visual_encoder(batch["image"][rows]))


def _qformer_match(model: Any, image_embeds: Tensor, tokens: Any, image_K: Tensor, text_K: Tensor) -> Tensor:
    return MafaBlip2.match_logits(model, QformerState(image_embeds, None, tokens), image_K, text_K)


def _vit_images(model: Any, batch: Mapping[str, Any], rows: Tensor) -> Tensor:
    return model.visual_encoder.forward_features(batch["image"][rows])


def _albef_match(model: Any, image_embeds: Tensor, tokens: Any, image_K: Tensor, text_K: Tensor) -> Tensor:
    text = model.text_encoder.forward_text(tokens).last_hidden_state
    output = model.text_encoder(
        encoder_embeds=text[text_K],
        attention_mask=tokens.attention_mask[text_K],
        encoder_hidden_states=image_embeds[image_K],
        encoder_attention_mask=torch.ones(len(image_K), image_embeds.shape[1], dtype=torch.long, device=text.device),
        return_dict=True,
        mode="fusion",
    )
    return model.itm_head(output.last_hidden_state[:, 0])


def _blip_match(model: Any, image_embeds: Tensor, tokens: Any, image_K: Tensor, text_K: Tensor) -> Tensor:
    ids = tokens.input_ids[text_K].clone()
    ids[:, 0] = model.tokenizer.enc_token_id
    output = model.text_encoder(
        ids,
        attention_mask=tokens.attention_mask[text_K],
        encoder_hidden_states=image_embeds[image_K],
        encoder_attention_mask=torch.ones(len(image_K), image_embeds.shape[1], dtype=torch.long, device=ids.device),
        return_dict=True,
    )
    return model.itm_head(output.last_hidden_state[:, 0])


def _paths(model: nn.Module) -> tuple[EncodeImages, Match]:
    if isinstance(model, Blip2Qformer):
        return _qformer_images, _qformer_match
    return _vit_images, _albef_match if isinstance(model, AlbefBase) else _blip_match


@dataclass
class ItmScorer:
    """PairScorer over a frozen ITM network.

    Attributes:
        vis_processor: PIL image → tensor, the network's own view of a record; None where the student's batch already is that view.
        text_processor: raw caption → its text input.
        shares_tower: its frozen tower is the student's, so the batch's `image_tokens` serve both.
        chunk: pairs scored in one pass.
    """

    model: BaseModel
    fingerprint: str
    vis_processor: Callable[[Any], Tensor]
    text_processor: Callable[[str], str]
    shares_tower: bool = False
    chunk: int = 256

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        if isinstance(self.model, Blip2Qformer):
            fuse_attention(self.model.Qformer)
        self._encode, self._match = _paths(self.model)

    @torch.no_grad()
    def score(self, batch: Mapping[str, Any], image_K: Tensor, text_K: Tensor) -> Tensor:
        """P(match) (K,) of the pairs (image_K[k], text_K[k]), positions in the collated batch; every image encoded once."""
        images, image_of = image_K.unique(return_inverse=True)
        texts, text_of = text_K.unique(return_inverse=True)
        view = self._view(batch)
        captions = [self.text_processor(batch["caption"][row]) for row in texts.tolist()]
        with torch.autocast(images.device.type, enabled=False):
            embeds = self._encode(self.model, view, images)
            tokens = tokenize(self.model.tokenizer, captions, self.model.max_txt_len, images.device)
            logits = [
                self._match(self.model, embeds, tokens, image_of[part], text_of[part])
                for part in torch.arange(len(image_K), device=images.device).split(self.chunk)
            ]
        return torch.cat(logits).float().softmax(dim=1)[:, 1] if logits else embeds.new_zeros(0)

    def _view(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if "con_d_image" in batch:
            return {"image": batch["con_d_image"]}
        if self.shares_tower:
            return {"image_tokens": batch["image_tokens"]}
        return {"image": batch["image"]}


def build_con_d(cfg: Mapping[str, Any], device: torch.device) -> ItmScorer:
    """Con-D from `run.con_d`: `arch`, `model_type`, and any key of that model's config (`finetuned: …`, `vocab: …`).

    Raises:
        ValueError: an unknown arch or type, or weights that are missing or fit in part: never a silently random network.
    """
    given = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else dict(cfg)
    arch, model_type = given.get("arch"), given.get("model_type")
    model_cls = registry.get_model_class(arch) if arch in ARCHITECTURES else None
    if model_cls is None or model_type not in model_cls.PRETRAINED_MODEL_CONFIG_DICT:
        types = ", ".join(model_cls.PRETRAINED_MODEL_CONFIG_DICT) if model_cls else "see run.con_d.arch"
        raise ValueError(f"run.con_d: arch {arch!r} (one of {', '.join(ARCHITECTURES)}), model_type {model_type!r} ({types})")
    defaults = OmegaConf.load(model_cls.default_config_path(model_type))
    merged = OmegaConf.merge(defaults.model, {k: v for k, v in given.items() if k not in ("arch", "model_type", "preprocess")})
    if not (merged.get("finetuned") if merged.get("load_finetuned", False) else merged.get("pretrained")):
        raise ValueError("run.con_d names no weights; set run.con_d.finetuned to a matching network's checkpoint (train_con_d.sh makes one)")
    model = _strictly(model_cls, merged)
    preprocess = OmegaConf.merge(defaults.get("preprocess", {}), given.get("preprocess") or {})
    vis, text = load_preprocess(preprocess)
    return ItmScorer(model.float().to(device), _fingerprint(model), vis["eval"], text["eval"])


def _strictly(model_cls: type[BaseModel], cfg: Any) -> BaseModel:
    """Build through LAVIS' from_config, and refuse what LAVIS loads in part."""
    if issubclass(model_cls, MafaBlip2):
        return model_cls.from_config(cfg)
    gaps: list[str] = []
    loaders = {name: getattr(model_cls, name) for name in ("load_checkpoint", "load_from_pretrained")}

    def told(name: str) -> Callable[..., Any]:
        def load(self: BaseModel, *args: Any, **kwargs: Any) -> Any:
            result = loaders[name](self, *args, **kwargs)
            gaps.extend(key for key in result.missing_keys if _matters(self, key))
            return result

        return load

    strict = type(model_cls.__name__, (model_cls,), {name: told(name) for name in loaders})
    model = strict.from_config(cfg)
    if gaps:
        raise ValueError(f"run.con_d: the checkpoint lacks {len(gaps)} weights of {model_cls.__name__}: {', '.join(gaps[:8])}")
    return model


def _matters(model: BaseModel, key: str) -> bool:
    """Momentum copies, queues and positions serve no score; a frozen BLIP-2 tower comes from its own file."""
    parts = key.split(".")
    if parts[0].endswith("_m") or "queue" in parts[0] or parts[-1] == "position_ids":
        return False
    return not (isinstance(model, Blip2Qformer) and parts[0] == "visual_encoder")


def _fingerprint(model: nn.Module) -> str:
    """Hash of the weights: a stored score is only as good as the network that gave it."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.dim() else str(value.item()).encode())
    return digest.hexdigest()


def share_tower(scorer: ItmScorer, student: nn.Module) -> None:
    """Mark that Con-D stands on the student's frozen tower, and drop its copy: then ECM costs only the Q-Former passes."""
    own, theirs = getattr(student, "visual_encoder", None), scorer.model.visual_encoder
    if not getattr(student, "tower_is_frozen", False) or not isinstance(scorer.model, Blip2Qformer):
        return
    first, second = own.state_dict(), theirs.state_dict()
    if first.keys() == second.keys() and all(torch.equal(first[key], second[key].to(first[key])) for key in first):
        scorer.shares_tower = True
        scorer.model.visual_encoder = own
