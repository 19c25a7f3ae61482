"""mining.png: what its panels show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lavis_mafa.reports.mining_plots import BINS, draw_mining

P_K = np.float32([0.05, 0.05, 0.6, 0.9, 0.95, 0.95])
CONNECTIONS_N = np.array([0, 0, 1, 2])
CURVE = pd.DataFrame({"threshold": [0.9, 0.5, 0.1], "precision": [1.0, 0.75, 0.5], "recall": [0.4, 0.8, 1.0]})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written."""
    figures: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), savefig(self, *args, **kw)))
    return figures


def dashed(axes: Any) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def test_histogram_with_both_bounds_connections_and_the_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_mining(tmp_path / "mining.png", P_K, (0.5, 0.8), CONNECTIONS_N, CURVE)
    histogram, per_image, thresholds = drawn[0].axes
    counts = histogram.patches[0].get_data().values
    assert len(counts) == BINS and counts.sum() == len(P_K) and counts[2] == 2
    assert dashed(histogram) == dashed(thresholds) == [0.5, 0.8]
    assert [bar.get_height() for bar in per_image.patches] == [2, 1, 1]  # images with 0, 1, 2 connections
    assert "mean 0.75" in per_image.get_title(loc="left")
    lines = {line.get_label(): list(line.get_ydata()) for line in thresholds.lines if line.get_linestyle() == "-"}
    assert lines == {"precision": [1.0, 0.75, 0.5], "recall": [0.4, 0.8, 1.0]}
    with Image.open(tmp_path / "mining.png") as image:
        assert image.size[0] > image.size[1] > 300


@pytest.mark.parametrize("curve", [None, CURVE[:0]])
def test_without_labels_there_is_no_curve(tmp_path: Path, drawn: list[Figure], curve: pd.DataFrame | None) -> None:
    draw_mining(tmp_path / "mining.png", P_K[:0], (0.5, 0.8), CONNECTIONS_N[:0], curve)
    assert len(drawn[0].axes) == 2 and (tmp_path / "mining.png").stat().st_size > 0
