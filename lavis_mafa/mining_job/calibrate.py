"""`python -m lavis_mafa.calibrate --cfg-path X.yaml`: fits the file that `run.con_d.calibration` names.

The config is the one that mines; labels are those of labels.py. Tested in tests/jobs/test_calibrate.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.formats import header
from lavis_mafa.common.stdout import print_anything, show
from lavis_mafa.config.devices import take_device
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.calibration import Calibration, expected_calibration_error, reliability
from lavis_mafa.core.metrics import roc_auc
from lavis_mafa.core.scorer import PairScorer
from lavis_mafa.mining_job.config import load_mining
from lavis_mafa.mining_job.labels import LabelledPairs, labelled_pairs
from lavis_mafa.mining_job.networks import batches_of, build_judge, scores
from lavis_mafa.mining_job.source import load_source
from lavis_mafa.reports.reliability import draw_reliability
from lavis_mafa.reports.table import write_json
from lavis_mafa.scorers.calibrated import weights_of
from lavis_mafa.scorers.composite import Cascade, Composite, Ensemble

EXAMPLE = "projects/mafa/mine/mine_flickr8k.yaml", "run.calibration_curve=isotonic"
LENGTHS = 3  # groups of captions by their number of words

Floats = NDArray[np.floating]


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Fit and write the calibration that the config names; returns what the file holds."""
    cfg = load_mining(arguments)
    settings = cfg.run_cfg
    path = _target(settings.con_d)
    data = load_source(cfg).data
    pairs = labelled_pairs(settings, data.table)
    take_device(settings.device)
    device = torch.device(settings.device)
    plain = {key: value for key, value in plain_config(settings.con_d).items() if key != "calibration"}
    judge = build_judge(settings, data, device, plain)
    started = time.perf_counter()
    text_K, captions = _numbered(pairs.caption_K)
    batches = batches_of(settings, data, device)
    members = judge.members if isinstance(judge, Composite) else (judge,)
    score_FK = [
        scores(member, batches, pairs.record_K, text_K, lambda rows: _asked(captions, rows)) for member in members
    ]
    seconds = time.perf_counter() - started
    image_id_K = data.table.image_id[pairs.record_K]
    score_K, p_K, fitted = _fitted(judge, score_FK, pairs, image_id_K, settings.calibration_curve)
    found = {
        **header("calibration"),
        "judge": weights_of(judge),
        **fitted,
        "labels": {
            "source": pairs.source,
            "pairs": len(score_K),
            "matches": int(pairs.match_K.sum()),
            **_weighted(pairs),
        },
        "figures": figures(score_K, p_K, pairs),
        "pairs_a_second": len(score_K) / seconds,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = {"as scored": score_K, "calibrated": p_K}
    steps = {name: reliability(each, pairs.match_K, weight_K=pairs.weight_K) for name, each in drawn.items()}
    errors = {name: _error(each, pairs.match_K, pairs.weight_K) for name, each in drawn.items()}
    draw_reliability(path.with_suffix(".png"), steps, errors)
    write_json(path, found)
    show(_text(found, path))
    return found


def _fitted(
    judge: PairScorer, score_FK: list[Floats], pairs: LabelledPairs, image_id_K: NDArray[np.int64], curve: str
) -> tuple[Floats, Floats, dict[str, object]]:
    """(scores (K,), P(match) (K,), what the file keeps); F judges where one is made of others."""
    if isinstance(judge, (Ensemble, Cascade)):
        score_KF = np.column_stack(score_FK).astype(np.float64)
        weights = (pairs.weight_K,) if isinstance(judge, Ensemble) else ()  # a cascade does not look at labels
        fitted = judge.fit(score_KF, pairs.match_K, image_id_K, *weights)
        return judge.plain(score_KF), fitted.combined(score_KF, image_id_K), _kept(fitted, score_KF)
    calibration = Calibration.fitted(score_FK[0], pairs.match_K, image_id_K, curve, pairs.weight_K)
    return score_FK[0], calibration(score_FK[0], image_id_K), {"curves": calibration.as_json()}


def _kept(fitted: Ensemble | Cascade, score_KF: Floats) -> dict[str, object]:
    """Of a cascade also how much its first judge settles."""
    if isinstance(fitted, Cascade):
        return {**fitted.as_json(), "asked_of_the_second": float(fitted.open(score_KF[:, 0]).mean())}
    return fitted.as_json()


def _target(section: dict[str, object] | None) -> Path:
    """Raises ValueError: no judge, no file named, or one that is no calibration of ours."""
    if not section:
        raise ValueError("run.con_d names no judge to calibrate: give one, with its key calibration")
    if not section.get("calibration"):
        raise ValueError("run.con_d.calibration names no file: set it to the JSON file that will hold the calibration")
    path = Path(str(section["calibration"])).expanduser()
    if path.suffix != ".json" or path.is_dir():
        raise ValueError(f"run.con_d.calibration is {path}; it must be a .json file")
    if path.exists() and not _is_ours(path):
        raise ValueError(f"run.con_d.calibration: {path} is not a calibration file of lavis_mafa: name another file")
    return path


def _is_ours(path: Path) -> bool:
    try:
        return "lavis_mafa calibration" in json.loads(path.read_text(encoding="utf-8"))["format"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _numbered(caption_K: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    distinct = {caption: number for number, caption in enumerate(dict.fromkeys(caption_K))}
    return np.array([distinct[caption] for caption in caption_K], np.int64), list(distinct)


def _asked(captions: list[str], rows: NDArray[np.int64]) -> Batch:
    return {"caption": [captions[row] for row in rows.tolist()]}


def figures(score_K: Floats, p_K: Floats, pairs: LabelledPairs) -> dict[str, object]:
    """AUC of the scores and of P(match), ECE before and after, over all pairs and by caption length in words."""
    words_K = np.array([len(caption.split()) for caption in pairs.caption_K])
    edges = np.unique(np.quantile(words_K, np.linspace(0, 1, LENGTHS + 1)[1:-1]).astype(int))
    group_K = np.searchsorted(edges, words_K)
    by_length = {}
    for group in np.unique(group_K):
        at = group_K == group
        name = f"{words_K[at].min()} to {words_K[at].max()} words"
        weight_k = None if pairs.weight_K is None else pairs.weight_K[at]
        by_length[name] = _figures(score_K[at], p_K[at], pairs.match_K[at], weight_k)
    return {**_figures(score_K, p_K, pairs.match_K, pairs.weight_K), "by_caption_length": by_length}


def _error(p_K: Floats, match_K: NDArray[np.bool_], weight_K: Floats | None) -> float:
    return expected_calibration_error(p_K, match_K, weight_K=weight_K)


def _weighted(pairs: LabelledPairs) -> dict[str, float]:
    """How many pairs weighted labels stand for."""
    return {} if pairs.weight_K is None else {"stand_for": float(pairs.weight_K.sum())}


def _figures(
    score_K: Floats, p_K: Floats, match_K: NDArray[np.bool_], weight_K: Floats | None
) -> dict[str, float | None]:
    """Shares and errors are weighted, AUC is of the labelled pairs as they are."""
    both = match_K.any() and not match_K.all()
    return {
        "pairs": len(match_K),
        "base_rate": float(np.average(match_K, weights=weight_K)),
        "auc_of_scores": roc_auc(match_K, score_K) if both else None,
        "auc": roc_auc(match_K, p_K) if both else None,
        "ece_of_scores": _error(score_K, match_K, weight_K),
        "ece": _error(p_K, match_K, weight_K),
    }


def _text(found: dict[str, object], path: Path) -> str:
    labels, shown = found["labels"], found["figures"]
    lines = [
        "",
        f"{labels['pairs']:,} labelled pairs, {labels['matches']:,} match ({labels['source']}); cross-fitted by image",
        f"AUC {_percent(shown['auc_of_scores'])} as scored, {_percent(shown['auc'])} calibrated",
        f"ECE {_percent(shown['ece_of_scores'])} as scored, {_percent(shown['ece'])} calibrated",
    ]
    for name, each in shown["by_caption_length"].items():
        lines.append(f"  {name}: ECE {_percent(each['ece'])}, AUC {_percent(each['auc'])} of {each['pairs']:,} pairs")
    if "stand_for" in labels:
        lines.append(
            f"the column weight counts: curve and ECE are of the {labels['stand_for']:,.0f} pairs that these stand for"
        )
    lines.append("P(match) is that of pairs drawn as these were: of another mix, label some of it")
    return "\n".join([*lines, f"written to {path} and {path.with_suffix('.png').name}"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def main() -> None:
    from lavis_mafa.config.arguments import parse_arguments

    print_anything()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(parse_arguments("Make the scores of a judge probabilities, on labelled pairs", example=EXAMPLE))
