"""Mining by two functions, without a YAML: the packaged Con-D on scenes, a judge of captions on anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lavis_mafa
from lavis_mafa.data.scenes.dataset import scenes_table

CON_D = {"arch": "mafa_albef", "model_type": "scenes_con_d"}
N = 24


@pytest.fixture(scope="module")
def scenes() -> tuple[list[Image.Image], list[list[str]], np.ndarray]:
    """Images, captions of each, and truth (N, all captions in order)."""
    table, open_image, truth = scenes_table(N, seed=3, match_share=0.05)
    captions = [[table.caption(row) for row in table.caption_rows(record)] for record in range(N)]
    return [open_image(i) for i in range(N)], captions, truth(np.arange(N)[:, None], np.arange(2 * N)[None])


def test_con_d_scores_pairs(scenes: tuple[list[Image.Image], list[list[str]], np.ndarray]) -> None:
    images, captions, truth_NC = scenes
    own = lavis_mafa.score_pairs(images, [each[0] for each in captions], judge=CON_D)
    other = lavis_mafa.score_pairs(images, [each[0] for each in captions[1:] + captions[:1]], judge=CON_D)
    assert own.shape == (N,) and own.dtype == np.float32
    mismatch = ~truth_NC[np.arange(N), np.roll(np.arange(0, 2 * N, 2), -1)]
    assert own.mean() > 0.8 and other[mismatch].mean() < 0.3


def test_connections_are_found(scenes: tuple[list[Image.Image], list[list[str]], np.ndarray], tmp_path: Path) -> None:
    images, captions, truth_NC = scenes
    given = {"judge": CON_D, "embedder": CON_D, "nearest": 10}
    found = lavis_mafa.find_connections(images, captions, **given, cache=tmp_path)
    assert list(found) == ["image", "caption", "similarity", "p", "verdict"]
    assert found["p"].is_monotonic_decreasing and set(found["verdict"]) <= {"connection", "ambiguous", "negative"}
    flat = [caption for each in captions for caption in each]
    connected = found[found["verdict"] == "connection"]
    right = [truth_NC[row.image, flat.index(row.caption)] for row in connected.itertuples()]
    assert len(right) > 10 and np.mean(right) > 0.8
    again = lavis_mafa.find_connections(images, captions, **given, cache=tmp_path)
    assert again.equals(found)
    assert not any(row.caption in captions[row.image] for row in found.itertuples()), "own captions are known"


def test_files_and_a_judge_of_captions(shared_data: Path, tmp_path: Path) -> None:
    texts = [
        ["a dog runs on the beach", "a dog running at the sea"],
        ["a dog is running along the beach"],
        ["a red car"],
    ]
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (32, 32), (number, 0, 0)).save(paths[-1])
    judge = {"arch": "captions", "encoder": str(shared_data / "text" / "all-MiniLM-L6-v2")}
    found = lavis_mafa.find_connections(paths, texts, judge=judge, high=0.6).set_index(["image", "caption"])
    assert found.loc[(0, texts[1][0]), "verdict"] == "connection"
    assert found.loc[(2, texts[1][0]), "verdict"] == "negative"
    p = lavis_mafa.score_pairs(
        [paths[0], paths[0]], ["a dog at the beach", "a car"], judge=judge, captions=[texts[0]] * 2
    )
    assert p[0] > 0.6 > p[1]
    with pytest.raises(ValueError, match="give `captions`"):
        lavis_mafa.score_pairs(paths[:1], ["a dog"], judge=judge)


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    with pytest.raises(ValueError, match="2 images, 1 texts"):
        lavis_mafa.score_pairs([image, image], ["one"], judge=CON_D)
    with pytest.raises(ValueError, match="given twice"):
        lavis_mafa.find_connections([tmp_path / "a.png", tmp_path / "a.png"], ["x", "y"], judge=CON_D)
    with pytest.raises(ValueError, match="nowhere.png"):
        lavis_mafa.score_pairs([tmp_path / "nowhere.png"], ["x"], judge=CON_D)
    with pytest.raises(ValueError, match=r"judge\.arch: there is no"):
        lavis_mafa.score_pairs([image], ["x"], judge={"arch": "nothing"})
