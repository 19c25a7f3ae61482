"""The ground truth of an evaluation split: our data sets' and LAVIS' own, as rows of one kind."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

from lavis.common.registry import registry
from lavis.datasets.datasets.base_dataset import BaseDataset

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.downloads import fetched, is_url
from lavis_mafa.common.files import local_file
from lavis_mafa.data.dataset import OpenImage, RetrievalDataset
from lavis_mafa.data.images import open_image
from lavis_mafa.data.questions import QuestionDataset, QuestionRow, answers_of
from lavis_mafa.data.rules import FileRules
from lavis_mafa.data.splits import OpensImages


class Annotation(TypedDict, total=False):
    """A question or a caption in a file of LAVIS, or in COCO's format."""

    image: str
    img_id: int
    question_id: int
    question: str
    answer: list[str]
    answers: list[dict[str, str]]
    question_type: str
    answer_type: str


class CocoCaption(TypedDict):
    id: int
    image_id: int
    caption: str


def question_rows(dataset: QuestionDataset | BaseDataset) -> list[QuestionRow]:
    """Row i is of sample i. LAVIS' VQA sets score by their files in COCO format, which also name the types."""
    if isinstance(dataset, QuestionDataset):
        return dataset.rows
    official = _official(getattr(dataset, "coco_fmt_anno_file", None))
    return [_row(annotation, official.get(int(annotation["question_id"]), {})) for annotation in dataset.annotation]


def image_opener(dataset: OpensImages | BaseDataset) -> OpenImage:
    """What opens the image of sample i."""
    if isinstance(dataset, OpensImages):
        return dataset.open_image
    rules = FileRules(allow_symlinks=True)  # LAVIS' data set has followed them already
    return lambda number: open_image(dataset.vis_root, dataset.annotation[number]["image"], rules)


def _official(path: str | None) -> dict[int, Annotation]:
    if not path:
        return {}
    with reading(Path(path), "file of VQA's annotations"):
        annotations: list[Annotation] = json.loads(Path(path).read_text(encoding="utf-8"))["annotations"]
        return {int(one["question_id"]): one for one in annotations}


def _row(annotation: Annotation, official: Annotation) -> QuestionRow:
    return QuestionRow(
        int(annotation["question_id"]),
        str(annotation["image"]),
        str(annotation["question"]),
        answers_of(official.get("answers") or annotation.get("answer")),
        official.get("question_type", annotation.get("question_type")),
        official.get("answer_type", annotation.get("answer_type")),
    )


@dataclass(frozen=True)
class CaptionTruth:
    """`image_ids`, `images` (paths) of the samples, and `references` {image_id: captions}, empty where held back."""

    image_ids: list[int]
    images: list[str]
    references: Mapping[int, list[str]] = field(default_factory=dict)


def caption_truth(
    dataset: RetrievalDataset | BaseDataset, references: Mapping[int, list[str]] | None = None
) -> CaptionTruth:
    """Of a retrieval split its own captions; of LAVIS' caption sets `references`, {image_id: captions}.

    Raises:
        ValueError: references that lack an image of the split.
    """
    if isinstance(dataset, RetrievalDataset):
        own = {record: [dataset.captions[row] for row in rows] for record, rows in dataset.img2txt.items()}
        return CaptionTruth(list(range(len(dataset))), list(dataset.image), own)
    ids = [_image_id(annotation) for annotation in dataset.annotation]
    images = [str(annotation["image"]) for annotation in dataset.annotation]
    lacking = [image for image in ids if references and image not in references]
    if lacking:
        raise ValueError(f"run.references has no captions for {len(lacking)} images, e.g. {lacking[0]}")
    return CaptionTruth(ids, images, references or {})


def _image_id(annotation: Annotation) -> int:
    """nocaps names its images by number; COCO's number ends the file's name (COCO_val2014_000000391895.jpg)."""
    if "img_id" in annotation:
        return int(annotation["img_id"])
    return int(re.findall(r"\d+", str(annotation["image"]).rsplit("/", 1)[-1])[-1])


def read_references(source: str) -> dict[int, list[str]]:
    """The captions of a COCO file, local or by URL, by image."""
    # LAVIS' own download waits for every rank, but rank 0 alone judges
    path = fetched(source, registry.get_path("cache_root")) if is_url(source) else local_file(source)
    found: dict[int, list[str]] = defaultdict(list)
    for one in read_coco(path, "run.references"):
        found[int(one["image_id"])].append(str(one["caption"]))
    return dict(found)


def read_coco(path: Path, setting: str) -> list[CocoCaption]:
    """The annotations of a COCO captions file, which `setting` names."""
    with reading(path, "COCO captions file", f"Set {setting} to a file of that kind, e.g. captions_val2014.json."):
        annotations: list[CocoCaption] = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    return annotations


def coco_format(truth: CaptionTruth) -> dict[str, object]:
    """The references as a COCO file: images, annotations."""
    annotations = [(image, caption) for image in truth.image_ids for caption in truth.references.get(image, [])]
    return {
        "images": [{"id": i, "file_name": name} for i, name in zip(truth.image_ids, truth.images, strict=True)],
        "annotations": [{"id": n, "image_id": i, "caption": c} for n, (i, c) in enumerate(annotations)],
        "type": "captions",
    }
