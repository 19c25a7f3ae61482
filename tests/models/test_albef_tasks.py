"""From a mafa_albef checkpoint to LAVIS' ALBEF of every task: what is loaded, what is new, and that each trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lavis_mafa.compat  # noqa: F401  before the first import of lavis

import pytest
import torch
from lavis.common.registry import registry

from lavis_mafa.scorers.con_d import build_embedder
from lavis_mafa.scorers.embedders import embed_images, embed_texts
from tests.models.tiny import VOCAB
from tests.models.tiny_albef import ALBEF_BERT, tiny_mafa_albef, tiny_vit

NOW = {"epoch": 0, "iters": 1, "num_iters_per_epoch": 2}
# LAVIS' ViT of 12 layers is too large for a test; small_vit has a class token too
CONFIG = {
    "vit_model": "small_vit",
    "image_size": 16,
    "vocab": str(VOCAB),
    "text_encoder": {**ALBEF_BERT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "embed_dim": 16,
    "max_txt_len": 24,
    "queue_size": 12,
}


def config(checkpoint: Path | None, **more: Any) -> dict[str, Any]:
    return {**CONFIG, "load_pretrained": checkpoint is not None, "pretrained": str(checkpoint), **more}


def build(arch: str, checkpoint: Path | None, **more: Any) -> Any:
    return registry.get_model_class(arch).from_config(config(checkpoint, **more))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    torch.manual_seed(4)
    model = build("mafa_albef", None)
    path = tmp_path_factory.mktemp("albef") / "model.pth"
    torch.save({"model": model.state_dict(), "teacher": None}, path)
    return model.eval(), path


def test_retrieval_matches_and_embeds_as_the_pretrained_model(pretrained: Any, batch: dict[str, Any]) -> None:
    source, path = pretrained
    model = build("mafa_albef_retrieval", path).eval()
    assert model.origin["text_encoder"].startswith("89 of 89 tensors from")
    ours, theirs = source.encode(batch), model.encode_image(model.vision_tokens(batch))
    torch.testing.assert_close(theirs[1], ours.image_feat)
    state, rows = model.pair_state(theirs[0], model.tokenize(batch["text_input"])), torch.arange(6)
    torch.testing.assert_close(model.match_logits(state, rows, rows), source.match_logits(ours.state, rows, rows))
    for parameter, copied in zip(model.text_encoder.parameters(), model.text_encoder_m.parameters(), strict=True):
        assert torch.equal(parameter, copied)


WHOLE = r"(\d+) of \1 tensors from"
HEADS = "vision_proj, text_proj, itm_head, temp"


@pytest.mark.parametrize(
    ("arch", "weights", "unused"),
    [
        ("retrieval", {"itm_head": WHOLE, "temp": WHOLE, "image_queue": "initialised$"}, "text_encoder.cls"),
        ("vqa", {"text_decoder": r"\d+ of \d+ tensors from", "text_decoder_m": "a copy$"}, HEADS),
        ("nlvr", {"cls_head": "initialised$", "cls_head_m": "a copy$"}, f"{HEADS}, text_encoder.cls"),
    ],
)
def test_what_is_loaded_what_is_new_and_what_is_not_used_is_reported(
    arch: str, weights: dict[str, str], unused: str, pretrained: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        model = build(f"mafa_albef_{arch}", pretrained[1])
    common = {
        "visual_encoder": WHOLE,
        "text_encoder": WHOLE,
        "visual_encoder_m": "a copy$",
        "text_encoder_m": "a copy$",
    }
    report = dict(line.removeprefix("weights of ").split(": ", 1) for line in caplog.messages if "weights of " in line)
    for part, expected in {**common, **weights}.items():
        assert re.match(expected, report[part]), f"{part}: {report[part]}"
    assert set(report) == {key.split(".")[0] for key in model.state_dict()}
    assert all(str(pretrained[1]) in line for line in report.values() if " tensors from " in line)
    assert f"not used by {type(model).__name__}: {unused}" in caplog.messages


def test_retrieval_serves_as_embedder_and_con_d(pretrained: Any, batch: dict[str, Any]) -> None:
    source, path = pretrained
    arch = {"arch": "mafa_albef_retrieval", "model_type": "base", "vit_weights": None, "bert": None}
    scorer = build_embedder({**arch, **config(path)}, torch.device("cpu"), "model")
    torch.testing.assert_close(embed_images(scorer.model, batch), source.encode(batch).image_feat)
    torch.testing.assert_close(
        embed_texts(scorer.model, batch["text_input"]), source.encode_text(source.tokenize(batch["text_input"]))
    )
    raw, rows = {**batch, "caption": batch["text_input"]}, torch.arange(6)
    theirs = source.match_logits(source.encode(batch).state, rows, rows).softmax(1)[:, 1]
    torch.testing.assert_close(scorer.score(raw, rows, rows), theirs)


def test_retrieval_trains(pretrained: Any, batch: dict[str, Any]) -> None:
    model = build("mafa_albef_retrieval", pretrained[1]).train()
    output = model({**batch, **NOW})
    output["loss"].backward()
    assert torch.isfinite(output["loss"]) and model.itm_head.weight.grad.abs().sum() > 0
    assert not torch.equal(model.image_queue[:, :6], build("mafa_albef_retrieval", None).image_queue[:, :6])


def questions(batch: dict[str, Any]) -> dict[str, Any]:
    answers = {"answer": ["red", "blue", *(["dog"] * 5)], "n_answers": torch.tensor([2, 1, 1, 1, 1, 1])}
    return {**batch, **answers, "weight": torch.tensor([0.5, 0.5, 1, 1, 1, 1, 1]), **NOW}


def test_vqa_decodes_by_the_fusion_half_and_the_mlm_head(pretrained: Any, batch: dict[str, Any]) -> None:
    source, path = pretrained
    model = build("mafa_albef_vqa", path)
    # the tower is 128 wide, BERT 32: keys and values of two layers, weights and biases, have no source
    total = len(model.text_decoder.state_dict())
    assert model.origin["text_decoder"].startswith(f"{total - 8} of {total} tensors")
    assert model.origin["text_encoder"].startswith("89 of 89 tensors")
    theirs, ours = source.state_dict(), model.state_dict()
    for end in ("crossattention.self.query.weight", "attention.self.query.weight"):
        for layer in (0, 1):
            assert torch.equal(
                ours[f"text_decoder.bert.encoder.layer.{layer}.{end}"],
                theirs[f"text_encoder.bert.encoder.layer.{layer + 2}.{end}"],
            )
    key = "cls.predictions.decoder.weight"
    assert torch.equal(ours[f"text_decoder.{key}"], theirs[f"text_encoder.{key}"])
    model.train()(questions(batch))["loss"].backward()
    assert model.text_decoder.bert.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0


def test_where_the_widths_agree_the_decoder_has_nothing_new() -> None:
    from lavis_mafa.models.albef.tasks import MafaAlbefVqa
    from lavis_mafa.models.text import load_tokenizer

    source, tokenizer = tiny_mafa_albef(), load_tokenizer(str(VOCAB))
    parts = MafaAlbefVqa.text_parts({"text_encoder": ALBEF_BERT}, 32, len(tokenizer))
    model = MafaAlbefVqa(tokenizer, image_encoder=tiny_vit(), **parts)
    found = model.adapted(source.state_dict(), model)
    momentum = ("visual_encoder_m.", "text_encoder_m.", "text_decoder_m.")
    assert {key for key in model.state_dict() if not key.startswith(momentum)} == set(found)
    key = "crossattention.self.key.weight"
    theirs = source.state_dict()[f"text_encoder.bert.encoder.layer.3.{key}"]
    assert torch.equal(found[f"text_decoder.bert.encoder.layer.1.{key}"], theirs)


def test_ranking_neither_asks_nor_moves_the_momentum_copy(pretrained: Any, batch: dict[str, Any]) -> None:
    model = build("mafa_albef_vqa", pretrained[1]).eval()
    with torch.no_grad():
        model.text_encoder.embeddings.word_embeddings.weight.add_(1.0)
        before = model.text_encoder_m.embeddings.word_embeddings.weight.clone()
        first = model.predict_answers({**batch}, ["red", "blue", "dog", "a dog"], 128)
    assert torch.equal(model.text_encoder_m.embeddings.word_embeddings.weight, before)
    assert len(first) == 6 and set(first) <= {"red", "blue", "dog", "a dog"} and model.use_distill


def test_nlvr_has_every_fusion_layer_twice(pretrained: Any, batch: dict[str, Any]) -> None:
    source, path = pretrained
    model = build("mafa_albef_nlvr", path)
    assert model.origin["cls_head"] == "initialised"
    assert len(model.text_encoder.encoder.layer) == 6
    theirs, ours = source.state_dict(), model.state_dict()
    for layer, origin in {0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 5: 3}.items():
        key = "attention.self.query.weight"
        assert torch.equal(
            ours[f"text_encoder.encoder.layer.{layer}.{key}"], theirs[f"text_encoder.bert.encoder.layer.{origin}.{key}"]
        )
    layers = model.text_encoder.encoder.layer
    assert layers[2].crossattention.self.key.weight is layers[3].crossattention.self.key.weight
    images = {"image0": batch["image"], "image1": batch["image"].flip(0), "label": torch.tensor([0, 1] * 3)}
    model.train()({**batch, **images, **NOW})["loss"].backward()
    assert model.cls_head[2].weight.grad.abs().sum() > 0


def test_text_assignment_hands_nlvr_its_layers_but_not_its_head(pretrained: Any, tmp_path: Path) -> None:
    assigned = build("mafa_albef_nlvr", pretrained[1], num_classes=3)
    with torch.no_grad():
        assigned.text_encoder.encoder.layer[3].output.dense.weight.add_(1.0)  # twins no longer
    torch.save(assigned.state_dict(), tmp_path / "ta.pth")
    model = build("mafa_albef_nlvr", tmp_path / "ta.pth")
    assert torch.equal(
        model.text_encoder.encoder.layer[3].output.dense.weight,
        assigned.text_encoder.encoder.layer[3].output.dense.weight,
    )
    assert model.origin["cls_head"] == "initialised"


def test_lavis_own_pretraining_trains_a_step(pretrained: Any, batch: dict[str, Any]) -> None:
    model = build("mafa_albef_lavis", None).train()
    output = model({**batch, **NOW})
    output["loss"].backward()
    assert {"loss_itc", "loss_itm", "loss_mlm"} <= set(output.keys())
    assert set(pretrained[0].state_dict()) <= set(model.state_dict())


def test_lavis_own_pretraining_starts_from_bert_as_ours_does(tmp_path: Path) -> None:
    """Else the ALBEF row of Table 3 would start from less than MAFA's."""
    source = build("mafa_albef", None).text_encoder
    source.save_pretrained(tmp_path / "bert")
    model = build("mafa_albef_lavis", None, bert=str(tmp_path / "bert"))
    for name, value in source.state_dict().items():
        assert torch.equal(model.text_encoder.state_dict()[name], value), name
        assert torch.equal(model.text_encoder_m.state_dict()[name], value), name
    assert model.origin["text_encoder"] == f"own file {tmp_path / 'bert'}"
    with pytest.raises(ValueError, match=r"model.bert: .* is not available here, or is not a BERT"):
        build("mafa_albef_lavis", None, bert=str(tmp_path / "nothing"))


@pytest.mark.parametrize("arch", ["mafa_albef_vqa", "mafa_albef_nlvr"])
def test_a_fine_tuned_model_has_its_head(pretrained: Any, tmp_path: Path, arch: str) -> None:
    """An evaluation would report the figures of a random head."""
    with pytest.raises(ValueError, match="missing: (cls_head|text_decoder)"):
        build(arch, None, load_finetuned=True, finetuned=str(pretrained[1]))
    whole = build(arch, pretrained[1])
    torch.save({"model": whole.state_dict()}, tmp_path / "whole.pth")
    again = build(arch, None, load_finetuned=True, finetuned=str(tmp_path / "whole.pth"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_head_of_other_classes_is_no_fine_tuned_one(tmp_path: Path) -> None:
    torch.save({"model": build("mafa_albef_nlvr", None, num_classes=3).state_dict()}, tmp_path / "three.pth")
    with pytest.raises(ValueError, match="cls_head"):
        build("mafa_albef_nlvr", None, load_finetuned=True, finetuned=str(tmp_path / "three.pth"))


@pytest.mark.parametrize("arch", ["mafa_albef_retrieval", "mafa_albef_vqa", "mafa_albef_nlvr"])
@pytest.mark.parametrize("gap", ["layer.1.", "foreign", "layer.3."])
def test_a_gap_is_an_error(pretrained: Any, tmp_path: Path, arch: str, gap: str) -> None:
    state = {key: value for key, value in pretrained[0].state_dict().items() if gap not in key}
    if gap == "foreign":
        state["foreign.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "gap.pth")
    with pytest.raises(ValueError, match="unexpected: foreign" if gap == "foreign" else "missing: text_"):
        build(arch, tmp_path / "gap.pth")


def test_a_tower_without_a_class_token_is_refused_where_one_is_read() -> None:
    with pytest.raises(ValueError, match="has no class token, which MafaAlbefRetrieval needs"):
        build("mafa_albef_retrieval", None, vit_model="torchvision:mobilenet_v2", image_size=32)


def test_the_momentum_copy_is_a_copy_with_gradient_checkpointing() -> None:
    from lavis.models.vit import VisionTransformerEncoder

    from lavis_mafa.models.albef.tasks import MafaAlbefVqa
    from lavis_mafa.models.text import load_tokenizer

    tokenizer = load_tokenizer(str(VOCAB))
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    tower = VisionTransformerEncoder(**sizes, use_grad_checkpointing=True, ckpt_layer=2)
    model = MafaAlbefVqa(
        tokenizer, image_encoder=tower, **MafaAlbefVqa.text_parts({"text_encoder": ALBEF_BERT}, 32, 99)
    )
    image = torch.randn(1, 3, 16, 16)
    before = model.visual_encoder_m(image)
    with torch.no_grad():
        for parameter in model.visual_encoder.blocks.parameters():
            parameter.add_(0.5)
    torch.testing.assert_close(model.visual_encoder_m(image), before)
