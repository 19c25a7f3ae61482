"""One table of several evaluations: `python -m lavis_mafa.evaluation.compare FOLDER… [--untrained FOLDER…]`.

FOLDER holds results.json. A row is an evaluation, a column whose answers they are: the checkpoint's, those of the
language model without the image, one answer to all questions, an untrained Q-Former's, the published ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.spreadsheets import write_csv
from lavis_mafa.common.stdout import print_anything, show
from lavis_mafa.common.tree import at, keys_at, number_at

ROWS = tuple[str, dict[str, float | None]]


def compared(folders: Iterable[Path], untrained: Iterable[Path] = ()) -> pd.DataFrame:
    """Index: evaluation; columns: whose answers; accuracy and CIDEr in percent, recall@1 in percent."""
    table = {name: row for folder in folders for name, row in _rows(_read(folder))}
    for folder in untrained:
        for name, row in _rows(_read(folder)):
            table.setdefault(name, {})["untrained Q-Former"] = row["this checkpoint"]
    return pd.DataFrame(table).T.dropna(axis=1, how="all")


def _read(folder: Path) -> object:
    path = folder / "results.json"
    with reading(path, "results of a finished evaluation"):
        return json.loads(path.read_text(encoding="utf-8"))


def _rows(results: object) -> Iterable[ROWS]:
    published, run = keys_at(results, "expected"), keys_at(results, "config", "run")
    measure = "CIDEr" if at(results, "task") == "mafa_captioning" else "accuracy"
    for split, found in keys_at(results, "answers").items():
        yield (
            f"{at(results, 'dataset')}, {split}: {measure}",
            {
                "this checkpoint": number_at(found, "all"),
                "answers lemmatised": number_at(found, "lemmatised", "all"),
                "without the image": number_at(found, "without_image", "all"),
                "one answer to all": number_at(found, "majority", "all"),
                **{name: number_at(published, name) for name in published},
            },
        )
    recalls = keys_at(results, "retrieval")
    for ranking in [name for name in ("itm", "itc") if name in recalls][:1]:
        for way in keys_at(recalls, ranking, "annotation"):
            expected = {name: number_at(figures, way) for name, figures in keys_at(run, "expected").items()}
            name = f"{Path(str(at(run, 'output_dir'))).name}: {way} R@1 ({ranking.upper()})"
            yield name, {"this checkpoint": number_at(recalls, ranking, "annotation", way, "r1"), **expected}


def main() -> None:
    print_anything()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of evaluations of the checkpoint")
    parser.add_argument(
        "--untrained", nargs="*", type=Path, metavar="FOLDER", default=[], help="of an untrained Q-Former"
    )
    parser.add_argument("--out", type=Path, help="also write the table, as CSV")
    arguments = parser.parse_args()
    with one_line_errors():
        table = compared(arguments.folders, arguments.untrained)
    show("\n" + table.to_string(float_format=lambda value: f"{value:.1f}", na_rep="-"))
    if arguments.out:
        write_csv(arguments.out, table.rename_axis("evaluation").reset_index())


if __name__ == "__main__":
    main()
