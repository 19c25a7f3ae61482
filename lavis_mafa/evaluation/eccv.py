"""ECCV Caption and CxC on COCO's test images (Karpathy), by the package eccv_caption (extra `eccv`).

ECCV Caption (Chun et al., ECCV 2022, arXiv 2204.03359) and CxC (Parekh et al., arXiv 2004.15020) know matches that
COCO's annotation lacks. Both name captions by COCO's annotation ids, which LAVIS' files do not hold.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
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
    """ECCV Caption and CxC are about COCO's 5,000 test images (Karpathy); a part of them is judged by what is there.

    Raises:
        ValueError: a split that has none of the images or none of the captions; or the package is not installed.
    """
    known = _metrics().coco_gts
    there = len(set(known["i2t"]) & set(ids.image.tolist())), len(set(known["t2i"]) & set(ids.caption.tolist()))
    if not all(there):
        raise ValueError(
            f"run.coco_captions: the split {split} has no image of COCO's test split (Karpathy), which ECCV Caption "
            "and CxC are about; evaluate the split `test` of coco_retrieval (run.test_splits: [test]), or a part of "
            "it, or set run.coco_captions: null"
        )
    if there != (len(known["i2t"]), len(known["t2i"])):
        logging.getLogger(__name__).warning(
            "ECCV Caption and CxC: the split %s has %d of %d images and %d of %d captions of COCO's test split; "
            "figures are over these, and so higher than published ones",
            *(split, there[0], len(known["i2t"]), there[1], len(known["t2i"])),
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
    """{metric: {text | image: percent}}, `text`: captions found for an image. `of_*`: rows of scores.

    Of a part of the test split, matches and queries are those that are there; a metric that is left without a query is
    left out, and `share_of_test_split` has the share of its images (text) and captions (image).
    """
    i2t = _ranked(of_images, ids.image, ids.caption)
    t2i = _ranked(of_texts, ids.caption, ids.image)
    metrics = _metrics()
    shares = {way: _share(metrics.coco_gts[way], there) for way, there in (("i2t", i2t), ("t2i", t2i))}
    of_part = min(shares.values()) < 1
    asked = [name for name in METRICS if not of_part or _restrict(metrics, name.partition("_")[0], i2t, t2i)]
    found = metrics.compute_all_metrics(i2t, t2i, target_metrics=asked, Ks=(1, 5, 10))
    found |= {"share_of_test_split": shares} if of_part else {}
    return {name: {"text": 100 * float(v["i2t"]), "image": 100 * float(v["t2i"])} for name, v in found.items()}


def _share(known: Mapping[int, list[int]], there: Container[int]) -> float:
    return sum(query in there for query in known) / len(known)


Matches = dict[str, dict[int, list[int]]]  # {i2t | t2i: {id of a query: ids that match}}


class _Metrics(Protocol):
    """What is used of eccv_caption's, which has no types. i2t, t2i: {id of a query: ids found, best first}."""

    coco_gts: Matches
    cxc_gts: Matches
    eccv_gts: Matches

    def compute_all_metrics(
        self, i2t: dict[int, list[int]], t2i: dict[int, list[int]], target_metrics: Sequence[str], Ks: Sequence[int]
    ) -> dict[str, dict[str, float]]: ...


def _restrict(metrics: _Metrics, data: str, i2t: Container[int], t2i: Container[int]) -> bool:
    """Leaves of a data set's matches those whose image and caption are there. Returns whether queries are left."""
    matches: Matches = getattr(metrics, f"{data}_gts")
    for way, queries, items in (("i2t", i2t, t2i), ("t2i", t2i, i2t)):
        kept = {query: [item for item in known if item in items] for query, known in matches[way].items()}
        matches[way] = {query: known for query, known in kept.items() if known and query in queries}
    return all(matches.values())


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
