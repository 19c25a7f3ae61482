"""What an evaluation of answers asks of a task: captions, VQA and NLVR2 all answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import pandas as pd
from lavis.models.base_model import BaseModel

from lavis_mafa.core.batch import Batch

SplitT = TypeVar("SplitT", contravariant=True)


class AnsweringTask(Protocol[SplitT]):
    """A task whose model says something about every sample of a split.

    measure: the name of a single answer's figure. `answer_of`: {item: answer}.
    """

    measure: str

    def settings(self) -> dict[str, object]:
        """What an answer depends on beside weights and data."""
        ...

    def items(self, dataset: SplitT) -> list[int]:
        """The id of every sample."""
        ...

    def answer(self, model: BaseModel, samples: Batch) -> list[str]:
        """The answers to a batch."""
        ...

    def answer_without_image(self, model: BaseModel, dataset: SplitT, numbers: Sequence[int]) -> list[str]:
        """The answers of the language model alone to the samples at these places."""
        ...

    def judge(self, dataset: SplitT, answer_of: Mapping[int, str]) -> dict[str, object]:
        """The figures of a split."""
        ...

    def table(self, dataset: SplitT, answer_of: Mapping[int, str]) -> pd.DataFrame:
        """A row an answer."""
        ...

    def files(self, dataset: SplitT, answer_of: Mapping[int, str]) -> dict[str, object]:
        """{name: content} of JSON files, as leaderboards want them."""
        ...
