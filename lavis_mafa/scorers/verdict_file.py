"""Verdicts mined offline as PairScorer: pre-training that needs no Con-D. Tested in tests/core/test_file_scorer.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.pairs import AMBIGUOUS, CONNECTION, NEGATIVE, VERDICTS, judge
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest

COLUMNS = ("image_id", "text_id", "p", "verdict")
WEIGHT = "weight"  # a column that a file may have
CAPTION = "caption"  # another one, which mining writes
TextIds = Callable[[str], int]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FileScorer:
    """P(match) of the pairs that connections.parquet holds as connection or ambiguous; 0, a negative, for all others.

    The verdict counts, not the bounds it was found by, which may be others than the run's, nor p, which people may have
    overruled: a P(match) that the run would judge otherwise is moved to where it judges the same.

    image_U, text_U: the ids in the file, sorted; key_E, p_E: its pairs, sorted by key, and their P(match).
    weight_E: what they weigh as positives of the ITC, where model.mafa.positive_weight is probability: the file's
    column `weight`, or else P(match).
    """

    fingerprint: str
    image_U: Ints
    text_U: Ints
    key_E: Ints
    p_E: Floats
    weight_E: Floats

    @classmethod
    def read(
        cls, path: str | Path, low: float, high: float, text_ids: TextIds | None = None, weighted: bool = False
    ) -> FileScorer:
        """Read verdicts that were mined beforehand.

        Args:
            path: a connections.parquet.
            low, high: the bounds that the run judges by (core/pairs.py).
            text_ids: caption → text id, as the model of the run reads it; None: the ids of the file, of the model that
                mined.
            weighted: the run reads weights.

        Raises:
            ValueError: no such file, one that lacks a column, an unknown verdict, bounds that leave one no room, or
                weights that the run does not read.
        """
        if low <= 0 or high >= 1:
            raise ValueError(f"low is {low} and high {high}: a file of verdicts requires 0 < low and high < 1")
        path = Path(path)
        with reading(path, "Parquet file", "`python -m lavis_mafa.mine` writes connections.parquet."):
            names = pq.read_schema(path).names
            rows = pq.read_table(path, columns=[name for name in (*COLUMNS, WEIGHT, CAPTION) if name in names])
        if lacking := sorted({*COLUMNS} - {*names}):
            raise ValueError(f"{path} lacks the columns {', '.join(lacking)}: take the file as mining wrote it")
        _check_rows(rows, path)
        if WEIGHT in names and not weighted:
            raise ValueError(
                f"{path} has a column {WEIGHT}, which model.mafa.positive_weight: equal does not read: set it to "
                "probability, or drop the column"
            )
        if text_ids and CAPTION in names:
            rows = rows.set_column(rows.column_names.index("text_id"), "text_id", _ids_of(rows[CAPTION], text_ids))
        rows = rows.filter(pc.not_equal(rows["verdict"], VERDICTS[NEGATIVE]))
        image_E, text_E, p_E = (rows[name].to_numpy() for name in COLUMNS[:3])
        weight_E = rows[WEIGHT].to_numpy().astype(np.float32) if WEIGHT in names else None
        p_E = _as_judged(p_E.astype(np.float32), rows["verdict"].to_numpy(), np.float32(low), np.float32(high))
        image_U, text_U = np.unique(image_E), np.unique(text_E)
        key_E = np.searchsorted(image_U, image_E) * len(text_U) + np.searchsorted(text_U, text_E)
        order_E = np.lexsort((-p_E, key_E))  # of a pair that comes twice the surest
        columns = image_U, text_U, key_E[order_E], p_E[order_E]
        name = digest(*columns) if weight_E is None else digest(*columns, weight_E[order_E])
        return cls(f"file:{name}", *columns, (p_E if weight_E is None else weight_E)[order_E])

    def covers(self, image_id_N: Ints) -> bool:
        """Whether any image of a data set is in the file."""
        return bool(np.isin(self.image_U, image_id_N).any())

    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) P(match), 0 where the file has nothing."""
        return self._of(self.p_E, batch, image_K, text_K)

    def weight(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) weight as positives of the ITC, 0 where the file has nothing."""
        return self._of(self.weight_E, batch, image_K, text_K)

    def _of(self, value_E: Floats, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        image_id_K = batch["image_id"].cpu().numpy()[image_K.cpu().numpy()]
        text_id_K = batch["text_id"].cpu().numpy()[text_K.cpu().numpy()]
        value_K = np.zeros(len(image_id_K), np.float32)
        if len(self.key_E):
            image_at, image_found = _find(self.image_U, image_id_K)
            text_at, text_found = _find(self.text_U, text_id_K)
            at, found = _find(self.key_E, image_at * len(self.text_U) + text_at)
            found &= image_found & text_found
            value_K[found] = value_E[at[found]]
        return torch.from_numpy(value_K).to(image_K.device)


def _ids_of(captions: pa.ChunkedArray, text_ids: TextIds) -> pa.Array:
    encoded = captions.combine_chunks().dictionary_encode()
    ids = pa.array([text_ids(caption) for caption in encoded.dictionary.to_pylist()], pa.int64())
    return ids.take(encoded.indices)


def _find(sorted_U: Ints, wanted_K: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    at_K = np.searchsorted(sorted_U, wanted_K).clip(max=len(sorted_U) - 1)
    return at_K, sorted_U[at_K] == wanted_K


def _check_rows(rows: pa.Table, path: Path) -> None:
    unknown = set(rows["verdict"].unique().to_pylist()) - set(VERDICTS.values())
    if unknown:
        raise ValueError(f"{path}: verdict is {unknown.pop()!r}; it must be connection, ambiguous or negative")
    for name in ("image_id", "text_id"):
        if not pa.types.is_integer(rows.schema.field(name).type) or rows[name].null_count:
            raise ValueError(f"{path}: {name} must be a whole number in every row: use the file as mining wrote it")
    for name in {"p", WEIGHT} & {*rows.column_names}:
        share = rows[name].to_numpy()
        if share.dtype.kind not in "fiu" or not ((share >= 0) & (share <= 1)).all():  # NaN fails too
            raise ValueError(f"{path}: {name} must be a number in [0, 1] in every row")


def _as_judged(p_E: Floats, verdict_E: NDArray[np.object_], low: np.float32, high: np.float32) -> Floats:
    """P(match), moved as little as makes the bounds judge it as the file does: a connection, or ambiguous."""
    connection_E = verdict_E == VERDICTS[CONNECTION]
    agree_E = judge(p_E, float(low), float(high)) == np.where(connection_E, CONNECTION, AMBIGUOUS)
    nearest_E = np.where(connection_E, np.nextafter(high, np.float32(1)), p_E.clip(low, high))
    return np.where(agree_E, p_E, nearest_E).astype(np.float32)


def build_verdicts(request: ScorerRequest) -> FileScorer:
    """Verdicts mined offline (`run.con_d: {arch: file, path: …/connections.parquet}`), or made by any other means.

    Raises:
        ValueError: no path, a file that FileScorer.read refuses, or one about other data.
    """
    path = request.section.get("path")
    if not path:
        raise ValueError(
            f"{request.where}: arch file needs path, the connections.parquet that `python -m lavis_mafa.mine` wrote"
        )
    rule, text_ids = request.rule, None if request.data is None else request.data.table.text_id_of
    scorer = FileScorer.read(str(path), rule.low, rule.high, text_ids, weighted=rule.positive_weight == "probability")
    if request.data is not None and not scorer.covers(request.data.table.image_id):
        raise ValueError(
            f"{request.where}.path: {path} holds no image of the training data; mine that data, under its dataset name"
        )
    return scorer


JUDGES.add("file")(
    Judge(
        build_verdicts,
        ("path",),
        files=lambda section: [("path", str(section.get("path")))],
        training_only=True,
    )
)
