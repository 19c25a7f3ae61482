"""LAVIS 1.0.2 on today's libraries: import this module before the first `lavis` import; it imports LAVIS itself.

LAVIS was written for transformers 4.26, NumPy 1 and timm 0.4. What they removed or renamed since comes back here, in
memory, and only where the installed library lacks it. Nothing on disk changes.
Tested in tests/models/test_compat.py.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, modeling_utils, pytorch_utils

INSTALL = "pip install --no-deps salesforce-lavis==1.0.2"


def _no_pruning(*args: Any) -> Any:
    raise NotImplementedError("LAVIS prunes attention heads with a function that transformers 5.0 removed")


def _get_head_mask(self: PreTrainedModel, head_mask: Any, num_hidden_layers: int) -> list[None]:
    if head_mask is not None:
        raise NotImplementedError("transformers 5.0 removed head masks")
    return [None] * num_hidden_layers


def _invert_attention_mask(self: PreTrainedModel, mask: Tensor) -> Tensor:
    """Mask (B, L) or (B, T, L), 1 where attention may look → what is added to the scores (B, 1, 1 or T, L)."""
    mask = (mask[:, None] if mask.dim() == 3 else mask[:, None, None]).to(self.dtype)
    return (1.0 - mask) * torch.finfo(self.dtype).min


@property
def _additional_special_tokens_ids(self: PreTrainedTokenizerBase) -> list[int]:
    return self.convert_tokens_to_ids(self.extra_special_tokens)


# Owner, name, what stands in for it, and the version that made it necessary.
GIVEN_BACK: tuple[tuple[Any, str, Any, str], ...] = (
    (modeling_utils, "apply_chunking_to_forward", pytorch_utils.apply_chunking_to_forward, "transformers 4.56"),
    (modeling_utils, "prune_linear_layer", pytorch_utils.prune_linear_layer, "transformers 4.56"),
    (modeling_utils, "find_pruneable_heads_and_indices", _no_pruning, "transformers 4.56"),
    (PreTrainedModel, "get_head_mask", _get_head_mask, "transformers 5.0"),
    (PreTrainedModel, "invert_attention_mask", _invert_attention_mask, "transformers 5.15 to 5.18"),
    (PreTrainedTokenizerBase, "additional_special_tokens_ids", _additional_special_tokens_ids, "transformers 5.0"),
    (np, "Inf", np.inf, "NumPy 2.0"),
)

# LAVIS' copies of OPT and T5, and the originals, which take `inputs_embeds` and know today's cache; their keys are the
# same. The copies need transformers.utils.model_parallel_utils, which transformers 5.0 removed.
REPLACED = {
    "lavis.models.blip2_models.modeling_opt": "transformers.models.opt",
    "lavis.models.blip2_models.modeling_t5": "transformers.models.t5",
}

# What LAVIS' two BERTs with a head share; transformers found it by itself before 5.0.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class _Absent(ModuleType):
    """Stands in for a package that LAVIS imports and hardly ever uses; whatever is used of it says what to install."""

    def __getattr__(self, name: str) -> Any:
        def absent(*args: Any, **kwargs: Any) -> Any:
            raise ModuleNotFoundError(f"{self.__name__}.{name} is needed: pip install {self.__name__}")

        return absent


@contextmanager
def _absent_packages() -> Iterator[None]:
    """decord (videos; no wheel beyond x86-64) and spaCy (lemmatised answers), while LAVIS is imported."""
    absent = {name: _Absent(name) for name in ("decord", "spacy") if find_spec(name) is None}
    if "decord" in absent:
        absent["decord"].bridge = SimpleNamespace(set_bridge=lambda framework: None)  # called on import
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _has(owner: Any, name: str) -> bool:
    by_getattr = getattr(owner, "SPECIAL_TOKENS_ATTRIBUTES", ())  # transformers 4: of an instance, not of the class
    return hasattr(owner, name) or name.removesuffix("_ids") in by_getattr


def _import_lavis() -> None:
    _refuse_absent_or_shadowed()
    for owner, name, stand_in, _ in GIVEN_BACK:
        if not _has(owner, name):
            setattr(owner, name, stand_in)
    sys.modules.update({copy: importlib.import_module(original) for copy, original in REPLACED.items()})
    with _absent_packages(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # timm's: LAVIS knows its modules by older names
        warnings.simplefilter("ignore", SyntaxWarning)  # Python 3.12's: LAVIS' regular expressions are no raw strings
        importlib.import_module("lavis")


def _refuse_absent_or_shadowed() -> None:
    """ModuleNotFoundError: no LAVIS, or another `lavis` before the installed one, as in a checkout of LAVIS' own."""
    found = find_spec("lavis")
    if found is None:
        remedy = f"{INSTALL}    (without its dependencies, whose pins are of 2023; the extra lavis has them)"
        raise ModuleNotFoundError(f"LAVIS is missing in {sys.prefix}: {remedy}", name="lavis")
    try:
        installed = Path(str(distribution("salesforce-lavis").locate_file("lavis/__init__.py")))
    except PackageNotFoundError:
        installed = Path()
    origin = Path(found.origin or next(iter(found.submodule_search_locations or ()), ""))
    if installed.is_file() and not (origin.exists() and origin.samefile(installed)):
        raise ModuleNotFoundError(
            f"{origin} shadows LAVIS 1.0.2 in {installed.parent}: start from another folder, use the command "
            "lavis-mafa, which does not look for modules in the current folder, or take it out of PYTHONPATH",
            name="lavis",
        )


def _set_output_embeddings(self: Any, decoder: nn.Linear) -> None:
    self.cls.predictions.decoder, self.cls.predictions.bias = decoder, decoder.bias


def _init_weights_by_post_init(self: Any) -> None:
    """LAVIS' constructors end with init_weights(); since 5.0 post_init() must come first, which calls it in turn.

    Every part is then drawn in the order of 4.26, those of an inner network twice, so that a seed gives the weights
    that it gave there.
    """
    if "all_tied_weights_keys" in vars(self):  # post_init() asks
        return
    self.post_init()
    self.apply(self._init_weights)
    self.tie_weights()


def _tie_bias(self: Any) -> None:
    self.decoder.bias = self.bias


def _fit_bert(module: Any) -> None:
    """Say of the BERTs in a module of LAVIS' what transformers no longer finds out by itself."""
    base, initialise = module.BertPreTrainedModel, module.BertPreTrainedModel._init_weights

    def initialise_part(self: Any, part: nn.Module) -> None:
        initialise(self, part)
        if isinstance(part, module.BertEmbeddings):  # since 5.0 from_pretrained fills no buffer that a file lacks
            part.position_ids.copy_(torch.arange(part.position_ids.shape[1]))

    base._init_weights = initialise_part
    # since 4.46 the row of a new token is else drawn from the distribution of the others
    base.resize_token_embeddings = partialmethod(PreTrainedModel.resize_token_embeddings, mean_resizing=False)
    if hasattr(PreTrainedModel, "get_expanded_tied_weights_keys"):
        base.init_weights = _init_weights_by_post_init
    for name in ("BertForMaskedLM", "BertLMHeadModel"):
        if head := getattr(module, name, None):
            head._tied_weights_keys, head.set_output_embeddings = dict(TIED), _set_output_embeddings
            module.BertLMPredictionHead._tie_weights = _tie_bias  # what transformers 4 asks after reading a file


_import_lavis()
for _name in ("med", "blip_models.nlvr_encoder", "blip2_models.Qformer"):
    _fit_bert(importlib.import_module(f"lavis.models.{_name}"))
