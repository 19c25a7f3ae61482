"""What the authors publish loads whole, at full size; and a BERT's token types count, wherever one is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import lavis_mafa.compat  # noqa: F401  before the first import of lavis

import pytest
import torch
from lavis.models import med
from lavis.models.blip2_models import Qformer
from transformers import BertConfig, BertForMaskedLM, BertModel

from lavis_mafa.models.bert import TOKEN_TYPES, fold_token_types, start_from_bert
from tests.models import published
from tests.models.tiny import CAPTIONS, MED_ALBEF, QFORMER
from tests.models.tiny_albef import ALBEF_BERT, tiny_mafa_albef

PRETRAINING = ("albef", "grit_vlp")
RETRIEVAL = ("albef_retrieval", "grit_vlp_retrieval")


@contextmanager
def published_file(name: str, path: Path) -> Iterator[list[Any]]:
    """Whatever is read is this file; yields what each `fit_state` found."""
    from lavis_mafa.models import pretrained
    from lavis_mafa.models.meta import on_meta_device

    path.touch()
    state, fits, fit_state = published.on_meta(published.FILES[name]()), [], pretrained.fit_state

    def noted(*args: Any) -> Any:
        fits.append(fit_state(*args))
        return fits[-1]

    with ExitStack() as stack:
        stack.enter_context(on_meta_device())
        for owner, attribute, answer in (
            (pretrained, "read_state_dict", lambda file: dict(state)),
            (pretrained, "fit_state", noted),
            (torch, "load", lambda file, **more: {"model": dict(state)}),  # LAVIS' own
        ):
            stack.enter_context(mock.patch.object(owner, attribute, answer))
        yield fits


def loaded(arch: str, name: str, path: Path, key: str = "pretrained", **more: Any) -> Any:
    """What the model of `arch` took of the published file."""
    from lavis.common.registry import registry
    from omegaconf import OmegaConf

    model_cls: Any = registry.get_model_class(arch)
    model_type = "pretrain" if arch == "mafa_blip2" else "base"
    config = OmegaConf.load(model_cls.default_config_path(model_type)).model
    config.update({"load_pretrained": False, f"load_{key}": True, key: str(path), **more})
    with published_file(name, path) as fits:
        model_cls.from_config(config)
    (fit,) = fits
    return fit


@pytest.mark.parametrize("name", PRETRAINING)
@pytest.mark.parametrize("image_size", [256, 384])
def test_student_takes_a_pretraining_file_whole(name: str, image_size: int, tmp_path: Path) -> None:
    fit = loaded("mafa_albef", name, tmp_path / "ALBEF.pth", image_size=image_size)
    assert not fit.missing and not fit.unexpected and len(fit.loaded) > 400


def test_blip2_student_takes_all_but_the_tower(tmp_path: Path) -> None:
    fit = loaded("mafa_blip2", "blip2", tmp_path / "blip2.pth")
    assert not fit.unexpected and all(key.startswith("visual_encoder.") for key in fit.missing)


START = {
    "mafa_albef_retrieval": (),
    "mafa_albef_lavis": (),
    "mafa_albef_vqa": (),
    "mafa_albef_nlvr": ("cls_head.",),
}
MOMENTUM = ("visual_encoder_m.", "text_encoder_m.", "text_decoder_m.", "vision_proj_m.", "text_proj_m.", "cls_head_m.")
QUEUES = ("image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue")


@pytest.mark.parametrize("name", PRETRAINING)
@pytest.mark.parametrize("arch", START)
def test_fine_tuning_starts_from_a_pretraining_file(arch: str, name: str, tmp_path: Path) -> None:
    fit = loaded(arch, name, tmp_path / "ALBEF.pth", image_size=384)
    assert not fit.unexpected and len(fit.loaded) > 300
    assert all(key.startswith(START[arch] + MOMENTUM + QUEUES) for key in fit.missing)


@pytest.mark.parametrize(
    ("arch", "name", "key", "new"),
    [
        ("mafa_albef_retrieval", "albef_retrieval", "finetuned", ()),
        ("mafa_albef_retrieval", "grit_vlp_retrieval", "finetuned", ()),
        ("mafa_albef_vqa", "albef_vqa", "finetuned", ()),
        ("mafa_albef_nlvr", "albef_nlvr_pretrain", "pretrained", ("cls_head.",)),
    ],
)
def test_a_task_takes_its_own_published_file(
    arch: str, name: str, key: str, new: tuple[str, ...], tmp_path: Path
) -> None:
    fit = loaded(arch, name, tmp_path / "task.pth", key, image_size=384)
    assert not fit.unexpected and len(fit.loaded) > 300
    assert all(key.startswith(new + MOMENTUM + QUEUES) for key in fit.missing)


JUDGES = [
    *(("mafa_albef", "base", name) for name in PRETRAINING + RETRIEVAL),
    *(("mafa_albef_retrieval", "base", name) for name in RETRIEVAL),
    *(("albef_retrieval", "coco", name) for name in RETRIEVAL),  # LAVIS' own
    ("blip_image_text_matching", "base", "blip_retrieval"),
    ("blip_retrieval", "coco", "blip_retrieval"),
    ("mafa_blip2", "pretrain", "blip2"),
    ("blip2_image_text_matching", "pretrain", "blip2"),
]


@pytest.mark.parametrize(("arch", "model_type", "name"), JUDGES)
def test_con_d_takes_a_published_file_whole(arch: str, model_type: str, name: str, tmp_path: Path) -> None:
    """`build_network` refuses a gap in LAVIS' networks too."""
    from lavis_mafa.scorers import networks

    path = tmp_path / "weights.pth"
    section = {"arch": arch, "model_type": model_type, "image_size": 224 if "blip2" in arch else 384}
    section |= {"load_finetuned": True, "finetuned": str(path)}
    found: list[Any] = []
    load_state_dict = torch.nn.Module.load_state_dict

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(load_state_dict(self, *args, **kwargs))
        return found[-1]

    with (
        published_file(name, path) as fits,
        mock.patch.object(networks, "fingerprint", lambda model: "meta"),
        mock.patch.object(torch.nn.Module, "load_state_dict", noted),
    ):
        networks.build_network(section, torch.device("meta"), "run.con_d", (arch,))
    if arch.startswith("mafa_"):
        (fit,) = fits
        assert not fit.unexpected
        no_score = ("text_encoder.cls.", "visual_encoder.") if "blip2" in arch else ("text_encoder.cls.",)
        assert all(key.startswith(no_score + MOMENTUM + QUEUES) for key in fit.missing)
    else:
        assert not any("token_type" in key for key in found[-1].unexpected_keys)


# ---- token types


SMALL = published.Size(
    width=32, inner=48, layers=4, fusion=2, words=89, positions=64, patch=8, blocks=2, embed=16, queue=8
)


def tokens_of(model: Any) -> Any:
    return model.tokenize(CAPTIONS)


def reference_text(state: dict[str, Any], tokens: Any) -> torch.Tensor:
    """States (B, T, E) after the text half, by transformers' BERT, which has token types: fusion comes after it."""
    half = BertModel(BertConfig(**ALBEF_BERT | {"vocab_size": 89, "num_hidden_layers": 2}), add_pooling_layer=False)
    prefix = "text_encoder.bert."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    assert not half.load_state_dict(own, strict=False).missing_keys
    return half.eval()(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state


def student_of(state: dict[str, Any]) -> Any:
    from lavis_mafa.models.albef.parts import adapt_albef
    from lavis_mafa.models.weights import fit_state

    model = tiny_mafa_albef().eval()
    fit_state(model, adapt_albef(state, model), "ALBEF.pth")
    return model


@torch.no_grad()
def test_features_and_matching_are_those_of_a_bert_with_token_types() -> None:
    from lavis_mafa.models.albef.pretrain import AlbefState

    state = published.drawn(published.albef(SMALL, image=16))
    model, rows = student_of(state), torch.arange(len(CAPTIONS))
    tokens, images = tokens_of(model), model.visual_encoder(torch.randn(len(CAPTIONS), 3, 16, 16))
    expected, real = reference_text(state, tokens), tokens.attention_mask.bool()
    torch.testing.assert_close(model.text_embeds(tokens)[real], expected[real], atol=1e-5, rtol=0)
    logits = model.match_logits(AlbefState(images, expected, tokens), rows, rows)
    torch.testing.assert_close(
        model.match_logits(model.pair_state(images, tokens), rows, rows), logits, atol=1e-5, rtol=0
    )
    dropped = student_of({key: value for key, value in state.items() if not key.endswith(TOKEN_TYPES)})
    assert (dropped.text_feat(dropped.text_embeds(tokens)) - model.text_feat(expected)).abs().max() > 0.1
    moved = dropped.match_logits(dropped.pair_state(images, tokens), rows, rows)
    assert (moved - logits).abs().max() > 0.1


BERTS: dict[str, Any] = {
    "albef": (med.BertForMaskedLM, BertConfig(**MED_ALBEF | {"fusion_layer": 4, "vocab_size": 64})),
    "q-former": (Qformer.BertLMHeadModel, BertConfig(**QFORMER, query_length=0, add_cross_attention=False)),
}


@pytest.mark.parametrize("kind", BERTS)
@torch.no_grad()
def test_a_start_from_bert_reads_a_text_as_bert_does(kind: str, tmp_path: Path) -> None:
    """LAVIS' own start drops the row, its BLIP-2's too: that stays as it is in its classes."""
    network, config = BERTS[kind]
    torch.manual_seed(0)
    source = BertForMaskedLM(BertConfig(**QFORMER, initializer_range=0.5)).eval()
    source.save_pretrained(tmp_path)
    ids = torch.randint(5, 64, (3, 9))
    expected = source.bert(ids).last_hidden_state
    run = partial(_states, kind=kind, ids=ids)
    torch.testing.assert_close(run(start_from_bert(network, str(tmp_path), config)), expected, atol=1e-5, rtol=0)
    assert (run(network.from_pretrained(tmp_path, config=config)) - expected).abs().max() > 0.1


def _states(model: Any, kind: str, ids: torch.Tensor) -> torch.Tensor:
    mode = {"mode": "text"} if kind == "albef" else {}
    return model.eval().bert(ids, torch.ones_like(ids), return_dict=True, **mode).last_hidden_state


def test_half_precision_is_added_in_float32_and_a_row_that_fits_nothing_is_left() -> None:
    state = {
        "x.embeddings.position_embeddings.weight": torch.ones(4, 2).half(),
        f"x.{TOKEN_TYPES}": torch.full((2, 2), 1e-4),
    }
    (value,) = fold_token_types(state).values()
    assert torch.equal(value, torch.full((4, 2), 1 + 1e-4))
    for odd in (torch.zeros(2, 3), torch.zeros(2), torch.zeros(())):
        assert fold_token_types(state | {f"x.{TOKEN_TYPES}": odd}).keys() == state.keys()
    assert fold_token_types({f"x.{TOKEN_TYPES}": torch.zeros(2, 2)})
