"""What the commands take on their command line."""

from __future__ import annotations

import argparse
from pathlib import Path

TRAINING = "projects/mafa/blip2/pretrain_stage1_scenes.yaml", "run.max_epoch=2"


def parse_arguments(
    description: str,
    dry_run: bool = False,
    engines: tuple[str, ...] = (),
    example: tuple[str, str] = TRAINING,
    test_set: bool = False,
) -> argparse.Namespace:
    """--cfg-path, --options, --smoke; with `dry_run` also --dry-run, with `test_set` also --test-set, with `engines`
    also --engine, the first its default. example: a config and an option that --help shows."""
    config, option = example
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg-path", required=True, help=f"YAML of the run, e.g. {config}")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help=f"override settings, e.g. {option}"
    )
    parser.add_argument(
        "--smoke", type=Path, metavar="FOLDER", help="shorten the run to a handful of records, and write below FOLDER"
    )
    if dry_run:
        parser.add_argument(
            "--dry-run", action="store_true", help="describe the run and what it still needs, then exit"
        )
    if test_set:
        parser.add_argument(
            "--test-set",
            action="store_true",
            help="write a test set with several matches a query, and the pairs that people should decide",
        )
    if engines:
        parser.add_argument(
            "--engine",
            choices=engines,
            default=engines[0],
            help="where the work runs: in this process, or on a Ray cluster",
        )
    return parser.parse_args()
