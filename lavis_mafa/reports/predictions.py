"""A page to browse a language model's answers about images, in the gallery's style. No network, no server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from lavis_mafa.reports.gallery import write_page

VERDICT = "verdict"


@dataclass(frozen=True)
class Prediction:
    """`number`: of the sample whose image is shown; `truth`: known answers or captions; `score`: None if not known."""

    number: int
    image: str
    question: str
    answer: str
    truth: list[str]
    score: float | None = None
    kind: str = ""


def write_predictions(
    folder: str | Path,
    rows: Iterable[Prediction],
    open_image: Callable[[int], Image.Image],
    title: str,
    measure: str = VERDICT,
) -> Path:
    """Writes the folder anew and returns its index.html; samples of one image (`Prediction.image`) share a thumbnail.

    measure: what the scores are. A verdict above 0 is right, else wrong; a CIDEr score is neither.
    An address names a view: index.html#q=red+cube&verdict=wrong&sort=score&page=2.
    """
    rows = list(rows)
    verdicts = [_verdict(row.score) if measure == VERDICT else "" for row in rows]
    return write_page(
        Path(folder),
        "predictions.html.j2",
        [{**asdict(row), "verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True)],
        {row.image: row.number for row in reversed(rows)},
        open_image,
        title=title,
        searched="questions and answers",
        measure=measure,
        counts={name: verdicts.count(name) for name in ("right", "wrong") if name in verdicts},
    )


def _verdict(score: float | None) -> str:
    return "" if score is None else "right" if score > 0 else "wrong"
