"""Data sets over a RecordTable: indexed samples for training, images and captions for retrieval.

A sample's randomness is f(seed, epoch, index), so results do not depend on the number of loader workers.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypedDict

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lavis_mafa.data.images import BadImageError
from lavis_mafa.data.records import RecordTable, TextProcessor

Ints = NDArray[np.int64]
AnyInts = NDArray[np.integer]  # int32 or int64
OpenImage = Callable[[int], Image.Image]  # record -> RGB image
VisProcessor = Callable[[Image.Image], Tensor]
TruthFunction = Callable[
    [AnyInts, AnyInts], NDArray[np.bool_]
]  # records (K,), caption rows (K,) -> whether they match (K,)
REPLACEMENTS = 16  # other records tried in place of one whose image cannot be read


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Run a block with Python's, NumPy's and torch's CPU generators seeded from `key`, and restore them after it.

    LAVIS' processors draw from the global generators, which must not affect the training step in the same process.
    """
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    python, numpy, pytorch = (int(word) for word in np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(pytorch)  # torch.manual_seed would reseed the accelerators too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _shared_zeros(size: int, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(size, dtype=dtype)
    zeros.share_memory_()  # type: ignore[no-untyped-call]  # of torch
    return zeros


class Sample(TypedDict, total=False):
    """One record; collated, core.batch.Batch."""

    image: Tensor
    image_tokens: Tensor
    judge_image: Tensor
    text_input: str
    caption: str
    index: int
    image_id: int
    text_id: int
    text_row: int


class RecordImages(Dataset[Sample]):
    """What training and retrieval share: a record's image, or its cached tokens, as part of a sample.

    Where there is a text processor, the table's text ids are those of what it makes of the captions.

    `open_image` gives a record's image. Attributes to attach: `tokens`, `judge_view` (a clean view for a scorer:
    sample["judge_image"]), `truth` (which pairs really match; None where unknown).
    """

    augmented = False

    def __init__(self, table: RecordTable, open_image: OpenImage, vis_processor: VisProcessor) -> None:
        self.table = table
        self.open_image = open_image
        self.vis_processor = vis_processor
        self.judge_view: VisProcessor | None = None
        self.truth: TruthFunction | None = None
        self._tokens: NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return self.table.n_records

    def _record(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return int(index)

    @property
    def tokens(self) -> NDArray[np.float16] | None:
        """(N, L, V) cached vision tokens: samples then hold image_tokens (float32) and no image."""
        return self._tokens

    @tokens.setter
    def tokens(self, tokens_NLV: NDArray[np.float16] | None) -> None:
        if tokens_NLV is not None and (tokens_NLV.ndim != 3 or len(tokens_NLV) != len(self)):
            raise ValueError(f"tokens {tokens_NLV.shape} do not match {len(self)} records: rebuild the token cache")
        if tokens_NLV is not None and self.augmented:
            raise ValueError("cached tokens need images without augmentation: use the evaluation processor")
        self._tokens = tokens_NLV

    def _views(self, record: int) -> Sample:
        """image or image_tokens, and judge_image where asked for; the file is opened only for a view that needs it."""
        views: Sample = {}
        if self._tokens is None or self.judge_view is not None:
            image = self.open_image(record)
        if self._tokens is None:
            views["image"] = self.vis_processor(image)
        else:
            views["image_tokens"] = torch.from_numpy(self._tokens[record].astype(np.float32))
        if self.judge_view is not None:
            views["judge_image"] = self.judge_view(image)
        return views


def image_named(dataset: Dataset[object], items: Sequence[int] | None = None) -> Callable[[int], str]:
    """Item of a data set, or place in `items` → the path of its image where the data set has a table, else its number.

    For messages, as of a loader whose worker hangs.
    """

    def name(item: int) -> str:
        record = item if items is None else int(items[item])
        table = getattr(dataset, "table", None)
        return f"item {record}" if table is None else f"the image {table.image(record)!r}"

    return name


class PairDataset(RecordImages):
    """One sample a record: its image and one of its captions, drawn anew each epoch.

    seed: of everything random; augmented: whether vis_processor draws (then cached tokens would be stale: ValueError).
    on_bad_image: "raise", or "replace": another record, chosen by seed and index, takes the place of one whose image
    cannot be read, and `bad_records` lists what was replaced.
    """

    def __init__(
        self,
        table: RecordTable,
        open_image: OpenImage,
        vis_processor: VisProcessor,
        text_processor: TextProcessor,
        seed: int,
        augmented: bool,
        on_bad_image: Literal["raise", "replace"] = "raise",
    ) -> None:
        super().__init__(table.read_through(text_processor), open_image, vis_processor)
        if on_bad_image not in ("raise", "replace"):
            raise ValueError(f"on_bad_image must be raise or replace, not {on_bad_image!r}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, not {seed}")
        self.text_processor = text_processor
        self.on_bad_image = on_bad_image
        self.seed = seed
        self.augmented = augmented
        # Shared memory: persistent workers see the new epoch, and the main process sees what workers replaced.
        self._epoch = _shared_zeros(1, torch.int64)
        self._bad = _shared_zeros(len(self), torch.bool) if on_bad_image == "replace" else None

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the samples that follow; call it before the loader is iterated."""
        self._epoch.fill_(epoch)

    @property
    def bad_records(self) -> list[int]:
        """The records that were replaced so far, in whatever worker; `table.image(record)` names the file."""
        return [] if self._bad is None else self._bad.nonzero()[:, 0].tolist()

    @bad_records.setter
    def bad_records(self, records: list[int]) -> None:
        assert self._bad is not None or not records, "none is replaced here"
        if self._bad is not None:
            self._bad[torch.tensor(records, dtype=torch.int64)] = True

    def text_row(self, index: int) -> int:
        """The caption row drawn for a record this epoch: each of c captions once in every c epochs, in random order."""
        rows = self.table.caption_rows(index)
        cycle, place = divmod(self.epoch, len(rows))
        return rows[int(np.random.default_rng((self.seed, index, cycle)).permutation(len(rows))[place])]

    def __getitem__(self, index: int) -> Sample:
        record = self._record(index)
        try:
            return self._sample(record)
        except BadImageError:
            if self._bad is None:
                raise
            return self._replacement(record, self._bad)

    def _replacement(self, record: int, bad_N: Tensor) -> Sample:
        bad_N[record] = True
        for other in np.random.default_rng((self.seed, record)).integers(len(self), size=REPLACEMENTS):
            try:
                return self._sample(int(other))
            except BadImageError:
                bad_N[other] = True
        raise BadImageError(
            f"neither image {self.table.image(record)!r} nor any of {REPLACEMENTS} others can be read: check the "
            "image folder"
        )

    def _sample(self, record: int) -> Sample:
        row = self.text_row(record)
        caption = self.table.caption(row)
        with seeded(self.seed, self.epoch, record):
            return self._views(record) | {
                "text_input": self.text_processor(caption),
                "caption": caption,
                "index": record,
                "image_id": int(self.table.image_id[record]),
                "text_id": int(self.table.text_id[row]),
                "text_row": row,
            }


class RetrievalDataset(RecordImages):
    """One item an image, and all captions as attributes, named as LAVIS' retrieval task reads them:

    text: processed captions (C,); image: paths (N,); txt2img: {caption row: record}; img2txt: {record: caption rows}.
    Also captions (raw) and text_id (C,) int64. ValueError if an image has more than one record.
    """

    def __init__(
        self,
        table: RecordTable,
        open_image: OpenImage,
        vis_processor: VisProcessor,
        text_processor: TextProcessor,
    ) -> None:
        table = table.read_through(text_processor)
        super().__init__(table, open_image, vis_processor)
        if len(np.unique(table.image_id)) < table.n_records:
            raise ValueError("retrieval needs each image once: gather its rows (one_caption_a_record: false)")
        self.text_processor = text_processor
        self.captions: list[str] = table.captions.to_pylist()
        self.text = [text_processor(caption) for caption in self.captions]
        self.image: list[str] = table.images.to_pylist()
        self.text_id = table.text_id
        self.txt2img = dict(enumerate(table.record_of_caption.tolist()))
        self.img2txt = {record: list(table.caption_rows(record)) for record in range(len(self))}

    def __getitem__(self, index: int) -> Sample:
        record = self._record(index)
        return self._views(record) | {"index": record, "image_id": int(self.table.image_id[record])}

    def positives(self, same_text: bool = False) -> tuple[Ints, Ints]:
        """(offsets (N+1,), caption rows): rows[offsets[i]:offsets[i+1]] are image i's positives, ascending.

        With `same_text` also the captions of other images that equal one of its own (by text_id).
        """
        if not same_text:
            return self.table.offsets, np.arange(self.table.n_captions)
        captions = pd.DataFrame({"text_id": self.text_id, "record": self.table.record_of_caption})
        captions["row"] = np.arange(len(captions))
        pairs = captions[["text_id", "record"]].merge(captions[["text_id", "row"]], on="text_id")
        pairs = pairs[["record", "row"]].drop_duplicates().sort_values(["record", "row"])
        offsets = np.searchsorted(pairs["record"].to_numpy(), np.arange(len(self) + 1)).astype(np.int64)
        return offsets, pairs["row"].to_numpy()
