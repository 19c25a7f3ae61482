"""Commands of the project run in processes of their own, with the seconds that scoring took in them."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock


def in_child(function: Callable[..., Any], *given: Any) -> Any:
    """`function(*given)` in a fresh process: LAVIS' registry takes one runner a process, and a peak is that of one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(function, *given).result()


def arguments(config: str, options: list[str]) -> None:
    """What a command finds on its command line."""
    sys.argv = ["benchmark", "--cfg-path", config, "--options", *options]


@contextlib.contextmanager
def scoring_timed() -> Iterator[dict[int, list[float]]]:
    """Per epoch (0 where a batch has none) [seconds, pairs] put to Con-D, a judge of captions or a file of verdicts."""
    from lavis_mafa.scorers.captions import CaptionScorer
    from lavis_mafa.scorers.con_d import ItmScorer
    from lavis_mafa.scorers.verdict_file import FileScorer

    taken: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def timed(score: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: Any, batch: Any, image_K: Any, text_K: Any) -> Any:
            began = time.perf_counter()
            found = score(self, batch, image_K, text_K)
            seconds_pairs = taken[int(batch.get("epoch", 0))]
            seconds_pairs[0] += time.perf_counter() - began
            seconds_pairs[1] += len(image_K)
            return found

        return wrapped

    with contextlib.ExitStack() as stack:
        for scorer in (ItmScorer, CaptionScorer, FileScorer):
            stack.enter_context(mock.patch.object(scorer, "score", timed(scorer.score)))
        yield taken


@contextlib.contextmanager
def mining_timed() -> Iterator[dict[int, float]]:
    """Per epoch the seconds that connection mining took in training, scores and all."""
    from lavis_mafa.core.miner import ConnectionMiner

    taken: dict[int, float] = defaultdict(float)
    mine = ConnectionMiner.mine

    def timed(self: Any, batch: Any, *rest: Any) -> Any:
        began = time.perf_counter()
        found = mine(self, batch, *rest)
        taken[int(batch.get("epoch", 0))] += time.perf_counter() - began
        return found

    with mock.patch.object(ConnectionMiner, "mine", timed):
        yield taken
