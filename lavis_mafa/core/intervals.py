"""95 % intervals of figures over pairs, where the pairs of one image belong together.

The images are drawn anew with replacement, each with all its pairs (the cluster bootstrap: Davison and Hinkley,
Bootstrap Methods and their Application, 1997, section 3.8), and the middle 95 % of the figures are taken.
Tested in tests/core/test_intervals.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Figures = Mapping[str, float | None]

DRAWS = 300
MIDDLE = (2.5, 97.5)  # percentiles


def bootstrap_intervals(
    figures_of: Callable[[Ints], Figures], group_P: Ints, draws: int = DRAWS, seed: int = 0
) -> dict[str, tuple[float, float] | None]:
    """{figure: (low, high)}, None for a figure that fewer than half of the draws have.

    Args:
        figures_of: places of pairs, some several times → figures; None for one that they do not define.
        group_P: the image of each of the P pairs.
    """
    _, group_P = np.unique(group_P, return_inverse=True)
    order_P = np.argsort(group_P, kind="stable")
    members = np.split(order_P, np.cumsum(np.bincount(group_P))[:-1])
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = rng.integers(len(members), size=len(members))
        for name, value in figures_of(np.concatenate([members[group] for group in drawn])).items():
            found.setdefault(name, []).extend([] if value is None else [value])
    return {name: _middle(values) if 2 * len(values) >= draws else None for name, values in found.items()}


def _middle(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, MIDDLE)
    return float(low), float(high)
