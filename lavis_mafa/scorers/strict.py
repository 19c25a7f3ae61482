"""LAVIS' own networks by their from_config, strictly: LAVIS loads what fits and leaves the rest random.

Tested in tests/models/test_con_d.py.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Protocol

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

from lavis.models.base_model import BaseModel
from lavis.models.blip2_models.blip2_qformer import Blip2Qformer
from lavis.models.blip_models.blip import BlipBase
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lavis_mafa.models.bert import fold_token_types
from lavis_mafa.models.text import load_tokenizer


class Unfilled(Protocol):
    """What torch's load_state_dict returns."""

    missing_keys: list[str]


Loader = Callable[..., Unfilled]  # of LAVIS, with what torch gave it


def build_strictly(model_cls: type[BaseModel], cfg: DictConfig, section: str) -> BaseModel:
    """`model_cls` with the weights and, as `vocab`, the local tokenizer that `cfg` names.

    A BERT with token types scores as its authors' does: LAVIS drops them (models/bert.py), here they are folded.

    Raises:
        ValueError: a checkpoint that cannot be read, or that fits in part, naming the keys.
    """
    gaps: list[str] = []
    members: dict[str, Callable[..., object]] = {
        name: _telling(getattr(model_cls, name), gaps, section) for name in ("load_checkpoint", "load_from_pretrained")
    }
    members["load_state_dict"] = _folding(model_cls.load_state_dict)
    if cfg.get("vocab"):
        members["init_tokenizer"] = lambda self: _local_tokenizer(model_cls, cfg.vocab)
    watched: type[BaseModel] = type(model_cls.__name__, (model_cls,), members)
    model: BaseModel = watched.from_config(cfg)
    if gaps:
        lacking = f"{len(gaps)} weights of {model_cls.__name__}: {', '.join(gaps[:8])}"
        raise ValueError(
            f"{section}: the checkpoint lacks {lacking}; choose the arch and model_type that it was saved with"
        )
    return model


def _telling(lavis_loader: Loader, gaps: list[str], section: str) -> Loader:
    """LAVIS' loader, which notes the keys it went without and says what is wrong with a file."""

    def load(self: BaseModel, url_or_filename: str, *args: object, **kwargs: object) -> Unfilled:
        try:
            result = lavis_loader(self, url_or_filename, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{section}: {url_or_filename} is damaged, or contains Python objects besides tensors, which "
                "could run code; "
                "save its state_dict again in an environment that you trust"
            ) from error
        except (RuntimeError, KeyError, OSError, EOFError) as error:
            raise ValueError(
                f"{section}: {url_or_filename} is not a checkpoint of {type(self).__name__}: {error}"
            ) from error
        gaps.extend(key for key in result.missing_keys if _matters(self, key))
        return result

    return load


def _folding(load_state_dict: Loader) -> Loader:
    def load(self: BaseModel, state: Mapping[str, Tensor], *args: object, **kwargs: object) -> Unfilled:
        return load_state_dict(self, fold_token_types(state), *args, **kwargs)

    return load


def _matters(model: BaseModel, key: str) -> bool:
    """Momentum copies, queues and positions serve no score; a frozen BLIP-2 tower comes from its own file."""
    part = key.split(".")[0]
    if part.endswith("_m") or "queue" in part or key.endswith("position_ids"):
        return False
    return not (part == "visual_encoder" and isinstance(model, Blip2Qformer) and _is_frozen(model.visual_encoder))


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


def _local_tokenizer(model_cls: type[BaseModel], vocab: str) -> PreTrainedTokenizerBase:
    """The tokens that LAVIS appends to BERT's: none for ALBEF, [DEC] for BLIP-2, [DEC] and [ENC] for BLIP."""
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(vocab)
    if issubclass(model_cls, (Blip2Qformer, BlipBase)):
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    if issubclass(model_cls, BlipBase):
        tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        tokenizer.enc_token_id = tokenizer.additional_special_tokens_ids[0]
    return tokenizer
