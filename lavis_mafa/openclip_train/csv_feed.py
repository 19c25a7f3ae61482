"""CSV data of open_clip's training in planned batches, with the identity of every pair.

open_clip's loop iterates over (images, texts) and calls the loss with features alone; `Feed` remembers which rows it
yielded last, so that the loss can look them up. Tested in tests/openclip/test_train.py and test_ranks.py.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lavis_mafa.common.loading import WatchedLoader
from lavis_mafa.common.ranks import barrier, gathered
from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.plan import Plan, PlannedBatchSampler
from lavis_mafa.core.scorer import View
from lavis_mafa.data.identity import clean_path, image_id, text_id
from lavis_mafa.data.records import TextProcessor
from lavis_mafa.openclip_train.batches import Pair, paired, parts
from lavis_mafa.openclip_train.images import CsvImages, RowBatch, RowViews


def pair_ids(images: Sequence[object], captions: Sequence[object], read: TextProcessor = str) -> Tensor:
    """(N, 2) int64: image_id and text_id of each row, from the path of its image and its caption.

    read: what the tokenizer makes of a caption before it is cut into tokens.
    """
    image_N = [image_id("csv", clean_path(str(image))) for image in images]
    return torch.tensor([image_N, [text_id(read(str(caption))) for caption in captions]]).T


class CsvRows(Protocol):
    """open_clip_train's CsvDataset: paths and captions, and a row's image and tokens as the model sees them."""

    images: Sequence[object]
    captions: Sequence[object]

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Pair: ...


class _Indexed(Dataset[tuple[Tensor, Tensor, int]]):
    """The rows of open_clip's data set with their number."""

    def __init__(self, dataset: CsvRows) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        image, text = parts(self.dataset[row])
        return image, text, row


class Feed:
    """The training loader that open_clip's loop sees: epochs of planned batches (images, texts) of one rank.

    dataset: open_clip_train's CsvDataset. ids_N2: pair_ids of its rows. planner: batch, ranks, sampling. folder: of
    plans and embeddings, shared by all ranks. dim: D of the features. accum_freq: batches the loss sees at a time.
    view: PIL image → tensor, how a judge sees an image, which `images` opens.
    """

    def __init__(
        self,
        dataset: CsvRows,
        ids_N2: Tensor,
        planner: GritPlanner,
        folder: Path,
        dim: int,
        rank: int,
        accum_freq: int = 1,
        workers: int = 0,
        view: View | None = None,
        images: CsvImages | None = None,
    ) -> None:
        self.dataset, self.ids_N2, self.planner, self.view = dataset, ids_N2, planner, view
        self.folder, self.rank, self.workers, self.images = folder, rank, workers, images or CsvImages()
        self.num_samples = len(dataset)
        self.num_batches = self.num_samples // (planner.batch_size * planner.world)
        self.epoch = -1
        self._plan: Plan | None = None
        self._last: deque[Tensor] = deque(maxlen=accum_freq)
        self.fresh = False  # a batch was yielded that the loss has not seen (accumulation shows it several times)
        store = folder / "embeddings", self.num_samples, dim, planner.fingerprint, rank, planner.world
        self._store = EmbeddingStore(*store) if planner.sampling == "grit" else None

    def __len__(self) -> int:
        return self.num_batches

    def set_value(self, epoch: int) -> None:
        """Plans the epoch; open_clip's DataInfo.set_epoch calls this before it iterates."""
        self.epoch = epoch
        barrier()  # every rank's embeddings of the epoch before are on disk
        path = self.folder / f"plan_{epoch}.npz"
        if not gathered(path.exists())[0]:  # a resumed run follows the plan it had
            plan = self._make_plan(epoch)
            if self.rank == 0:
                plan.save(path)
        barrier()
        self._plan = Plan.load(path, epoch=epoch, **self._expected())
        if self._store is not None:
            self._store.begin_epoch(epoch, self.num_batches * self.planner.batch_size)

    def __iter__(self) -> Iterator[Pair]:
        assert self._plan is not None, "set_value comes first"
        self._last.clear()
        loader = WatchedLoader(
            _Indexed(self.dataset),
            batch_sampler=PlannedBatchSampler(self._plan, self.rank),
            num_workers=self.workers,
            name_of=lambda row: str(self.dataset.images[row]),
            pin_memory=torch.cuda.is_available(),
        )
        for images, texts, row_B in loader:
            self._last.append(row_B)
            self.fresh = True
            yield paired(images, texts)
        if self._store is not None:
            self._store.commit()

    def rows(self, n: int) -> Tensor:
        """(n,) rows of the batch, or of the accumulated batches, that the loss is called with."""
        row_n = torch.cat(list(self._last))
        assert len(row_n) == n, f"{len(row_n)} rows were yielded, {n} features came back"
        return row_n

    def ids(self, n: int) -> Tensor:
        """(n, 2) image_id and text_id of the same rows."""
        return self.ids_N2[self.rows(n)]

    def samples(self, n: int, device: torch.device) -> RowBatch:
        """What a judge asks of the same rows: row, image_id, text_id (n,), caption, and judge_image where it looks."""
        row_n = self.rows(n)
        image_id_n, text_id_n = self.ids_N2[row_n].unbind(dim=1)
        captions = [str(self.dataset.captions[row]) for row in row_n.tolist()]
        samples: RowBatch = {"row": row_n, "image_id": image_id_n, "text_id": text_id_n, "caption": captions}
        if self.view is None:
            return samples
        paths = [str(self.dataset.images[row]) for row in row_n.tolist()]
        return {**samples, "judge_image": RowViews(paths, self.view, device, self.images)}

    def keep(self, image_features_nD: Tensor, text_features_nD: Tensor) -> None:
        """Stores the features that the next epoch is planned from, once for each batch."""
        if self._store is not None and self.fresh:
            self._store.write(self.rows(len(image_features_nD)), image_features_nD, text_features_nD)
        self.fresh = False

    def _make_plan(self, epoch: int) -> Plan:
        lead = embeddings = None
        if epoch > 0:
            lead = Plan.load(self.folder / f"plan_{epoch - 1}.npz", epoch=epoch - 1, **self._expected()).untrained
            embeddings = self._store.gather(epoch - 1) if self._store is not None else None
        plan = self.planner.plan(epoch, embeddings, self.num_samples, lead, self.ids_N2[:, 0].numpy())
        images = plan.stats["distinct_images"]
        logging.info("Epoch %d: %s batches of %.1f distinct images", epoch, plan.sampling, images)
        return plan

    def _expected(self) -> dict[str, object]:
        planner = self.planner
        return {
            "n_records": self.num_samples,
            "batch_size": planner.batch_size,
            "world": planner.world,
            "fingerprint": planner.fingerprint,
        }
