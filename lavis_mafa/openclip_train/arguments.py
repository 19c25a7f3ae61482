"""What `lavis_mafa.openclip.train` takes beside open_clip's own arguments. Tested in tests/openclip/test_train.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lavis_mafa.core.settings import CHOICES, MafaSettings
from lavis_mafa.openclip.judges import ACTIONS
from lavis_mafa.openclip_train.images import CsvImages


def parser() -> argparse.ArgumentParser:
    """Our own arguments; the others are open_clip_train's."""
    ours = argparse.ArgumentParser(prog="lavis_mafa.openclip_train.launcher", add_help=False, allow_abbrev=False)
    add = ours.add_argument_group("MAFA").add_argument
    add("--mafa-images", nargs="+", metavar="FOLDER", help="folders of CSV data's images; default: the working folder")
    add("--mafa-allow-symlinks", action="store_true", help="links may lead out of these folders, and of --imagenet-val")
    add("--mafa-alpha", type=float, default=0.5, help="S-ITC smoothing")
    add("--mafa-alpha-from-epoch", type=int, default=1, help="first epoch with S-ITC; epoch 0 is random")
    add("--mafa-sampling", choices=("grit", "random"), default="grit", help="batches of look-alikes, or random ones")
    add("--mafa-search-space", default="all", help="rows a chain of look-alikes may choose from")
    add(
        "--mafa-siblings",
        choices=("apart", "free"),
        default="apart",
        help="whether a batch may contain several rows of one image",
    )
    add("--mafa-known-positives", choices=("on", "off"), default="on", help="equal images and captions are positives")
    add(
        "--mafa-connections",
        help="file like --train-data with further pairs that match; a column `weight` says what each counts beside an "
        "own pair",
    )
    add("--mafa-bi-encoder", help="open_clip model whose features tell false negatives")
    add("--mafa-bi-encoder-pretrained", help="its pretrained tag or local file")
    add("--mafa-bi-encoder-margin", type=float, default=0.0, help="cosine by which a pair must exceed the own one")
    add("--mafa-bi-encoder-action", choices=ACTIONS, default="drop", help="what becomes of such a pair")
    add("--mafa-con-d", nargs="+", metavar="KEY=VALUE", help="judge of the hardest pairs, e.g. a matching network")
    add("--mafa-plugins", nargs="+", default=[], metavar="MODULE", help="modules that register judges for --mafa-con-d")
    add("--mafa-con-d-cache-tokens", action="store_true", help="keep its tower's tokens of every image on disk")
    add(
        "--mafa-con-d-action", choices=ACTIONS, default="connect", help="what happens to a pair that it judges to match"
    )
    add("--mafa-con-d-low", type=float, default=0.5, help="P(match) below which a pair is a mismatch")
    add("--mafa-con-d-high", type=float, default=0.8, help="P(match) above which a pair matches")
    add(
        "--mafa-con-d-candidates",
        choices=CHOICES["candidates"],
        default="hardest",
        help="which pairs it judges: the hardest of every image and text, or the whole batch",
    )
    add(
        "--mafa-con-d-positive-weight",
        choices=CHOICES["positive_weight"],
        default="equal",
        help="of a pair that it connects, in the target: as an own pair's, or P(match)",
    )
    return ours


def csv_images(options: argparse.Namespace) -> CsvImages:
    """Where the images of CSV data may lie. Raises ValueError: a folder that is not there."""
    if missing := [folder for folder in options.mafa_images or () if not Path(folder).expanduser().is_dir()]:
        raise ValueError(f"--mafa-images {missing[0]}: there is no such folder")
    folders = [os.path.abspath(Path(folder).expanduser()) for folder in options.mafa_images or (".",)]
    return CsvImages(folders, options.mafa_allow_symlinks)


def con_d_rule(options: argparse.Namespace) -> MafaSettings:
    """How the answers of --mafa-con-d are read. Raises ValueError for choices that do not go together."""
    return MafaSettings(
        action=options.mafa_con_d_action,
        candidates=options.mafa_con_d_candidates,
        positive_weight=options.mafa_con_d_positive_weight,
        low=options.mafa_con_d_low,
        high=options.mafa_con_d_high,
    )


def refuse_old_names(arguments: Sequence[str]) -> None:
    """Raises ValueError: an argument of lavis_mafa 0.1, under its present name."""
    for name in (each for each in arguments if each.startswith("--mafa-guide")):
        raise ValueError(f"{name} is now called {name.replace('guide', 'bi-encoder')}")


def check(options: argparse.Namespace) -> None:
    """Raises ValueError: arguments that do not go together."""
    if options.mafa_con_d and options.mafa_bi_encoder:
        raise ValueError("--mafa-con-d and --mafa-bi-encoder both judge pairs: give one of them")
    if options.mafa_con_d_cache_tokens and not options.mafa_con_d:
        raise ValueError("--mafa-con-d-cache-tokens keeps tokens for --mafa-con-d: give that, too, or leave it out")
    if con_d_rule(options) != MafaSettings() and not options.mafa_con_d:
        raise ValueError(
            "--mafa-con-d-action, -low, -high, -candidates and -positive-weight are about --mafa-con-d: give that, too"
        )
    of_bi_encoder = ("margin", 0.0), ("action", "drop"), ("pretrained", None)
    changed = [name for name, default in of_bi_encoder if getattr(options, f"mafa_bi_encoder_{name}") != default]
    if changed and not options.mafa_bi_encoder:
        raise ValueError(f"--mafa-bi-encoder-{changed[0]} is about --mafa-bi-encoder: give that, too")
    if options.mafa_bi_encoder and not options.mafa_bi_encoder_pretrained:
        raise ValueError(
            "--mafa-bi-encoder needs --mafa-bi-encoder-pretrained: without weights its verdicts mean nothing"
        )
