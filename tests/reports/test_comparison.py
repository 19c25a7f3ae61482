"""Runs side by side: which are seeds of one setting, and paired intervals worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from lavis_mafa.reports.comparison import compared, read_run
from lavis_mafa.reports.pages import comparison_text, write_comparison, write_run_page

R1 = "retrieval / itc / truth / image / r1"


def a_run(folder: Path, r1: float, seed: int, alpha: float) -> Path:
    folder.mkdir()
    config = {"run": {"seed": seed, "output_dir": str(folder)}, "model": {"mafa": {"alpha": alpha}}}
    retrieval = {"itc": {"truth": {"image": {"r1": r1}}}}
    results = {"retrieval": retrieval, "connections": {"precision": None}, "config": config, "versions": {"torch": "2"}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    found = {(0.5, 1): 50.0, (0.5, 2): 54.0, (0.5, 3): 52.0, (0.0, 1): 53.0, (0.0, 2): 56.0, (0.0, 4): 90.0}
    return [a_run(tmp_path / f"{alpha}_{seed}", r1, seed, alpha) for (alpha, seed), r1 in found.items()]


def test_differences_are_paired_by_seed(folders: list[Path]) -> None:
    found = compared([read_run(folder) for folder in folders])
    assert found.settings == ["model.mafa.alpha=0.5", "model.mafa.alpha=0.0"]
    row = found.table.loc[R1]
    assert row[("model.mafa.alpha=0.5", "mean")] == 52 and row[("model.mafa.alpha=0.5", "seeds")] == 3
    other = "model.mafa.alpha=0.0"
    assert row[(other, "difference")] == 2.5  # of seeds 1 and 2: +3 and +2; seed 4 has no partner
    # t of one degree of freedom at 0.975 is 12.706; the deviation of 3 and 2 is 1/√2
    assert row[(other, "half")] == pytest.approx(12.7062 * math.sqrt(0.5) / math.sqrt(2), rel=1e-4)
    assert not row[(other, "significant")]
    assert "connections / precision" not in found.table.index, "null is no figure"


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    two = [a_run(tmp_path / "a", 50.0, 1, 0.5), a_run(tmp_path / "b", 60.0, 1, 0.0)]
    found = compared([read_run(folder) for folder in two])
    row = found.table.loc[R1]
    assert math.isnan(row[("model.mafa.alpha=0.0", "half")]) and not row[("model.mafa.alpha=0.0", "significant")]
    assert "60 (+10)" in comparison_text(found)


def test_a_steady_difference_is_significant(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / f"{a}{s}", 50 + 2 * s + 5 * a + 0.1 * a * s, s, a) for a in (0.0, 1.0) for s in (1, 2, 3)]
    found = compared([read_run(folder) for folder in runs])
    assert found.table.loc[R1][("model.mafa.alpha=1.0", "significant")]
    assert "*" in comparison_text(found).splitlines()[-1]


def test_what_cannot_be_compared_is_refused(tmp_path: Path, folders: list[Path]) -> None:
    with pytest.raises(ValueError, match="two or more"):
        compared([read_run(folders[0])])
    twice = a_run(tmp_path / "again", 50.0, 1, 0.5)
    with pytest.raises(ValueError, match="same settings and seed"):
        compared([read_run(folder) for folder in (*folders, twice)])
    with pytest.raises(ValueError, match=r"results\.json"):
        read_run(tmp_path / "nothing")


def test_the_page_of_a_comparison(folders: list[Path], tmp_path: Path, chromium: Callable[..., str]) -> None:
    found = compared([read_run(folder) for folder in folders])
    page = write_comparison(tmp_path / "compared.html", found, folders)
    shown = chromium("--dump-dom", page.as_uri())
    assert "model.mafa.alpha=0.0" in shown and "+2.5" in shown
    assert "retrieval / ITC / truth / image / R@1" in shown


def test_the_page_of_a_run(tmp_path: Path, chromium: Callable[..., str]) -> None:
    (tmp_path / "steps.jsonl").write_text('{"s_it": 1.0}\n{"s_it": 3.0}\n')
    results = {"seconds_per_step": 2.0, "versions": {"torch": "2.14"}, "commit": None, "config": {"run": {"seed": 1}}}
    written = ["results.json", "curves.png", "gallery/index.html"]
    page = write_run_page(tmp_path, "<b>scenes</b>", {"test": "R@1  50"}, results, written)
    shown = chromium("--dump-dom", page.as_uri())
    assert "&lt;b&gt;scenes&lt;/b&gt;" in shown, "a name is text"
    for text in (
        "R@1  50",
        'src="curves.png"',
        'href="curves.png"',
        'href="gallery/index.html"',
        "2.14",
        "seed: 1",
        "hours",
    ):
        assert text in shown
    assert "http" not in shown.replace("http-equiv", ""), "a page loads nothing from elsewhere"
