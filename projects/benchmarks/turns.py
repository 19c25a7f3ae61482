"""Runs in processes of their own that take turns, step by step: whatever slows the machine down slows all of them.

LAVIS' registry takes one runner a process, so that runs cannot be compared in one; side by side they would disturb each
other, and one after the other they meet a machine that is faster or slower by minutes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from typing import Any


class Turns:
    """Whose turn it is among `count` processes; one that has ended is passed over."""

    def __init__(self, context: ForkServerContext, count: int) -> None:
        self.count = count
        self.changed = context.Condition()
        self.now = context.Value("i", 0, lock=False)
        self.running = context.Array("b", [1] * count, lock=False)

    def take(self, number: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.now.value == number)

    def hand_on(self, number: int) -> None:
        others = ((number + ahead) % self.count for ahead in range(1, self.count + 1))
        with self.changed:
            self.now.value = next((other for other in others if self.running[other]), number)
            self.changed.notify_all()

    def end(self, number: int) -> None:
        self.running[number] = 0
        self.hand_on(number)


def in_turns(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """`function(next_turn, *call)` of every call; one runs at a time, until it calls `next_turn()` or returns."""
    context = multiprocessing.get_context("forkserver")
    turns = Turns(context, len(calls))
    with ProcessPoolExecutor(len(calls), context, initializer=_join, initargs=(turns,)) as pool:
        runs = [pool.submit(_run, function, number, call) for number, call in enumerate(calls)]
        return [run.result() for run in runs]


def _join(turns: Turns) -> None:
    global _turns  # shared memory is inherited, and cannot be sent with a call
    _turns = turns


def _run(function: Callable[..., Any], number: int, call: tuple[Any, ...]) -> Any:
    def next_turn() -> None:
        _turns.hand_on(number)
        _turns.take(number)

    _turns.take(number)
    try:
        return function(next_turn, *call)
    finally:
        _turns.end(number)
