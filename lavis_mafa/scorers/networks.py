"""Frozen networks from a config's section, with their own preparation: never partly loaded, never random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

import torch
from lavis.common.registry import registry
from lavis.models import load_preprocess
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig
from torch import nn

from lavis_mafa.common.config_file import loaded, merged, plain_config
from lavis_mafa.common.files import mistaken
from lavis_mafa.common.hashing import digest_of
from lavis_mafa.common.tensors import refuse_nan, tensor_parts
from lavis_mafa.common.tree import keys_at
from lavis_mafa.core.scorer import View
from lavis_mafa.models.albef.parts import QUEUES
from lavis_mafa.models.albef.pretrain import MafaAlbef
from lavis_mafa.models.albef.task_base import AlbefDownstreamModel
from lavis_mafa.models.blip2.stage1 import MafaBlip2
from lavis_mafa.models.dual import MafaDual
from lavis_mafa.models.openclip import MafaOpenClip
from lavis_mafa.models.pretrained import checkpoint_path, weights_switches
from lavis_mafa.models.towers.openclip import TowerName
from lavis_mafa.scorers.registry import Section
from lavis_mafa.scorers.strict import build_strictly

EXTRACTORS = ("albef_feature_extractor", "blip_feature_extractor")  # they read `pretrained` alone
DUAL_ENCODERS = ("mafa_dual", "mafa_openclip", *EXTRACTORS)
READ_BY = {"albef_pretrain": "mafa_albef", "blip_pretrain": "blip_feature_extractor"}  # LAVIS' own read no checkpoint


@dataclass
class Network:
    """A frozen model with its own preparation: PIL image → tensor, raw caption → its text input."""

    model: BaseModel
    fingerprint: str
    vis_processor: View
    text_processor: Callable[[str], str]

    def preparation(self) -> tuple[object, ...]:
        """What embeddings and scores hang on beside the weights, as plain values."""
        return (
            repr(getattr(self.vis_processor, "transform", self.vis_processor)),
            type(self.text_processor).__name__,
            sorted((name, repr(value)) for name, value in vars(self.text_processor).items()),
            self.model.max_txt_len,
            sorted(self.model.tokenizer.get_vocab().items()),
        )


def build_network(cfg: Section, device: torch.device, section: str, archs: tuple[str, ...]) -> Network:
    """The model that a section names, in float32 on the device, and its preparation of images and captions.

    Args:
        cfg: `arch`, `model_type`, and any key of that model's config.
        device: where it runs.
        section: the section's name, for errors.
        archs: those allowed here.

    Raises:
        ValueError: an unknown arch or type, weights that are missing or fit in part.
    """
    given = plain_config(cfg)
    arch, model_type = given.get("arch"), given.get("model_type")
    if arch in READ_BY:
        raise ValueError(
            f"{section}.arch: LAVIS' {arch} cannot load a checkpoint; use {READ_BY[arch]}, which loads what "
            f"{arch} saved"
        )
    model_cls = registry.get_model_class(arch) if arch in archs else None
    if model_cls is None or model_type not in model_cls.PRETRAINED_MODEL_CONFIG_DICT:
        types = ", ".join(model_cls.PRETRAINED_MODEL_CONFIG_DICT) if model_cls else f"see {section}.arch"
        raise ValueError(f"{section}: arch {arch!r} (one of {', '.join(archs)}), model_type {model_type!r} ({types})")
    defaults = loaded(model_cls.default_config_path(model_type))
    keys = {key: value for key, value in given.items() if key not in ("arch", "model_type", "preprocess", "precision")}
    config = merged(defaults.model, keys, weights_switches(defaults.model, keys, section))
    defaults.model = config  # the preparation may refer to it
    if arch in EXTRACTORS and config.get("load_finetuned"):
        raise ValueError(f"{section}.load_finetuned: {arch} only loads {section}.pretrained; set that to the file")
    _require_weights(model_cls, config, section)
    model = _build(model_cls, config, section)
    refuse_nan(model.state_dict().items(), f"{section}: {checkpoint_path(config)}")
    preprocess = merged(defaults.get("preprocess", {}), keys_at(given, "preprocess"))
    vis, text = load_preprocess(preprocess)
    print_of_all = fingerprint(model.float())
    drop_unread(model)
    return Network(model.to(device), print_of_all, vis["eval"], text["eval"])


def drop_unread(model: nn.Module) -> None:
    """Take away momentum copies and queues, which a frozen network reads as little as they change: of an ALBEF half its
    bytes."""
    for name in [*vars(model)["_modules"], *vars(model)["_buffers"]]:
        if (name.endswith("_m") and hasattr(model, name.removesuffix("_m"))) or name in QUEUES:
            delattr(model, name)
    vars(model).pop("model_pairs", None)  # LAVIS' list of both, of which no module knows


def _require_weights(model_cls: type[BaseModel], cfg: DictConfig, section: str) -> None:
    if issubclass(model_cls, MafaOpenClip) and TowerName.parse(cfg.vit_model, cfg.get("vit_weights")).has_weights:
        return
    path = checkpoint_path(cfg)
    if path and Path(path).is_file() and (what := mistaken(path)):
        raise ValueError(f"{section}: {path} {what}")
    if path is None:
        raise ValueError(
            f"{section} has no weights; set {section}.finetuned to a checkpoint of its model (for a matching network, "
            f"train_con_d.sh trains one) and {section}.load_finetuned: true"
        )


def _build(model_cls: type[BaseModel], cfg: DictConfig, section: str) -> BaseModel:
    """Ours says itself what does not fit; LAVIS' own loads in part, unless it is watched."""
    if issubclass(model_cls, (MafaBlip2, MafaDual, MafaOpenClip, AlbefDownstreamModel)):
        return model_cls.from_config(cfg)
    if issubclass(model_cls, MafaAlbef):
        return model_cls.from_config(cfg, may_miss=("text_encoder.cls.",))  # a retrieval model has no MLM head
    return build_strictly(model_cls, cfg, section)


def fingerprint(model: nn.Module) -> str:
    """Hash of weights and sizes (heads, eps, …): a stored score is only as good as the network that gave it."""
    return digest_of(_parts(model))


def _parts(model: nn.Module) -> Iterator[object]:
    for name, module in model.named_modules():
        yield name, type(module).__name__, _plain_attributes(module)
    yield from tensor_parts(model.state_dict())


def _plain_attributes(module: nn.Module) -> list[tuple[str, object]]:
    kept = (bool, int, float, str, tuple)
    return sorted(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, kept) and name != "training" and not name.startswith("_")
    )
