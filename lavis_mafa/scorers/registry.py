"""Judges by name: what `run.con_d` (and `--mafa-con-d`) may ask for. A new kind of judge is one file and one entry.

    from lavis_mafa.scorers.registry import JUDGES, Judge

    class Always:
        fingerprint = "always 0.9"

        def score(self, batch, image_K, text_K):
            return torch.full(image_K.shape, 0.9)

    JUDGES.add("always")(Judge(build=lambda request: Always()))

In a module that `run.plugins` names, this makes `run.con_d: {arch: always}` valid. core/scorer.py says what a scorer
is. Tested in tests/jobs/test_plugins.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.registry import Registry
from lavis_mafa.core.scorer import PairScorer, View, reads_tokens, same_view, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import RecordImages
from lavis_mafa.data.own_captions import OwnCaptions
from lavis_mafa.scorers.calibrated import calibrated

if TYPE_CHECKING:  # it stands on LAVIS, which a judge of captions does without
    from lavis_mafa.models.protocols import Student

Section = Mapping[str, object]


@dataclass(frozen=True)
class ScorerRequest:
    """What a judge is built from. A judge made of others builds them from `dataclasses.replace(request, section=…)`.

    section: its keys as the config has them, `arch` among them. where: that section's key, for errors.
    rule: the bounds that its scores are read by.
    data: the records that it will be asked about; None where they stream by.
    captions: those known of each image; None where they stream by, too: then a batch has each image's own.
    student: the model that learns from its verdicts, or stands beside it in an evaluation, on `data`; None in mining.
    """

    section: Section
    where: str
    device: torch.device
    rule: MafaSettings
    data: RecordImages | None = None
    student: Student | None = None
    captions: OwnCaptions | None = None

    @property
    def own_captions(self) -> OwnCaptions | None:
        """`captions`, else those of `data`."""
        return OwnCaptions.of_table(self.data.table) if self.captions is None and self.data else self.captions


def _no_files(section: Section) -> Iterable[tuple[str, str]]:
    return ()


@dataclass(frozen=True)
class Judge:
    """A kind of judge.

    build: raises ValueError, naming `request.where` and a key, for whatever a user can get wrong.
    keys: of its section, beside `arch` and, where it judges any pair, `calibration`; any other is refused.
    is_model: `arch` is a model of LAVIS' registry, so that `model_type` and the keys of that model are allowed, too.
    files: section → (key, path) of the files it reads, which must be there before a run starts.
    training_only: it stands on the model in training, on its batches or on its data, and cannot judge any pair.
    is_stored: a score is good for ever, so that a run keeps it; else its scorers have no fingerprint.
    costs: what `--dry-run` says that it takes beside the model, if anything.
    """

    build: Callable[[ScorerRequest], PairScorer]
    keys: tuple[str, ...] = ()
    is_model: bool = False
    files: Callable[[Section], Iterable[tuple[str, str]]] = _no_files
    training_only: bool = False
    is_stored: bool = True
    costs: str = ""


JUDGES: Registry[Judge] = Registry("judge")


def judge_of(section: Section, where: str = "run.con_d") -> Judge:
    """The kind of judge that a section names.

    Raises:
        ValueError: there is none of that name.
    """
    return JUDGES.find(section.get("arch"), f"{where}.arch")


def build_scorer(request: ScorerRequest) -> PairScorer:
    """The judge that `request.section` names.

    Raises:
        ValueError: an unknown name, one that serves in training alone where nothing is trained, and whatever its
            builder refuses.
    """
    judge = judge_of(request.section, request.where)
    if judge.training_only and request.student is None:
        serve = ", ".join(sorted(name for name, other in JUDGES.items() if not other.training_only))
        raise ValueError(
            f"{request.where}.arch: {request.section['arch']!r} judges in training alone, not any image and caption; "
            f"choose one of {serve}"
        )
    scorer = _built(judge, request)
    if judge.is_stored and scorer.fingerprint is None:
        raise ValueError(
            f"{request.where}: {type(scorer).__name__} has no fingerprint that its stored scores could belong to; give "
            f"it one, or register {request.section['arch']!r} with is_stored=False"
        )
    return scorer


def _built(judge: Judge, request: ScorerRequest) -> PairScorer:
    """With the calibration that the section names, if any."""
    path = request.section.get("calibration")
    if not path:
        return judge.build(request)
    section = {key: value for key, value in plain_config(request.section).items() if key != "calibration"}
    return calibrated(judge.build(replace(request, section=section)), str(path), request.where)


def keys_of(section: Section, where: str = "run.con_d") -> tuple[str, ...]:
    """The keys that a judge's section may have, beside those of its model.

    Raises:
        ValueError: no such judge.
    """
    judge = judge_of(section, where)
    return ("arch", *judge.keys) if judge.training_only else ("arch", "calibration", *judge.keys)


def judge_files(section: Section) -> Iterable[tuple[str, str]]:
    """(key, path) of the files that a judge reads, its calibration among them."""
    yield from judge_of(section).files(section)
    if section.get("calibration"):
        yield "calibration", str(section["calibration"])


def missing_view(scorer: PairScorer, data: RecordImages) -> View | None:
    """The view that `data` must add to its samples for the scorer; None where they hold what it looks at.

    A score of one augmentation may not be stored: a scorer with a view of its own is shown the record's clean image.
    """
    view = view_of(scorer)
    if view is None or (same_view(view, data.vis_processor) and (data.tokens is None or reads_tokens(scorer))):
        return None
    return view
