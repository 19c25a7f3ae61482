"""What an evaluation ends with: a table, results.json, every prediction in Parquet, files for leaderboards."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

import pandas as pd
from lavis.datasets.datasets.base_dataset import BaseDataset

from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.stdout import show
from lavis_mafa.common.tree import Keys, keys_at
from lavis_mafa.common.versions import commit, versions
from lavis_mafa.evaluation.ground_truth import image_opener
from lavis_mafa.reports.pages import write_run_page
from lavis_mafa.reports.predictions import Prediction, write_predictions
from lavis_mafa.reports.table import write_json
from lavis_mafa.runners.report import evaluated_checkpoint
from lavis_mafa.runners.run import Results, Run
from lavis_mafa.tasks.answers import AnsweringTask

SHOWN = 1000  # predictions on the page


def report_answers(
    run: Run, task: AnsweringTask[BaseDataset], weights: str, found: Mapping[str, Mapping[str, Mapping[int, str]]]
) -> Results:
    """Judge and write the answers of every split; returns what results.json holds."""
    folder, written = run.folder, ["results.json"]
    judged: dict[str, dict[str, object]] = {}
    for split, passes in found.items():
        dataset = run.splits[split]
        judged[split] = task.judge(dataset, passes["answers"])
        if "without_image" in passes:
            judged[split]["without_image"] = task.judge(dataset, passes["without_image"])
        table = task.table(dataset, passes["answers"])
        with atomic_write(folder / f"predictions_{split}.parquet") as file:
            table.to_parquet(file)
        part = f" (the first {SHOWN:,} of {len(table):,})" if len(table) > SHOWN else ""
        title = f"{run.name}, {split}: what the checkpoint answers{part}"
        write_predictions(folder / f"predictions_{split}", _shown(table), image_opener(dataset), title, task.measure)
        written += [f"predictions_{split}.parquet", f"predictions_{split}/index.html"]
        for name, content in task.files(dataset, passes["answers"]).items():
            write_json(folder / f"{split}_{name}.json", content)
            written.append(f"{split}_{name}.json")
    config = plain_config(run.config.config)
    published = keys_at(config, "run", "expected")
    results: Results = {"task": run.settings.task, "dataset": run.name, "expected": published}
    if judged:
        results["answers"] = judged
    results["checkpoint"] = evaluated_checkpoint(run, weights)
    results |= {"versions": versions(), "commit": commit(), "weights": run.network.origin}
    results["config"] = run.config.to_dict()  # as written, ${…} included
    if run.changes:
        results["resume_changes"] = run.changes
    write_json(folder / "results.json", results)
    tables = {split: answers_table(judged[split], published) for split in judged}
    write_run_page(folder, run.name, tables, results, written)
    written.insert(0, "results.html")
    for split, text in tables.items():
        show(f"\n{run.name}, {split}\n{text}")
    show(f"\nwritten to {folder}: {', '.join(written)}")
    return results


def _shown(table: pd.DataFrame) -> list[Prediction]:
    """The first predictions of a split, as its page shows them."""
    return [
        Prediction(
            number,
            str(row["image"]),
            str(row.get("question") or ""),
            str(row["answer"]),
            list(row["ground_truth"]),
            None if row.get("verdict") is None else float(row["verdict"]),
            str(row.get("question_type") or ""),
        )
        for number, row in enumerate(table.head(SHOWN).to_dict("records"))
    ]


def answers_table(judged: Keys, expected: Keys) -> str:
    """Rows: what was measured, its baselines, the published figures; columns: all, then each type or metric."""
    other = "raw" if judged.get("headline") == "lemmatised" else "lemmatised"
    rows = {
        "this checkpoint": judged,
        f"  answers {other}": keys_at(judged, other),
        "language model without the image": keys_at(judged, "without_image"),
        "one answer to all": keys_at(judged, "majority"),
        **{f"published, {name}": {"all": value} for name, value in expected.items()},
    }
    table = pd.DataFrame({name: _flat(found) for name, found in rows.items() if found}).T
    notes = [f"{name}: {remedy}" for name, remedy in keys_at(judged, "missing").items()]
    return "\n".join([table.to_string(float_format=lambda value: f"{value:.1f}", na_rep="-"), *notes])


def _flat(found: Keys) -> dict[str, float]:
    """CIDEr and accuracies in percent; the other caption metrics as COCO prints them, times 100."""
    shares = {"all": found.get("all"), **keys_at(found, "by_answer_type"), **keys_at(found, "by_question_type")}
    metrics = {name: found.get(name) for name in ("Bleu_4", "METEOR", "ROUGE_L", "CIDEr", "SPICE")}
    scaled = [(1, shares), (100, metrics)]
    return {
        name: scale * float(value) for scale, part in scaled for name, value in part.items() if isinstance(value, Real)
    }
