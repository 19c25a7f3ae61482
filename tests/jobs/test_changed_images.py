"""A run that goes on after an image file was replaced: refused, or what was stored of the old one is made anew."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lavis_mafa.data.scenes.dataset import scenes_table
from tests.jobs.commands import rows
from tests.jobs.conftest import StartLife

RUN = """
run: {{batch_size_train: 16, max_epoch: 2, warmup_steps: 1, init_lr: 1.0e-9, warmup_lr: 1.0e-9, min_lr: 0.0,
      test_splits: [], device: cpu, num_workers: 0,
      plugins: [tests.jobs.always], con_d: {{arch: always}}, store_scores: true, cache_tokens: false}}
model: {{arch: mafa_blip2, model_type: scenes}}
datasets: {{image_text: {{images: {0}/images, annotations: {{train: {0}/train.json}},
  vis_processor: {{train: {{name: blip_image_eval, image_size: 48, mean: 0.5, std: 0.5}}}}}}}}
"""
Start = Callable[..., tuple[int, str]]


@pytest.fixture
def start(start_life: StartLife, tmp_path: Path) -> Start:
    """start(*options) → exit status and what was printed, of a run on 16 images in tmp_path.

    It hardly learns, so that its hardest pairs come back.
    """
    table, open_scene, _ = scenes_table(16, seed=5)
    (tmp_path / "images").mkdir()
    found = []
    for record in range(table.n_records):
        open_scene(record).save(tmp_path / "images" / f"{record}.png")
        found.append({"image": f"{record}.png", "caption": table.caption(table.caption_rows(record)[0])})
    (tmp_path / "train.json").write_text(json.dumps(found))
    (tmp_path / "run.yaml").write_text(RUN.format(tmp_path))

    def one(*options: str) -> tuple[int, str]:
        log = tmp_path / "run.log"
        status = start_life(tmp_path / "run.yaml", [f"run.output_dir={tmp_path}/out", *options], log)
        return status, log.read_text()

    return one


def test_an_image_that_was_replaced_is_seen_by_a_resume(start: Start, tmp_path: Path) -> None:
    status, printed = start("run.stop_epoch=1")
    assert status == 0, printed[-3000:]
    (stored,) = (tmp_path / "out" / "connections").glob("merged_*.npy")
    held = stored.read_bytes()
    shutil.copyfile(tmp_path / "images" / "4.png", tmp_path / "images" / "3.png")
    status, printed = start("run.resume_ckpt_path=auto")
    assert status != 0 and "\n  image files: was '16 of " in printed and "run.resume_changes: allow" in printed
    assert stored.read_bytes() == held, "a refused run changes nothing"
    status, printed = start("run.resume_ckpt_path=auto", "run.resume_changes=allow")
    assert status == 0, printed[-3000:]
    (change,) = json.loads((tmp_path / "out" / "results.json").read_text())["resume_changes"]
    assert [*change["settings"]] == ["image files"] and (change["epoch"], change["step"]) == (1, 0)
    first = next(step for step in rows(tmp_path / "out" / "steps.jsonl") if step["epoch"] == 1)
    assert first["scored"] > 0 and first["from_store"] == 0, "scores of the old image are gone"


def test_images_that_moved_go_on_as_they_are(start: Start, tmp_path: Path) -> None:
    assert start("run.stop_epoch=1")[0] == 0
    shutil.copytree(tmp_path / "images", tmp_path / "elsewhere" / "images", copy_function=shutil.copyfile)
    os.utime(tmp_path / "elsewhere" / "images" / "3.png", ns=(10**18, 10**18))
    status, printed = start("run.resume_ckpt_path=auto", f"datasets.image_text.images={tmp_path}/elsewhere/images")
    assert status == 0, printed[-3000:]
    assert "only sizes are compared" in printed
    first = next(step for step in rows(tmp_path / "out" / "steps.jsonl") if step["epoch"] == 1)
    assert first["from_store"] > 0, "what is stored still serves"
