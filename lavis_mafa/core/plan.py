"""The plan of an epoch: its file, and the batch sampler that follows it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import Sampler

from lavis_mafa.common.artifacts import atomic_write, check_header, reading
from lavis_mafa.common.formats import check_format, header
from lavis_mafa.core.neighbors import IntArray
from lavis_mafa.core.siblings import distinct_images

REMEDY = "Resume with the settings it was made with, or start in an empty folder."
ABOUT = ("epoch", "batch_size", "world", "sampling", "search_space", "fingerprint")
OLD = "go on with the version that wrote it, or start in an empty folder"


@dataclass(frozen=True)
class Plan:
    """The batches of one epoch: a permutation of N records of which the first `steps` · world · B are trained on.
    Records whose image cannot be read are not among the N.

    Step s of rank r takes rows [(s · world + r) · B, + B) of `order_N`; the records left over (N modulo B · world) lead
    the next plan.

    Attributes:
        sampling: how this plan was made, `grit` or `random` (the first epoch of a GRIT run is random).
        search_space: M or `all`.
        fingerprint: names data, weights and config of the run.
        stats: `distinct_images`: mean number of different images in a batch; `left_out`: records that are not planned,
            where there are such.
    """

    order_N: IntArray
    epoch: int
    batch_size: int
    world: int
    sampling: str
    search_space: int | str
    fingerprint: str = ""
    stats: dict[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps of the epoch, of B records on every rank."""
        return len(self.order_N) // (self.batch_size * self.world)

    @property
    def untrained(self) -> IntArray:
        """The records that this epoch does not train on."""
        return self.order_N[self.steps * self.batch_size * self.world :]

    @property
    def batches_of_all(self) -> IntArray:
        """The batches (steps · world, B) of all ranks."""
        trained: IntArray = self.order_N[: len(self.order_N) - len(self.untrained)]
        return trained.reshape(-1, self.batch_size)

    def batches(self, rank: int) -> IntArray:
        """The batches (steps, B) of one rank."""
        assert 0 <= rank < self.world
        return self.batches_of_all[rank :: self.world]

    def describe(self, n_records: int, image_id_N: IntArray) -> None:
        """Fills `stats`; image_id_N: image of every record of the data set."""
        self.stats["distinct_images"] = distinct_images(image_id_N[self.batches_of_all])
        if missing := n_records - len(self.order_N):
            self.stats["left_out"] = missing

    def save(self, path: str | Path) -> None:
        """Writes the plan atomically."""
        about = json.dumps({**header("plan"), "n_records": len(self.order_N), "stats": self.stats, **self._about()})
        with atomic_write(Path(path)) as file:
            np.savez(file, order=self.order_N, about=np.array(about))

    @classmethod
    def load(cls, path: str | Path, **expected: object) -> "Plan":
        """Reads a plan.

        Args:
            expected: what the run expects of it: epoch, n_records, batch_size, world, fingerprint, …

        Raises:
            ValueError: the file is missing, torn, of another version, or not what is expected, with what differs.
        """
        path = Path(path)
        with reading(path, "plan", "Resume from another checkpoint."), np.load(path, allow_pickle=False) as file:
            order_N, about = file["order"], json.loads(str(file["about"]))
        check_format(path, "plan", about, OLD)
        check_header(path, about, {"n_records": len(order_N), **expected}, REMEDY)
        return cls(order_N, **{name: about[name] for name in (*ABOUT, "stats")})

    def _about(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ABOUT}


@dataclass(frozen=True)
class RandomPlanner:
    """Plans epochs of random batches: every record is in each plan once, and trained on in one of any two in a row;
    those left out are in none."""

    batch_size: int
    world: int = 1
    seed: int = 0
    fingerprint: str = ""

    def plan(
        self, epoch: int, n_records: int, lead: IntArray | None, image_id_N: IntArray, left_out: IntArray | None = None
    ) -> Plan:
        """The plan of `epoch`.

        Args:
            lead: the records that the plan before did not train on (`Plan.untrained`); they come first.
            image_id_N: image of every record, for the count of distinct images in a batch.
            left_out: records that are not planned, as their image cannot be read.

        Raises:
            ValueError: fewer records than a step takes.
        """
        everything, first = planned(n_records, lead, left_out)
        refuse_few(len(everything), self.batch_size, self.world)
        rng = np.random.default_rng((self.seed, epoch))
        first = rng.permutation(first)
        order_N = np.concatenate([first, rng.permutation(np.setdiff1d(everything, first))])
        plan = Plan(order_N, epoch, self.batch_size, self.world, "random", "all", self.fingerprint)
        plan.describe(n_records, image_id_N)
        return plan


def planned(n_records: int, lead: IntArray | None, left_out: IntArray | None) -> tuple[IntArray, IntArray]:
    """The records that a plan has, rising, and those of `lead` among them, in their order."""
    none = np.empty(0, np.int64)
    lead, left_out = (none if given is None else given for given in (lead, left_out))
    return np.setdiff1d(np.arange(n_records), left_out), lead[~np.isin(lead, left_out)]


def refuse_few(n_records: int, batch_size: int, world: int) -> None:
    """ValueError where a step takes more records than there are."""
    if n_records < batch_size * world:
        raise ValueError(
            f"{n_records} records do not fill one step of {world} x {batch_size}: "
            f"lower the batch size to {n_records // world} or less, or add data"
        )


class PlannedBatchSampler(Sampler[list[int]]):
    """Yields the batches of one rank (lists of B record numbers), from step `start_step` of the plan on."""

    def __init__(self, plan: Plan, rank: int, start_step: int = 0) -> None:
        assert 0 <= start_step <= plan.steps
        self.batches = plan.batches(rank)[start_step:]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch.tolist()
