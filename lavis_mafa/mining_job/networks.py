"""What a config names as plain callables for the engine of `mining`: who proposes candidates, and who judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from omegaconf import DictConfig
from torch.utils.data import Subset

from lavis_mafa.common.hashing import digest
from lavis_mafa.common.loading import WatchedLoader
from lavis_mafa.common.versions import installed_versions
from lavis_mafa.core import scorer as kinds
from lavis_mafa.core.batch import Batch, on_device
from lavis_mafa.core.scorer import PairScorer, View, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import RecordImages, Sample, image_named
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining.engine import Networks, Retriever
from lavis_mafa.mining_job.source import JobConfig, Records
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer

if TYPE_CHECKING:  # they know LAVIS' models
    from lavis_mafa.scorers.networks import Network

TEXT_BATCH = 256
# Raise it when our code makes other embeddings or scores of the same network and data: stored ones are then made anew.
RESULTS = 1

Batches = Callable[[View | None, np.ndarray], Iterator[Batch]]


class RecordViews(RecordImages):
    """One view a record, as a network wants it; none where its `view` is None."""

    def __getitem__(self, index: int) -> Sample:
        image: Sample = {} if self.vis_processor is None else self._views(int(index))
        return image | {"index": int(index), "image_id": int(self.table.image_id[index])}


def networks(cfg: JobConfig, data: Records, device: torch.device) -> Networks:
    """The judge (`run.con_d`, or `model`) and those who propose candidates (`run.retrievers`)."""
    run = cfg.run_cfg
    embedder = _embedder(cfg, device) if "model" in run.retrievers or not run.get("con_d") else None
    judge = build_judge(run, data, device) if run.get("con_d") else _own_judge(embedder, cfg)
    named: dict[str, Callable[[], Retriever]] = {
        "model": lambda: _by_model(embedder, batches_of(run, data, device)),
        "judge": lambda: _by_judge(judge, batches_of(run, data, device)),
    }
    retrievers = tuple(named[name]() for name in run.retrievers)
    score = _score(judge, data, batches_of(run, data, device))
    report: Callable[[], dict[str, int]] = getattr(getattr(judge, "inner", judge), "report", dict)
    return Networks(retrievers, score, _fingerprint(judge), report, kinds.gives_cosines(judge))


def build_judge(
    run: DictConfig, data: Records, device: torch.device, section: Mapping[str, object] | None = None
) -> PairScorer:
    """The judge of `run.con_d`, or of another section in its place.

    Of an image it knows what mining knows: the first caption alone where siblings hide.
    """
    known = data.table.first_captions() if run.hide_siblings else data.table
    records = RecordImages(known, data.open_image, None)
    return build_scorer(ScorerRequest(section or run.con_d, "run.con_d", device, rule(run), records))


def rule(run: DictConfig) -> MafaSettings:
    return MafaSettings(low=run.low, high=run.high)


def _embedder(cfg: JobConfig, device: torch.device) -> Network | None:
    """The network of `model`; None where the config has none."""
    if cfg.model_cfg is None:
        return None
    from lavis_mafa.scorers.con_d import build_embedder

    return build_embedder(cfg.model_cfg, device, "model")


def _own_judge(embedder: Network | None, cfg: JobConfig) -> PairScorer:
    if isinstance(embedder, PairScorer):
        return embedder
    arch = cfg.model_cfg.arch if cfg.model_cfg else "the config"
    raise ValueError(f"run.con_d is not set, and {arch} has no matching head to judge with: name one")


def batches_of(run: DictConfig, data: Records, device: torch.device) -> Batches:
    def batches(view: View | None, records: np.ndarray) -> Iterator[Batch]:
        views = RecordViews(data.table, data.open_image, view)
        shown, size = Subset(views, records.tolist()), int(run.batch_size_eval)
        loader = WatchedLoader(
            shown, batch_size=size, num_workers=int(run.num_workers), name_of=image_named(views, records)
        )
        for batch in loader:
            yield on_device(batch, device)

    return batches


def _by_model(embedder: Network | None, batches: Batches) -> Retriever:
    """ITC: the embeddings of `model`."""
    if embedder is None:
        raise ValueError("run.retrievers names model, but the config has no section `model`: give one, or [judge]")
    from lavis_mafa.scorers.embedders import embed_images, embed_texts

    network = embedder

    def images(records: np.ndarray) -> np.ndarray:
        seen = batches(network.vis_processor, records)
        return torch.cat([embed_images(network.model, batch).float().cpu() for batch in seen]).numpy()

    def texts(captions: Sequence[str]) -> np.ndarray:
        processed = [network.text_processor(caption) for caption in captions]
        parts = [processed[start : start + TEXT_BATCH] for start in range(0, len(processed), TEXT_BATCH)]
        return torch.cat([embed_texts(network.model, part).float().cpu() for part in parts]).numpy()

    return Retriever(images, texts, _fingerprint(network), "model")


def _by_judge(judge: PairScorer, batches: Batches) -> Retriever:
    """The judge's own embeddings."""
    retriever = kinds.retriever_of(judge)
    if retriever is None:
        raise ValueError(f"run.retrievers names judge, but {type(judge).__name__} embeds nothing: name model alone")
    found = retriever

    def images(records: np.ndarray) -> np.ndarray:
        seen = batches(view_of(judge), records)
        return torch.cat([found.embed_images(shown(batch)).float().cpu() for batch in seen]).numpy()

    def texts(captions: Sequence[str]) -> np.ndarray:
        return found.embed_texts(captions).float().cpu().numpy()

    return Retriever(images, texts, _fingerprint(found), "judge", not kinds.looks_at_images(judge))


def _score(judge: PairScorer, data: Records, batches: Batches) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def score(record_K: np.ndarray, row_K: np.ndarray) -> np.ndarray:
        return scores(judge, batches, record_K, row_K, lambda rows: _captions(data.table, rows))

    return score


def scores(
    judge: PairScorer,
    batches: Batches,
    record_K: np.ndarray,
    text_K: np.ndarray,
    captions: Callable[[np.ndarray], Batch],
) -> np.ndarray:
    """(K,) of pairs, image by image. captions: text numbers, each once → the fields of a batch that are of captions."""
    p_K = np.empty(len(record_K), np.float32)
    for batch in batches(view_of(judge), np.unique(record_K)):
        index = batch["index"].cpu().numpy()
        at = np.flatnonzero(np.isin(record_K, index))
        texts, text_k = np.unique(text_K[at], return_inverse=True)
        asked: Batch = {**shown(batch), **captions(texts)}
        image_k = torch.from_numpy(np.searchsorted(index, record_K[at]))
        p_K[at] = judge.score(asked, image_k, torch.from_numpy(text_k)).cpu().numpy()
    return p_K


def shown(batch: Batch) -> Batch:
    """The images of a batch under the name that a scorer looks for (core/scorer.py)."""
    found: Batch = {"index": batch["index"], "image_id": batch["image_id"]}
    if "image" in batch:
        found["judge_image"] = batch["image"]
    return found


def _captions(table: RecordTable, rows: np.ndarray) -> Batch:
    captions = [table.caption(row) for row in rows.tolist()]
    return {"caption": captions, "text_id": torch.from_numpy(table.text_id[rows]), "text_row": torch.from_numpy(rows)}


def _fingerprint(network: Network | PairScorer | kinds.Retriever) -> str:
    """What an embedding or a score depends on beside the data: weights, preparation, libraries and code."""
    preparation = getattr(network, "preparation", tuple)()
    return f"{network.fingerprint}:{digest(RESULTS, installed_versions(), *preparation)}"
