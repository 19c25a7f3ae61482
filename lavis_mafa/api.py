"""Mining without a YAML: `lavis_mafa.score_pairs` and `find_connections`. Tested in tests/jobs/test_api.py."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from omegaconf import OmegaConf
from PIL import Image

from lavis_mafa.common.cache import JOB
from lavis_mafa.common.folders import held
from lavis_mafa.common.hashing import digest_of
from lavis_mafa.common.run_schema import MineRun
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.pairs import VERDICTS
from lavis_mafa.core.scorer import PairScorer, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import RecordImages
from lavis_mafa.data.identity import text_id
from lavis_mafa.data.images import open_file
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Mined, mine
from lavis_mafa.mining_job.networks import networks, rule
from lavis_mafa.mining_job.source import Records
from lavis_mafa.registration import register_all
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer

Picture = str | Path | Image.Image
Captions = Sequence[str | Sequence[str]]
Section = Mapping[str, object]
BATCH = 64


def score_pairs(
    images: Sequence[Picture],
    texts: Sequence[str],
    *,
    judge: Section,
    captions: Captions | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """P(match) of images[k] with texts[k].

    Args:
        images: (K,) paths or PIL images.
        texts: (K,) captions.
        judge: what `run.con_d` takes, such as {"arch": "captions", "encoder": FOLDER_OR_HUB_NAME}, or a matching
            network {"arch": "mafa_albef", "model_type": "scenes_con_d", "load_finetuned": True}.
        captions: (K,) the captions known of each image, one or several: what a judge of captions compares with.
        device: cpu, cuda or cuda:N.

    Returns:
        (K,) float32 in [0, 1].

    Raises:
        ValueError: lengths that differ, an image that cannot be read, a judge that cannot be built.
    """
    _same_length(images=images, texts=texts, captions=images if captions is None else captions)
    _register()
    data = _records(images, texts if captions is None else captions)
    scorer = _judge(judge, data, torch.device(device))
    if captions is None and getattr(scorer, "reads_captions_alone", False):
        raise ValueError(f"judge: {judge['arch']} compares captions: give `captions`, those known of each image")
    parts = [range(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)]
    return np.concatenate([_scored(scorer, data, texts, part, device) for part in parts] or [np.empty(0, np.float32)])


def find_connections(
    images: Sequence[Picture],
    captions: Captions,
    *,
    judge: Section,
    embedder: Section | None = None,
    low: float = 0.5,
    high: float = 0.8,
    nearest: int = 20,
    device: str = "cpu",
    cache: str | Path | None = None,
) -> pd.DataFrame:
    """The pairs of a data set that match and are not annotated, and how sure the judge is.

    Args:
        images: (N,) paths or PIL images.
        captions: (N,) one caption, or several, of each image.
        judge: see `score_pairs`.
        embedder: the model whose ITC proposes candidates, as a YAML's section `model` names it, such as
            {"arch": "mafa_albef", "model_type": "scenes_con_d"}; None: the judge itself, where it has embeddings.
        low, high: P(match) below `low` is a negative, above `high` a connection.
        nearest: so many of the nearest images of a caption, and captions of an image, are judged.
        device: cpu, cuda or cuda:N.
        cache: a folder for embeddings and scores, so that another call goes on from them; None: nothing is kept.

    Returns:
        A row a candidate, the surest first: image (place in `images`), caption, similarity (of the embedder), p,
        verdict (connection, ambiguous, negative).

    Raises:
        ValueError: as `score_pairs`.
    """
    _same_length(images=images, captions=captions)
    _refuse_twice(images)
    _register()
    data = _records(images, captions)
    run = OmegaConf.structured(MineRun(con_d=dict(judge), low=low, high=high, range_max=nearest, device=device))
    run.retrievers = ["judge"] if embedder is None else ["model"]
    model = None if embedder is None else OmegaConf.create(dict(embedder))
    found = networks(SimpleNamespace(model_cfg=model, run_cfg=run), data, torch.device(device))
    with ExitStack() as stack:
        folder = Path(cache or stack.enter_context(tempfile.TemporaryDirectory()))
        corpus, search = Corpus.of(data.table), SearchSettings(range_max=nearest)
        if cache:
            stack.enter_context(held(folder, JOB, "cache"))
        pictures = digest_of(map(_content, images)) if cache else ""
        mined = mine(corpus, found, search, rule(run), folder, pictures)
        return _frame(corpus, mined)


def _same_length(**given: Sequence[object]) -> None:
    sizes = {name: len(values) for name, values in given.items()}
    if len(set(sizes.values())) > 1 or not all(sizes.values()):
        counts = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"got {counts}: give as many of each, at least one")


def _refuse_twice(images: Sequence[Picture]) -> None:
    """Raises ValueError: a path that is given twice would be two images, and their captions no known positives."""
    paths = [os.path.realpath(image) for image in images if not isinstance(image, Image.Image)]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"images: {twice} is given twice: give an image once, with all its captions")


def _register() -> None:
    """Every judge that can be had here: without LAVIS those that need none."""
    if find_spec("lavis"):
        register_all()
    else:
        import_module("lavis_mafa.scorers.without_lavis")


def _records(images: Sequence[Picture], captions: Captions) -> Records:
    """A record an image, in the order given."""
    lists = [[each] if isinstance(each, str) else list(each) for each in captions]
    rows = pa.table({"image": [f"image {number}" for number in range(len(images))], "caption": lists})
    return Records(RecordTable.from_rows(rows, "api"), lambda record: _opened(images[int(record)]))


def _opened(image: Picture) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else open_file(image)


def _content(image: Picture) -> object:
    """What a cached embedding of an image hangs on."""
    if isinstance(image, Image.Image):
        return image.tobytes()
    stat = os.stat(image)
    return os.path.realpath(image), stat.st_size, stat.st_mtime_ns


def _judge(section: Section, data: Records, device: torch.device) -> PairScorer:
    records = RecordImages(data.table, data.open_image, None)
    return build_scorer(ScorerRequest(section, "judge", device, MafaSettings(), records))


def _scored(scorer: PairScorer, data: Records, texts: Sequence[str], part: range, device: str) -> np.ndarray:
    view, asked = view_of(scorer), [texts[k] for k in part]
    batch: Batch = {
        "index": torch.tensor(list(part)),
        "image_id": torch.from_numpy(data.table.image_id[part.start : part.stop]),
        "caption": asked,
        "text_id": torch.tensor([text_id(text) for text in asked]),
    }
    if view is not None:
        batch["judge_image"] = torch.stack([view(data.open_image(k)) for k in part]).to(device)
    at = torch.arange(len(part), device=device)
    return scorer.score(batch, at, at).float().cpu().numpy()


def _frame(corpus: Corpus, mined: Mined) -> pd.DataFrame:
    pairs = mined.candidates
    rows = corpus.text_row_T[pairs.text_K]
    frame = pd.DataFrame(
        {
            "image": pairs.record_K,
            "caption": [corpus.table.caption(int(row)) for row in rows],
            "similarity": pairs.similarity_K,
            "p": mined.p_K,
            "verdict": [VERDICTS[verdict] for verdict in mined.verdict_K.tolist()],
        }
    )
    return frame.sort_values("p", ascending=False, kind="stable", ignore_index=True)
