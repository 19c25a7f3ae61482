"""Mining photographs with one known caption each: hidden siblings and people's judgments, on a few of them."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa.data import identity
from lavis_mafa.mining_job import job as mine

CONFIG = Path(__file__).resolve().parents[2] / "projects" / "mafa" / "mine" / "mine_flickr8k_con_d.yaml"
PHOTOGRAPHS = 24


def text_id(caption: str) -> int:
    """Of what the model reads of a caption."""
    from lavis.processors.blip_processors import BlipCaptionProcessor

    return identity.text_id(BlipCaptionProcessor()(caption))


def read(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[dict[str, Any]]:
    """Photographs that people compared: the first false negatives and hard true negatives, with their captions' own."""
    rows = read(shared_data / "flickr8k" / "flickr8k_test.json")
    owner = {caption: row["image"] for row in rows for caption in row["caption"]}
    chosen: dict[str, None] = {}
    pairs = read(shared_data / "flickr8k" / "fn_benchmark.json")
    for kind in ("false_negative", "hard_true_negative"):
        hard = [pair for pair in pairs if pair["kind"] == kind and pair["caption"] in owner]
        for pair in hard[: PHOTOGRAPHS // 4]:
            chosen |= {pair["image"]: None, owner[pair["caption"]]: None}
    return [row for row in rows if row["image"] in chosen]


@pytest.fixture(scope="module")
def judged(shared_data: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    images = {row["image"] for row in rows}
    return [pair for pair in read(shared_data / "flickr8k" / "fn_benchmark.json") if pair["image"] in images]


@pytest.fixture(scope="module")
def mined(
    shared_data: Path,
    rows: list[dict[str, Any]],
    judged: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], pd.DataFrame, list[dict[str, Any]]]:
    """summary.json, connections.parquet and the extended annotation, judged by the network of the scenes."""
    folder = tmp_path_factory.mktemp("flickr8k")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAVIS_MAFA_DATA", str(shared_data))
        lavis_mafa.register()
        (folder / "judged.json").write_text(json.dumps(judged))
        config = OmegaConf.load(CONFIG)
        config.model = {"arch": "mafa_albef", "model_type": "scenes_con_d"}
        (folder / "few.json").write_text(json.dumps(rows))
        config.datasets.image_text.annotations.test = str(folder / "few.json")
        config.run.update(
            output_dir=str(folder), judged_pairs=str(folder / "judged.json"), range_max=12, low=0.02, high=0.1
        )
        OmegaConf.save(config, folder / "mine.yaml")
        mine.run(Namespace(cfg_path=str(folder / "mine.yaml"), options=[]))
    annotation = json.loads((folder / "few_connected.json").read_text())
    return (
        json.loads((folder / "summary.json").read_text()),
        pd.read_parquet(folder / "connections.parquet"),
        annotation,
    )


def share(part: int, whole: int) -> Any:
    return pytest.approx(part / whole, abs=1e-6)  # files keep six digits


def test_only_the_first_caption_is_known_and_the_others_are_looked_for(mined: Any, rows: list[dict[str, Any]]) -> None:
    summary, frame, annotation = mined
    first = {(row["image"], text_id(row["caption"][0])) for row in rows}
    hidden = {(row["image"], text_id(caption)) for row in rows for caption in row["caption"][1:]} - first
    pairs = [*zip(frame["image"], frame["text_id"], strict=True)]
    connected = {pair for pair, verdict in zip(pairs, frame["verdict"], strict=True) if verdict == "connection"}
    figures = summary["against_siblings"]
    assert not first & set(pairs) and summary["own_pairs"] == len(first) == len(rows)
    assert figures["hidden"] == len(hidden)
    assert figures["candidates"] == len(hidden & set(pairs)) > 0
    assert figures["connections"] == len(hidden & connected) > 0
    assert figures["coverage"] == share(figures["candidates"], figures["hidden"])
    assert figures["recall"] == share(figures["connections"], figures["candidates"])
    assert figures["found"] == share(figures["connections"], figures["hidden"])
    added = sum(len(row["caption"]) - 5 for row in annotation)
    assert added == len(connected - hidden), "what the annotation has is not added to it"


def test_judged_pairs_are_counted_by_their_verdicts(
    mined: Any, rows: list[dict[str, Any]], judged: list[dict[str, Any]]
) -> None:
    """But a caption of no mined photograph, or the one that is known, cannot be found, and so is no miss."""
    summary, frame, _ = mined
    captions = {text_id(caption) for row in rows for caption in row["caption"]}
    to_find = {row["image"]: captions - {text_id(row["caption"][0])} for row in rows}
    verdict = {(row.image, row.text_id): row.verdict for row in frame.itertuples()}
    for name, kinds in (("all", ("false_negative", "hard_true_negative")), ("any_kind", None)):
        chosen = [pair for pair in judged if kinds is None or pair["kind"] in kinds]
        pairs = [pair for pair in chosen if text_id(pair["caption"]) in to_find[pair["image"]]]
        found = [(verdict.get((pair["image"], text_id(pair["caption"]))), pair["label"]) for pair in pairs]
        inside = [(word == "connection", label) for word, label in found if word]
        hits, matches = sum(label for taken, label in inside if taken), sum(label for _, label in found)
        figures = summary["against_judgments"][name]
        assert (figures["pairs"], figures["matches"]) == (len(found), matches)
        assert figures["left_out"] == len(chosen) - len(pairs) > 0
        assert figures["base_rate"] == share(matches, len(found))
        assert figures["recall"] == share(hits, matches), "also those that are no candidates"
        assert figures["precision"] == share(hits, sum(taken for taken, _ in inside))
        for figure in ("auc", "average_precision", "precision", "recall"):
            low, high = figures["intervals_95"][figure]
            assert low <= figures[figure] <= high
        among = figures["candidates"]
        assert among["labelled"] == len(inside) > 0
        assert among["labelled_outside_the_candidates"] == len(found) - len(inside)
        assert among["coverage"] == share(sum(label for _, label in inside), matches)
        assert among["recall"] == share(hits, sum(label for _, label in inside))
