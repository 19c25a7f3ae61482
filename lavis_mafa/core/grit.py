"""GritPlanner: the batches of an epoch, from the embeddings of the epoch before (GRIT-VLP, section 3.2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.ranks import gathered, shard
from lavis_mafa.core.chain import DENSE_LIMIT, Chainer
from lavis_mafa.core.embeddings import EmbeddingRows, Embeddings
from lavis_mafa.core.neighbors import BACKENDS, IndexOptions, IntArray
from lavis_mafa.core.plan import Plan, planned, refuse_few
from lavis_mafa.core.siblings import keep_apart

SAMPLINGS = ("grit", "random")
SIBLINGS = ("apart", "free")

FloatRows = NDArray[np.floating]


@dataclass(frozen=True)
class _Arrays:
    """Two arrays (N, D) behind the interface of `Embeddings`; every record has its embeddings."""

    image_ND: FloatRows
    text_ND: FloatRows

    @property
    def missing(self) -> IntArray:
        return np.empty(0, np.int64)

    def image(self, records_n: IntArray) -> FloatRows:
        return self.image_ND[records_n]

    def text(self, records_n: IntArray) -> FloatRows:
        return self.text_ND[records_n]

    def check(self, n_records: int) -> None:
        shapes = self.image_ND.shape, self.text_ND.shape
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != n_records:
            raise ValueError(f"embeddings have shapes {shapes}; give two arrays (N, D) of N = {n_records} records")
        if not (np.isfinite(self.image_ND).all() and np.isfinite(self.text_ND).all()):
            raise ValueError("embeddings hold NaN or infinity: leave those records out, or see why the loss diverged")


@dataclass(frozen=True)
class GritPlanner:
    """Plans epochs: every record is in each plan once, and trained on in at least one of any two plans in a row.

    Attributes:
        batch_size: B, the batch of a rank; every rank's batch is a GRIT batch of its own.
        search_space: M, the records that a chain may choose from, or `all`.
        siblings: what becomes of the records of one image, where each caption is a record: `free`: nothing special
            (official); `apart`: a batch holds at most one of them, wherever that is possible.
        skip_nearest, quantile: the chain goes to others than the nearest (Chainer.place), for M up to DENSE_LIMIT.
        backend, threads: of NeighborIndex, used where M is beyond chain.DENSE_LIMIT; `ivf` stands for coarse cells.
        fingerprint: written into every plan.
        spread: the ranks of the process group chain search spaces side by side. Then all of them call `plan`, and have
            the plan that one alone makes.

    Raises:
        ValueError: a setting outside its range, with the allowed values.
    """

    batch_size: int
    world: int = 1
    search_space: int | str = "all"
    seed: int = 0
    sampling: str = "grit"
    siblings: str = "free"
    skip_nearest: int = 0
    quantile: float = 1.0
    backend: str = "auto"
    threads: int | None = None
    fingerprint: str = ""
    spread: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.search_space != "all" and (not isinstance(self.search_space, int) or self.search_space < 1):
            raise ValueError(f"search_space is {self.search_space!r}; it must be a whole number, at least 1, or all")
        allowed = {"sampling": SAMPLINGS, "siblings": SIBLINGS, "backend": BACKENDS}
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                raise ValueError(f"{key} is {getattr(self, key)!r}; allowed: {', '.join(values)}")
        if self.skip_nearest < 0 or not 0 <= self.quantile <= 1:
            raise ValueError(
                f"skip_nearest is {self.skip_nearest}, quantile {self.quantile}; "
                "skip_nearest must be a whole number, at least 0, and quantile a number in [0, 1]"
            )

    def plan(
        self,
        epoch: int,
        embeddings: Embeddings | tuple[FloatRows, FloatRows] | None,
        n_records: int,
        lead: IntArray | None = None,
        distinct_by: IntArray | None = None,
        left_out: IntArray | None = None,
    ) -> Plan:
        """The plan of `epoch`.

        Args:
            embeddings: of the epoch before, from a store (`EmbeddingStore.gather`) or as two float arrays (N, D), of
                the images and of the texts; None, as in the first epoch, makes the plan random.
            n_records: N.
            lead: the records that the plan before did not train on (`Plan.untrained`); they come first.
            distinct_by: image_id (N,) of the records, or rows, that are planned; None: each has an image of its own.
            left_out: records that are not planned: without a readable image they never have an embedding, and would
                lead every plan.

        Raises:
            ValueError: fewer records than a step takes; arrays of another shape, or with NaN or infinity.

        Example:
            >>> image_ND = text_ND = np.eye(4)[[0, 1, 0, 1]]  # records 0 and 2 look alike, 1 and 3 do
            >>> plan = GritPlanner(batch_size=2).plan(1, (image_ND, text_ND), 4)
            >>> sorted(sorted(batch) for batch in plan.batches(rank=0).tolist())
            [[0, 2], [1, 3]]
        """
        step = self.batch_size * self.world
        everything, lead = planned(n_records, lead, left_out)
        refuse_few(len(everything), self.batch_size, self.world)
        size = len(everything) if self.search_space == "all" else min(len(everything), int(self.search_space))
        if size > DENSE_LIMIT and (self.skip_nearest or self.quantile < 1):
            raise ValueError(
                f"search_space is {self.search_space}; with skip_nearest or quantile it can be at most "
                f"{DENSE_LIMIT} records"
            )
        rng = np.random.default_rng((self.seed, epoch))
        image_id_N = np.arange(n_records) if distinct_by is None else distinct_by
        source = None if self.sampling == "random" else _source(embeddings, n_records)
        leading, rest = self._divide(source, everything, lead, rng)
        order = np.concatenate([leading, rest])
        # What is not trained on is drawn before chaining; otherwise it would always be the outliers that end a chain.
        n_trained = len(order) - len(order) % step
        chained = order[len(leading) : n_trained]
        if source is not None and len(chained):
            order[len(leading) : n_trained] = self._chain(source, chained, rng)
        if self.siblings == "apart":
            order[:n_trained] = keep_apart(order[:n_trained], image_id_N, self.batch_size)
        order[:n_trained] = self._shuffle_batches(order[:n_trained], len(leading), rng)
        sampling = "random" if source is None else "grit"
        plan = Plan(order, epoch, self.batch_size, self.world, sampling, self.search_space, self.fingerprint)
        plan.describe(n_records, image_id_N)
        return plan

    def _divide(
        self, embeddings: Embeddings | _Arrays | None, everything: IntArray, lead: IntArray, rng: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """The records that lead (`lead`, then those that cannot be chained: no embedding), and the rest; shuffled."""
        lead_n = rng.permutation(lead)
        unchained = everything if embeddings is None else np.intersect1d(embeddings.missing, everything)
        leading = np.concatenate([lead_n, rng.permutation(np.setdiff1d(unchained, lead_n))])
        return leading, rng.permutation(np.setdiff1d(everything, leading))

    def _chain(self, embeddings: Embeddings | _Arrays, records: IntArray, rng: np.random.Generator) -> IntArray:
        """Chains shuffled records, search space by search space, each from a random start."""
        size = len(records) if self.search_space == "all" else int(self.search_space)
        options = IndexOptions(backend=self.backend, threads=self.threads, seed=self.seed)
        chainer = Chainer(options=options, skip=self.skip_nearest, quantile=self.quantile)
        # in record order, so that ties go to the lowest record
        spaces = [np.sort(records[low : low + size]) for low in range(0, len(records), size)]
        starts = [int(rng.integers(len(space))) for space in spaces]
        own = shard(len(spaces)) if self.spread else range(len(spaces))
        chained = [_chained(chainer, embeddings, spaces[number], starts[number]) for number in own]
        if self.spread:
            chained = [order for of_rank in gathered(chained) for order in of_rank]
        order_n: IntArray = np.concatenate(chained)
        return order_n

    def _shuffle_batches(self, order: IntArray, n_leading: int, rng: np.random.Generator) -> IntArray:
        """Shuffles the batches, never their inside; those that hold leading records stay first."""
        batches_KB = order.reshape(-1, self.batch_size)
        first = -(-n_leading // self.batch_size)
        batches_KB[first:] = rng.permutation(batches_KB[first:])
        return batches_KB.ravel()


def _chained(chainer: Chainer, embeddings: Embeddings | _Arrays, space: IntArray, start: int) -> IntArray:
    image, text = EmbeddingRows(embeddings.image, space), EmbeddingRows(embeddings.text, space)
    return space[chainer.chain(image, text, start)]


def _source(embeddings: Embeddings | tuple[FloatRows, FloatRows] | None, n_records: int) -> Embeddings | _Arrays | None:
    if not isinstance(embeddings, tuple):
        return embeddings
    arrays = _Arrays(*map(np.asarray, embeddings))
    arrays.check(n_records)
    return arrays
