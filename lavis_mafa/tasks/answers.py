"""What an evaluation of answers asks of a task: captions, VQA and NLVR2 all answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd


class AnsweringTask(Protocol):
    """A task whose model says something about every sample of a split.

    measure: the name of a single answer's figure. `answer_of`: {item: answer}.
    """

    measure: str

    def settings(self) -> dict[str, Any]:
        """What an answer depends on beside weights and data."""
        ...

    def items(self, dataset: Any) -> list[int]:
        """The id of every sample."""
        ...

    def answer(self, model: Any, samples: Mapping[str, Any]) -> list[str]:
        """The answers to a batch."""
        ...

    def answer_without_image(self, model: Any, dataset: Any, numbers: Sequence[int]) -> list[str]:
        """The answers of the language model alone to the samples at these places."""
        ...

    def judge(self, dataset: Any, answer_of: Mapping[int, str]) -> dict[str, Any]:
        """The figures of a split."""
        ...

    def table(self, dataset: Any, answer_of: Mapping[int, str]) -> pd.DataFrame:
        """A row an answer."""
        ...

    def files(self, dataset: Any, answer_of: Mapping[int, str]) -> dict[str, Any]:
        """{name: content} of JSON files, as leaderboards want them."""
        ...
