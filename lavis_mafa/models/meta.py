"""Building a full-size model without its weights: shapes on torch's meta device, nothing fetched, no memory taken."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import constants
from lavis.models import clip_vit, eva_vit
from lavis.models.blip2_models.Qformer import BertLMHeadModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BertConfig, BertTokenizer, BertTokenizerFast

from lavis_mafa.models import bert
from lavis_mafa.models.albef import parts

BERT_ROWS = 30522
INHERITED = object()
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@contextmanager
def on_meta_device() -> Iterator[None]:
    """LAVIS' constructors fetch by name and ask tensors for values: both are answered, offline and on the CPU.

    What a hub would have to give for the shape of a network (`hf:NAME`, a language model) is looked for in its cache.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join([*SPECIAL, *(f"w{word}" for word in range(BERT_ROWS - len(SPECIAL)))]))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # that weights copied into meta tensors are lost is the point
        patches: list[tuple[Any, str, Any]] = [
            (BertTokenizer, "from_pretrained", lambda name: BertTokenizer(str(vocabulary))),  # LAVIS'
            (BertTokenizerFast, "from_pretrained", lambda name: BertTokenizerFast(str(vocabulary))),  # ours
            (BertConfig, "from_pretrained", lambda name: BertConfig()),  # the defaults are bert-base-uncased
            (BertLMHeadModel, "from_pretrained", lambda name, config: BertLMHeadModel(config)),
            (bert, "token_types", lambda name: None),
            *((auto, "from_pretrained", _from_config(auto)) for auto in (AutoModelForCausalLM, AutoModelForSeq2SeqLM)),
            (eva_vit, "download_cached_file", lambda *args, **kwargs: "any"),
            (clip_vit, "download_cached_file", lambda *args, **kwargs: "any"),
            (open_clip, "create_model", _untrained(open_clip.create_model)),
            (parts, "start_from_deit", lambda tower, weights: None),
            (parts, "start_from_bert", lambda network, source, config: network(config)),
            (constants, "HF_HUB_OFFLINE", True),
            (torch, "load", lambda *args, **kwargs: {}),
            (torch, "linspace", partial(torch.linspace, device="cpu")),
        ]
        for owner, name, answer in patches:
            stack.enter_context(replaced(owner, name, answer))
        stack.enter_context(torch.device("meta"))
        yield


@contextmanager
def replaced(owner: Any, name: str, answer: Any) -> Iterator[None]:
    """`owner.name` is `answer` meanwhile; what the owner inherits is inherited again afterwards."""
    own = vars(owner).get(name, INHERITED)
    setattr(owner, name, answer)
    try:
        yield
    finally:
        delattr(owner, name) if own is INHERITED else setattr(owner, name, own)


def _from_config(auto: Any) -> Any:
    return lambda source, config, **more: auto.from_config(config)


def _untrained(create_model: Any) -> Any:
    return lambda name, pretrained=None, **more: create_model(name, None, **{**more, "device": "meta"})


def build_on_meta(model_cls: Any, config: Any) -> nn.Module:
    """The model of a `mafa_*` class from its config, no checkpoint loaded; a tower's own file gives its shape."""
    config = {**config, "load_finetuned": False, "load_pretrained": False}
    with on_meta_device():
        model: nn.Module = model_cls.from_config(config)
    return model
