"""Weights in and out: what fits, what is refused key by key, and what LAVIS and we read of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.models.tiny import QFORMER, VOCAB, lavis_blip2, loud, tiny_blip2

WORDS = "Qformer.bert.embeddings.word_embeddings.weight"
VOCABULARY = (WORDS, *(f"Qformer.cls.predictions.{name}" for name in ("bias", "decoder.weight", "decoder.bias")))
State = dict[str, Tensor]


def state_of(model: nn.Module) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def fit(model: nn.Module, state: State, **options: Any) -> Any:
    from lavis_mafa.models.weights import fit_state

    return fit_state(model, state, "given.pth", **options)


# ---- vocabulary


@pytest.mark.parametrize("appended", [-2, -1, 1, 2])
def test_vocabulary_of_other_length_is_filled_row_by_row(appended: int) -> None:
    """Published BLIP-2 has 30523 rows, BERT 30522: here the last rows stand for [DEC]."""
    model, given = tiny_blip2(), state_of(loud(tiny_blip2(), seed=7))
    rows = len(given[WORDS])
    for key in VOCABULARY:
        whole = given[key]
        given[key] = whole[:appended] if appended < 0 else torch.cat([whole, whole[:appended] + 9])
    before = state_of(model)
    found = fit(model, given)
    after = model.state_dict()
    kept = rows + min(appended, 0)
    for key in VOCABULARY:
        assert torch.equal(after[key][:kept], given[key][:kept]), key
        assert torch.equal(after[key][kept:], before[key][kept:]), key  # [DEC] as the model initialised it
    assert f"{WORDS}: {rows + appended} rows into {rows}" in found.notes and not found.misfits
    assert torch.equal(after["itm_head.weight"], given["itm_head.weight"])


def test_another_vocabulary_is_refused() -> None:
    """Rows of other words are not rows of this model's words, however well their width fits."""
    model, given = tiny_blip2(), state_of(tiny_blip2())
    given |= {key: given[key][:-10] for key in VOCABULARY}
    with pytest.raises(ValueError, match=WORDS):
        fit(model, given)


# ---- what does not fit


def test_every_misfit_is_reported_and_nothing_is_loaded() -> None:
    model, given = tiny_blip2(), state_of(loud(tiny_blip2(), seed=7))
    before = state_of(model)
    del given["itm_head.bias"]
    given["teacher.weight"] = torch.zeros(1)
    given["vision_proj.weight"] = torch.zeros(16, 8)
    with pytest.raises(ValueError) as error:
        fit(model, given)
    lines = str(error.value).splitlines()
    assert "given.pth" in lines[0]
    assert "  missing: itm_head.bias" in lines
    assert "  unexpected: teacher.weight" in lines
    assert "  vision_proj.weight: shape (16, 8), the model has (16, 32)" in lines
    assert "choose the model_type" in lines[-1]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_many_misfits_are_counted() -> None:
    with pytest.raises(ValueError, match=r"… and \d+ keys more"):
        fit(tiny_blip2(), {})


def test_positions_of_old_checkpoints_do_not_matter() -> None:
    given = state_of(tiny_blip2())
    given["Qformer.bert.embeddings.old.position_ids"] = torch.arange(4)
    found = fit(tiny_blip2(), given)
    assert "query_tokens" in found.loaded and found.missing == []


@pytest.mark.parametrize("edit", ["drop", "cut"])
def test_tower_may_be_left_out_but_not_come_in_part(edit: str) -> None:
    given = state_of(tiny_blip2())
    tower = [key for key in given if key.startswith("visual_encoder.")]
    if edit == "drop":
        del given[tower[0]]
    else:
        given[tower[0]] = given[tower[0]][..., :1]
    with pytest.raises(ValueError, match=tower[0]):
        fit(tiny_blip2(), given, may_miss=("visual_encoder.",))
    whole = {key: value for key, value in given.items() if key not in tower}
    assert set(fit(tiny_blip2(), whole, may_miss=("visual_encoder.",)).missing) == set(tower)


# ---- files


def test_safetensors_and_torch_files_give_the_same(tmp_path: Path) -> None:
    from lavis_mafa.models.weights import read_state_dict

    state = {"a": torch.randn(2, 3), "b": torch.arange(4)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"model": state, "epoch": 3, "config": {"run": {"lr": 1e-4}}}, tmp_path / "lavis.pth")
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    for name in ("w.safetensors", "bare.pth", "lavis.pth", "other.pth"):
        found = read_state_dict(tmp_path / name)
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state), name


def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    from lavis_mafa.models.weights import read_state_dict

    class Runs:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"model": {"a": torch.zeros(1)}, "args": Runs()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"could run code; save its state_dict again, best as \.safetensors"):
        read_state_dict(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("kept", [0, 40, 0.5])
def test_torn_file_is_reported(name: str, kept: float, tmp_path: Path) -> None:
    from lavis_mafa.models.weights import read_state_dict

    path, state = tmp_path / name, {"a": torch.randn(50, 50)}
    torch.save(state, path) if name.endswith(".pth") else save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=f"{name} .*(damaged|Python objects)"):
        read_state_dict(path)


def test_missing_and_foreign_files_are_reported(tmp_path: Path) -> None:
    from lavis_mafa.models.weights import read_state_dict

    with pytest.raises(ValueError, match=r"gone\.pth is missing"):
        read_state_dict(tmp_path / "gone.pth")
    torch.save({"model": {"a": 1}}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="not a state_dict"):
        read_state_dict(tmp_path / "odd.pth")


# ---- load_pretrained, load_finetuned, origin


def config(**keys: Any) -> dict[str, Any]:
    sizes = {"image_size": 16, "vit_model": "small_vit", "vit_precision": "fp32", "freeze_vit": False}
    return {**sizes, "vocab": str(VOCAB), "qformer": QFORMER, "num_query_token": 4, "embed_dim": 16, **keys}


def built(**keys: Any) -> Any:
    from lavis_mafa.models.blip2.stage1 import MafaBlip2

    torch.manual_seed(0)
    return MafaBlip2.from_config(config(**keys))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"model": loud(tiny_blip2(), seed=7).state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_no_weights_are_loaded_where_they_are_switched_off(weights: Path) -> None:
    model = built(load_pretrained=False, pretrained="gone.pth", load_finetuned=False, finetuned="gone.pth")
    torch.manual_seed(0)
    assert torch.equal(model.itm_head.weight, tiny_blip2().itm_head.weight)
    assert set(model.origin.values()) == {"initialised"}


@pytest.mark.parametrize(
    "switches",
    [
        {"load_pretrained": True, "pretrained": "weights", "finetuned": "gone.pth"},
        {"load_finetuned": True, "finetuned": "weights", "pretrained": "gone.pth"},
        {"load_finetuned": True, "finetuned": "weights", "load_pretrained": False},
    ],
)
def test_the_switch_chooses_the_file(switches: dict[str, Any], weights: Path) -> None:
    model = built(**{key: str(weights) if value == "weights" else value for key, value in switches.items()})
    given = torch.load(weights)["model"]
    assert all(torch.equal(value, given[key]) for key, value in model.state_dict().items())
    assert model.origin["itm_head"] == f"2 of 2 tensors from {weights}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"load_pretrained": True}, "model.pretrained is not set"),
        ({"load_finetuned": True, "finetuned": ""}, "model.finetuned is not set"),
        ({"load_pretrained": True, "pretrained": "gone.pth"}, "gone.pth"),
    ],
)
def test_weights_that_are_asked_for_must_be_there(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**keys)


def test_origin_tells_tower_and_checkpoint_apart(weights: Path, tmp_path: Path) -> None:
    """A checkpoint without the frozen tower, as LAVIS and we save it: the tower is its own file's."""
    tower = tower_file(tmp_path, tiny_blip2())
    state = {key: value for key, value in torch.load(weights)["model"].items() if not key.startswith("visual_encoder.")}
    save_file(untied(state), tmp_path / "qformer.safetensors")
    path = str(tmp_path / "qformer.safetensors")
    model = built(pretrained=path, vit_weights=str(tower), freeze_vit=True)
    assert model.origin["visual_encoder"] == f"own file {tower}"
    assert path in model.origin["Qformer"] and path in model.origin["query_tokens"]


def test_nan_of_a_part_with_a_file_of_its_own_is_named() -> None:
    """Files that transformers and open_clip read, not we."""
    from lavis_mafa.models.pretrained import load_from_config

    model = tiny_blip2()
    model.part_files = {"Qformer": "some/bert"}
    with torch.no_grad():
        model.Qformer.bert.embeddings.word_embeddings.weight[3] = torch.nan
    with pytest.raises(ValueError, match=rf"Qformer \(own file some/bert\) has NaN or infinity in {WORDS}"):
        load_from_config(model, {"load_pretrained": False})


def tower_file(folder: Path, model: Any) -> Path:
    save_file(untied(model.visual_encoder.state_dict()), folder / "tower.safetensors", {"config": '{"image_size": 16}'})
    return folder / "tower.safetensors"


def untied(state: State) -> State:
    """safetensors keeps no two names of one tensor."""
    return {key: value.clone() for key, value in state.items()}


# ---- ours in LAVIS, LAVIS' in ours


@pytest.fixture
def frozen(tmp_path: Path) -> Any:
    tower = tower_file(tmp_path, loud(tiny_blip2(), seed=3))
    return loud_but_tower(tiny_blip2(vit={"freeze_vit": True, "vit_weights": str(tower)}))


def loud_but_tower(model: Any) -> Any:
    tower = state_of(model.visual_encoder)
    loud(model, seed=7)
    model.visual_encoder.load_state_dict(tower)
    return model


@pytest.mark.parametrize("freeze_vit", [True, False])
@torch.no_grad()
def test_plain_lavis_reads_our_checkpoint(freeze_vit: bool, frozen: Any, batch: dict[str, Any], tmp_path: Path) -> None:
    from lavis_mafa.models.trained import trained_state
    from lavis_mafa.runners import checkpoint

    ours = frozen if freeze_vit else loud(tiny_blip2())
    state = trained_state(ours)
    assert any(key.startswith("visual_encoder.") for key in state) is not freeze_vit
    checkpoint.write(tmp_path / "ours.pth", {"model": state, "epoch": 1})
    theirs = lavis_blip2().eval()
    if freeze_vit:
        theirs.visual_encoder.load_state_dict(ours.visual_encoder.state_dict())  # as LAVIS' constructor does by itself
    result = theirs.load_checkpoint(str(tmp_path / "ours.pth"))
    assert not result.unexpected_keys
    assert all(key.startswith("visual_encoder.") and freeze_vit for key in result.missing_keys)
    for mode, name in (("image", "image_embeds_proj"), ("text", "text_embeds_proj")):
        expected = theirs.extract_features(batch, mode)[name]
        found = (
            ours.encode_image(ours.vision_tokens(batch))[1]
            if mode == "image"
            else ours.extract_features(batch, mode)[name]
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert ours.extract_features(batch, "text").text_embeds_proj.std() > 0.01


@torch.no_grad()
def test_we_read_what_lavis_runner_saves(frozen: Any, batch: dict[str, Any], tmp_path: Path) -> None:
    """LAVIS' own _save_checkpoint, which leaves frozen parameters out."""
    from lavis.runners.runner_base import RunnerBase

    theirs = lavis_blip2(frozen, freeze_vit=True).eval()
    runner = mock.MagicMock(model=theirs, scaler=None, output_dir=str(tmp_path))
    runner.unwrap_dist_model = lambda model: model
    runner.optimizer.state_dict.return_value = {"state": {}}
    runner.config.to_dict.return_value = {"run": {"task": "image_text_pretrain"}}
    RunnerBase._save_checkpoint(runner, 0)
    tower = tmp_path / "tower.safetensors"
    model = built(pretrained=str(tmp_path / "checkpoint_0.pth"), vit_weights=str(tower), freeze_vit=True).eval()
    own = frozen.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())


def test_frozen_tower_that_came_with_a_checkpoint_is_saved(weights: Path, tmp_path: Path) -> None:
    """Its own file would give other weights, or there is none: what is saved must be whole."""
    from lavis_mafa.models.trained import trained_state

    for keys in ({"freeze_vit": True}, {"freeze_vit": True, "vit_weights": str(tower_file(tmp_path, tiny_blip2()))}):
        model = built(pretrained=str(weights), **keys)
        state = trained_state(model)
        torch.save({"model": state}, tmp_path / "again.pth")
        again = built(pretrained=str(tmp_path / "again.pth"), **keys)
        given = torch.load(weights)["model"]
        assert all(torch.equal(value, given[key]) for key, value in again.state_dict().items())


def test_trained_state_leaves_out_what_the_tower_file_gives(frozen: Any) -> None:
    from lavis_mafa.models.trained import trained_state

    left_out = set(frozen.state_dict()) - set(trained_state(frozen))
    assert left_out == {key for key in frozen.state_dict() if key.startswith("visual_encoder.")}
