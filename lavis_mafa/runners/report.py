"""What a pre-training run ends with: a table, results.json, curves.png and a page of connections it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from lavis_mafa.common.hashing import file_sha256
from lavis_mafa.common.stdout import show
from lavis_mafa.common.versions import commit, versions
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.pairs import CONNECTION, judge
from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.evaluation.judge_check import JudgeCheck
from lavis_mafa.mining.shown import gallery_row
from lavis_mafa.models.pretrained import checkpoint_path, weights_file
from lavis_mafa.models.trained import weights_hash
from lavis_mafa.reports.curves import draw_curves
from lavis_mafa.reports.gallery import GalleryRow, write_gallery
from lavis_mafa.reports.pages import write_run_page
from lavis_mafa.reports.table import results_table, write_json
from lavis_mafa.runners.run import Results, Run

SHOWN = 48  # connections on the page
COUNTS = {"pairs_scored": "scored", "connections": "connections"}
LABELLED = ("false_negatives", "mismatches")


def report_run(
    run: Run,
    miner: ConnectionMiner | None,
    retrieval: Mapping[str, object],
    judgments: Mapping[str, object] | None = None,
    zero_shot: Mapping[str, float] | None = None,
    checks: Mapping[str, JudgeCheck | None] | None = None,
) -> Results:
    """Write the report of a finished run and print its table; returns what results.json holds.

    miner: what mined in the run; None where nothing did. checks: what judges say of annotated pairs.
    """
    folder = run.folder
    splits = list(retrieval)
    results: Results = {"retrieval": retrieval[splits[0]] if len(splits) == 1 else dict(retrieval)}
    if judgments is not None:
        results["judgments"] = judgments
    if zero_shot is not None:
        results["zero_shot"] = zero_shot
    results.update({name: check.as_dict() for name, check in (checks or {}).items() if check})
    written, judged = ["results.json"], _judges(miner)
    journal = folder / "epochs.jsonl"
    if journal.exists() and journal.stat().st_size:
        steps, epochs = (pd.read_json(folder / name, lines=True) for name in ("steps.jsonl", "epochs.jsonl"))
        results.update(_training(steps, epochs, judged))
        draw_curves(steps, epochs, folder / "curves.png")
        written.append("curves.png")
    if miner is not None and miner.store is not None:
        rule, found = miner.settings, miner.store.to_frame()
        connections = found[judge(found["score"].to_numpy(), rule.low, rule.high) == CONNECTION]
        write_gallery(folder / "gallery", _examples(run, connections), run.train_set.open_image)
        written.append("gallery/index.html")
    results.update(versions=versions(), commit=commit(), config=OmegaConf.to_container(run.config.config))
    results["checkpoint"] = evaluated_checkpoint(run, weights_hash(run.network))
    results["weights"] = getattr(run.network, "origin", {})
    if run.changes:
        results["resume_changes"] = run.changes
    write_json(folder / "results.json", results)
    tables = {split: results_table({**results, "retrieval": retrieval[split]}) for split in splits}
    write_run_page(folder, run.name, tables, results, written)
    written.insert(0, "results.html")
    for split, table in tables.items():
        show(f"\n{run.name}, {split}\n{table}")
    show(f"\nwritten to {folder}: {', '.join(written)}")
    return results


def _judges(miner: ConnectionMiner | None) -> bool:
    """Whether candidates were judged, by a scorer or by their similarities."""
    return miner is not None and (miner.scorer is not None or miner.settings.rule == "relative")


def _training(steps: pd.DataFrame, epochs: pd.DataFrame, judged: bool) -> Results:
    """Connections over all epochs where candidates were judged, the last epoch's plan, where its ITC labels lay."""
    last = epochs.iloc[-1].dropna().to_dict()
    plan = {"sampling": last["sampling"], "distinct_images_per_batch": last.get("distinct_images")}
    if "loss_itm" in steps:
        plan["itm_false_negative_rate"] = last.get("itm_false_negative_rate")
    plan["false_negatives_per_batch"] = last.get("false_negatives_per_batch")
    plan.update({name: last[name] for name in ("connection_precision", "connection_recall") if name in last})
    results: Results = {"plan": plan, "seconds_per_step": float(steps["s_it"].median())}
    if "label_on_mismatches" in last:
        results["itc_labels"] = {f"on_{name}": last.get(f"label_on_{name}") for name in LABELLED}
    if not judged:
        return results
    found: dict[str, float | None] = {
        "pairs_scored": int(steps["scored"].sum()),
        "connections": int(steps["connections"].sum()),
    }
    if {"true_scored", "true_connections"} <= set(steps):
        sums = steps[["true_connections", "connections", "true_scored"]].sum()
        found["precision"] = sums.true_connections / sums.connections if sums.connections else None
        found["recall"] = sums.true_connections / sums.true_scored if sums.true_scored else None
    return {"connections": found, **results}


def _examples(run: Run, connections: pd.DataFrame) -> Iterator[GalleryRow]:
    """The connections of which Con-D was surest, an image at most once."""
    data: PairDataset = run.splits["train"]
    found = connections.sort_values("score", ascending=False, kind="stable")
    shown = found.drop_duplicates("record").head(SHOWN)
    columns = (shown[name].tolist() for name in ("record", "text_row", "score"))
    for record, text_row, score in zip(*columns, strict=True):
        true = None if data.truth is None else bool(data.truth(np.array([record]), np.array([text_row]))[0])
        yield gallery_row(data.table, record, text_row, p=score, true=true)


def evaluated_checkpoint(run: Run, weights: str) -> dict[str, str | None]:
    """Whose figures these are: the checkpoint that the config names, or what the run itself trained and kept.

    hash: of the weights as they were evaluated; path, sha256: of the file, None where nothing was loaded.
    """
    trained = str(run.folder / "model.safetensors")
    path = checkpoint_path(run.config.model_cfg) if run.evaluate_only else trained
    return {"hash": weights, "path": path, "sha256": file_sha256(weights_file(path)) if path else None}
