"""ECCV Caption and CxC on COCO's test images (Karpathy), by the package eccv_caption (extra `eccv`).

ECCV Caption (Chun et al., ECCV 2022, arXiv 2204.03359) and CxC (Parekh et al., arXiv 2004.15020) know matches that
COCO's annotation lacks. Both name captions by COCO's annotation ids, which LAVIS' files do not hold.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lavis_mafa.data.dataset import RetrievalDataset
from lavis_mafa.data.identity import normalised
from lavis_mafa.evaluation.ground_truth import read_coco

MOST_POSITIVES = 48  # of a query: so many places R-precision looks at
TOP = 100  # places that are ranked
METRICS = ("coco_5k_recalls", "cxc_recalls", "eccv_r1", "eccv_rprecision", "eccv_map_at_r")
REMEDY = 'pip install -e ".[eccv]" brings it'


@dataclass(frozen=True)
class CocoIds:
    """COCO's ids of the images (N,) and captions (C,) of a split."""

    image: np.ndarray
    caption: np.ndarray


def coco_ids(dataset: RetrievalDataset, captions_file: str) -> CocoIds:
    """Of a retrieval split of COCO, by its captions_val2014.json: an image by its file's name, a caption by its text.

    Raises:
        ValueError: a file that cannot be read, or a caption that it does not hold.
    """
    annotations = read_coco(Path(captions_file).expanduser(), "run.coco_captions")
    known: dict[tuple[int, str], list[int]] = defaultdict(list)
    for one in annotations:
        known[int(one["image_id"]), normalised(one["caption"])].append(int(one["id"]))
    images = np.array([_number(path) for path in dataset.image])
    captions = []
    for row, caption in enumerate(dataset.captions):
        ids = known[int(images[dataset.txt2img[row]]), normalised(caption)]
        if not ids:
            raise ValueError(
                f"run.coco_captions: {captions_file} lacks {caption!r} of {dataset.image[dataset.txt2img[row]]}"
            )
        captions.append(ids.pop(0))  # an image may have the same caption twice
    return CocoIds(images, np.array(captions))


def refuse_other_split(split: str, ids: CocoIds) -> None:
    """ECCV Caption and CxC rank all captions of COCO's 5,000 test images.

    Raises:
        ValueError: another split, or a part of it; or the package is not installed.
    """
    known = _metrics().coco_gts
    lacking = len(set(known["i2t"]) - set(ids.image.tolist())), len(set(known["t2i"]) - set(ids.caption.tolist()))
    if any(lacking):
        raise ValueError(
            f"run.coco_captions: the split {split} is not COCO's test split (Karpathy), which ECCV Caption and CxC "
            f"need: it lacks {lacking[0]} of its images and {lacking[1]} of its captions; evaluate the whole split "
            "`test` of coco_retrieval (run.test_splits: [test]), or set run.coco_captions: null"
        )


def _number(path: str) -> int:
    """391895 of val2014/COCO_val2014_000000391895.jpg."""
    found = re.findall(r"\d+", str(path).rsplit("/", 1)[-1])
    if not found:
        raise ValueError(f"run.coco_captions: {path} is not an image file of COCO")
    return int(found[-1])


def eccv_figures(
    of_images: Callable[[range], np.ndarray], of_texts: Callable[[range], np.ndarray], ids: CocoIds
) -> dict[str, dict[str, float]]:
    """{metric: {text | image: percent}}, `text`: captions found for an image. `of_*`: rows of scores."""
    i2t = _ranked(of_images, ids.image, ids.caption)
    t2i = _ranked(of_texts, ids.caption, ids.image)
    found = _metrics().compute_all_metrics(i2t, t2i, target_metrics=METRICS, Ks=(1, 5, 10))
    return {name: {"text": 100 * float(v["i2t"]), "image": 100 * float(v["t2i"])} for name, v in found.items()}


class _Metrics(Protocol):
    """What is used of eccv_caption's, which has no types. i2t, t2i: {id of a query: ids found, best first}."""

    coco_gts: Mapping[str, Mapping[int, Sequence[int]]]

    def compute_all_metrics(
        self, i2t: dict[int, list[int]], t2i: dict[int, list[int]], target_metrics: Sequence[str], Ks: Sequence[int]
    ) -> dict[str, dict[str, float]]: ...


def _metrics() -> _Metrics:
    try:
        from eccv_caption import Metrics
    except ImportError as error:
        raise ValueError(f"run.coco_captions needs the package eccv_caption; {REMEDY}") from error
    metrics: _Metrics = Metrics()
    return metrics


def _ranked(rows: Callable[[range], np.ndarray], query_id: np.ndarray, item_id: np.ndarray) -> dict[int, list[int]]:
    """{id of a query: ids of its TOP best, best first}."""
    ranked: dict[int, list[int]] = {}
    for start in range(0, len(query_id), 1024):
        queries = range(start, min(start + 1024, len(query_id)))
        scores = rows(queries)
        best = np.argpartition(-scores, min(TOP, scores.shape[1]) - 1, axis=1)[:, :TOP]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        items = item_id[np.take_along_axis(best, order, 1)]
        ranked |= {int(query_id[query]): row.tolist() for query, row in zip(queries, items, strict=True)}
    return ranked
