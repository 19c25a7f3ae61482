"""Full-size models on the meta device: the published checkpoints' keys and shapes, without their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import BertConfig, BertTokenizer, BertTokenizerFast

BERT_ROWS = 30522


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary as long as BERT's; its words do not matter here."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join(special + [f"w{word}" for word in range(BERT_ROWS - len(special))]))
    return path


@contextmanager
def on_meta_device(vocabulary: Path) -> Iterator[None]:
    """LAVIS' constructors fetch by name and ask tensors for values: both are answered on the CPU."""
    from lavis.models import clip_vit, eva_vit
    from lavis.models.blip2_models.Qformer import BertLMHeadModel

    with (
        mock.patch.dict("os.environ", HF_HUB_OFFLINE="1"),
        mock.patch.object(BertTokenizer, "from_pretrained", lambda name: BertTokenizer(str(vocabulary))),
        mock.patch.object(BertTokenizerFast, "from_pretrained", lambda name: BertTokenizerFast(str(vocabulary))),
        mock.patch.object(
            BertConfig, "from_pretrained", lambda name: BertConfig()
        ),  # the defaults are bert-base-uncased
        mock.patch.object(BertLMHeadModel, "from_pretrained", lambda name, config: BertLMHeadModel(config)),
        mock.patch("lavis_mafa.models.bert.token_types", lambda name: None),
        mock.patch.object(eva_vit, "download_cached_file", lambda *args, **kwargs: "any"),
        mock.patch.object(clip_vit, "download_cached_file", lambda *args, **kwargs: "any"),
        mock.patch.object(torch, "load", lambda *args, **kwargs: {}),
        mock.patch.object(torch, "linspace", partial(torch.linspace, device="cpu")),
        torch.device("meta"),
    ):
        yield


def built(arch: str, model_type: str, vocabulary: Path) -> nn.Module:
    """The model of the registry from its own config, no checkpoint loaded."""
    from lavis.common.registry import registry

    model_cls: Any = registry.get_model_class(arch)
    config = OmegaConf.load(model_cls.default_config_path(model_type)).model
    config.update(load_finetuned=False, load_pretrained=False)
    no_load = mock.patch.object(model_cls, "load_checkpoint_from_config", lambda self, cfg: None)
    with on_meta_device(vocabulary), no_load:
        model: nn.Module = model_cls.from_config(config)
    return model


@pytest.mark.parametrize("model_type", ["pretrain", "pretrain_vitL", "coco"])
def test_state_dict_is_lavis_state_dict(model_type: str, vocabulary: Path) -> None:
    ours, theirs = (built(arch, model_type, vocabulary) for arch in ("mafa_blip2", "blip2"))
    found, expected = ours.state_dict(), theirs.state_dict()
    assert next(iter(found.values())).is_meta
    assert len(expected) > 600  # the whole network, not a stand-in
    assert {key: (value.shape, value.dtype) for key, value in found.items()} == {
        key: (value.shape, value.dtype) for key, value in expected.items()
    }
    assert found["Qformer.bert.embeddings.word_embeddings.weight"].shape == (BERT_ROWS + 1, 768)  # [DEC] is appended
    frozen = {name for name, value in ours.named_parameters() if not value.requires_grad}
    assert frozen == {name for name, value in theirs.named_parameters() if not value.requires_grad}
    assert ours.origin["Qformer"] == "own file bert-base-uncased"
    assert ours.origin["visual_encoder"] == f"own file {'clip_L' if model_type == 'pretrain_vitL' else 'eva_clip_g'}"
