"""What a table or figure is, and what is read from a run for it."""

from __future__ import annotations

from dataclasses import dataclass

from cells import Cell


@dataclass(frozen=True)
class Measure:
    """The mean of these figures of a run, times `scale`; a run that lacks one has none. each_seed: whether seeds have
    figures of their own, so that a difference has an interval."""

    name: str
    columns: tuple[str, ...]
    scale: float = 1.0
    each_seed: bool = True


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is called, its run, and the name of the row that it is held against ("": none)."""

    labels: dict[str, str | int]
    cell: Cell
    against: str = ""

    @property
    def name(self) -> str:
        return ", ".join(str(value) for value in self.labels.values())


@dataclass(frozen=True)
class Item:
    """A table, or a figure where `x` names the label along its axis (`line` and `panel`: those of lines and panels)."""

    name: str
    title: str
    paper: str  # what the paper says
    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    seeds: int = 3
    first_seed: int = 1
    contrasts: tuple[tuple[str, str], ...] = ()  # further (row, row it is held against)
    x: str = ""
    line: str = ""
    panel: str = ""
    costs: str = ""  # a benchmark's file of what each row's setting costs
    needs: str = ""  # an environment variable, without which there is no data

    def seeds_of(self, count: int | None = None) -> range:
        """Its first `count` seeds, by default as many as it is meant to have."""
        return range(self.first_seed, self.first_seed + (count or self.seeds))


def _recall(ranking: str, against: str = "truth") -> Measure:
    name = {"itc": "R@1 by ITC", "itm": "R@1 by ITM"}[ranking]
    return Measure(name, tuple(f"retrieval.{ranking}.{against}.{way}.r1" for way in ("image", "text")))


def _map_at_r(ranking: str) -> Measure:
    """ECCV Caption's measure (arXiv 2204.03359), which no single match satisfies: R is how many a query has."""
    columns = tuple(f"retrieval.at_r.{ranking}.truth.{way}.map_at_r" for way in ("image", "text"))
    return Measure(f"mAP@R by {ranking.upper()}", columns)


IN_BATCH = Measure("false negatives a batch", ("plan.false_negatives_per_batch",))
IN_ITM = Measure("false among ITM negatives, %", ("plan.itm_false_negative_rate",), 100)
PRECISION = Measure("connections' precision, %", ("plan.connection_precision",), 100)
RECALL = Measure("connections' recall, %", ("plan.connection_recall",), 100)
COSTS = tuple(
    Measure(name, (f"cost.{column}",), each_seed=False)
    for name, column in (("a step, times BLIP-2's", "times_plain"), ("to plan an epoch, s", "plan_s"))
)
LABELS = tuple(
    Measure(f"ITC label on {name.replace('_', ' ')}, %", (f"itc_labels.on_{name}",), 100)
    for name in ("false_negatives", "mismatches")
)
RETRIEVAL = (_recall("itc"), _recall("itm"), _map_at_r("itc"), _map_at_r("itm"))
BOTH_HEADS = Measure("mAP@R, mean of both heads", (*RETRIEVAL[2].columns, *RETRIEVAL[3].columns))
ANNOTATED = (_recall("itc", "annotation"), _recall("itm", "annotation"))
JUDGED = tuple(
    Measure(f"AUC by {name.upper()}, judged by people, %", (f"judgments.all.{name}.auc",), 100)
    for name in ("itc", "itm")
)
ANSWERS = Measure("answers right, %", ("answers.test.all",))
ONE_ANSWER = Measure("one answer to all, %", ("answers.test.majority.all",))
ZERO_SHOT_ANSWERS = Measure("answers right, %, or CIDEr", ("answers.test.all",))
BLIND = Measure("without the image", ("answers.test.without_image.all",))
