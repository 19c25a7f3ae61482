"""Tokens of a frozen tower on disk: computed once, and never those of other weights, images or views."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import lavis_mafa.compat  # noqa: F401  before the first import of lavis

import numpy as np
import pyarrow as pa
import pytest
import torch
from lavis.processors.blip_processors import BlipImageEvalProcessor
from PIL import Image

from lavis_mafa.data.dataset import PairDataset, RetrievalDataset
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.runners.token_cache import attach_tokens
from tests.models.tiny import loud, tiny_blip2

N = 7


@pytest.fixture
def model() -> Any:
    return loud(tiny_blip2(vit={"freeze_vit": True}))


def retrieval_set(seed: int = 3, mean: float = 0.5) -> RetrievalDataset:
    table, opener, _ = scenes_table(n=N, seed=seed)
    return RetrievalDataset(table, opener, BlipImageEvalProcessor(16, mean, 0.5), str)


def attach(model: Any, dataset: Any, folder: Path) -> None:
    attach_tokens(model, dataset, folder, torch.device("cpu"), workers=0, batch_size=3)


def test_samples_carry_the_towers_tokens(model: Any, tmp_path: Path) -> None:
    data = retrieval_set()
    with torch.no_grad():
        expected = torch.stack([model.visual_encoder(data[record]["image"][None])[0] for record in range(N)])
    attach(model, data, tmp_path)
    found = torch.stack([data[record]["image_tokens"] for record in range(N)])
    assert "image" not in data[0] and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    assert len(list(tmp_path.glob("[!.]*"))) == 1  # nothing half written is left


def test_second_start_reads_what_the_first_wrote(model: Any, tmp_path: Path) -> None:
    first, second = retrieval_set(), retrieval_set()
    attach(model, first, tmp_path)
    with mock.patch.object(model.visual_encoder, "forward", side_effect=AssertionError("computed again")):
        attach(model, second, tmp_path)
    assert np.array_equal(first.tokens, second.tokens)


@pytest.mark.parametrize("other", ["weights", "images", "view"])
def test_other_weights_images_or_views_have_their_own(other: str, model: Any, tmp_path: Path) -> None:
    first = retrieval_set()
    attach(model, first, tmp_path)
    second = retrieval_set(seed=4 if other == "images" else 3, mean=0.4 if other == "view" else 0.5)
    if other == "weights":
        with torch.no_grad():
            model.visual_encoder.norm.bias += 1
    attach(model, second, tmp_path)
    assert len(list(tmp_path.glob("[!.]*"))) == 2
    assert not np.array_equal(first.tokens, second.tokens)


def test_what_is_not_fixed_is_not_cached(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a frozen tower; set model.freeze_vit: true"):
        attach(tiny_blip2(), retrieval_set(), tmp_path)
    table, opener, _ = scenes_table(n=N, seed=3)
    augmented = PairDataset(table, opener, BlipImageEvalProcessor(16), str, seed=0, augmented=True)
    with pytest.raises(ValueError, match="one view of each image"):
        attach(model, augmented, tmp_path)


def test_tokens_beyond_float16_are_reported(model: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        model.visual_encoder.norm.bias += 1e5
    with pytest.raises(ValueError, match="float16's range; set run.cache_tokens: false"):
        attach(model, retrieval_set(), tmp_path)


def test_a_tower_in_half_precision_is_kept_too(model: Any, tmp_path: Path) -> None:
    data, plain = retrieval_set(), model.vision_tokens
    with mock.patch.object(model, "vision_tokens", lambda samples: plain(samples).bfloat16()):
        attach(model, data, tmp_path)
    assert data.tokens.dtype == np.float16 and np.isfinite(data.tokens).all()


def test_an_image_that_cannot_be_read_keeps_its_own_words(model: Any, tmp_path: Path) -> None:
    data = retrieval_set()
    with (
        mock.patch.object(type(data), "__getitem__", side_effect=ValueError("x.jpg: no image")),
        pytest.raises(ValueError, match=r"^x\.jpg: no image$"),
    ):
        attach(model, data, tmp_path)
    assert not list(tmp_path.glob("[!.]*"))


def test_an_image_that_was_replaced_has_new_tokens(model: Any, tmp_path: Path) -> None:
    """Its path is the old one: it is known by size and time."""

    def files() -> RetrievalDataset:
        table = RecordTable.from_rows(pa.table({"image": ["a.png", "b.png"], "caption": [["x"], ["y"]]}), "tests")
        opener = ImageFiles(str(tmp_path), table.images)
        return RetrievalDataset(table, opener, BlipImageEvalProcessor(16), str)

    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / name)
    first, second = files(), files()
    attach(model, first, tmp_path / "tokens")
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "b.png")
    attach(model, second, tmp_path / "tokens")
    assert np.array_equal(first.tokens[0], second.tokens[0])
    assert not np.array_equal(first.tokens[1], second.tokens[1])
