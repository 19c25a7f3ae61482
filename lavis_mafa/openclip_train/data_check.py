"""Reads the tables and looks into the shards of a run before open_clip builds and prints its model.

Tested in tests/openclip/test_train.py and test_shards.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from lavis_mafa.openclip_train.arguments import csv_images
from lavis_mafa.openclip_train.csv_table import as_in_the_data, read_pairs
from lavis_mafa.openclip_train.shard_check import check_shards

OF_OPEN_CLIP_4 = ("use_naflex", "variable_text", "length_bucketing", "json_text_key")


def check_data(argv: Sequence[str], ours: argparse.Namespace) -> None:
    """--train-data and --val-data of open_clip's arguments; ours: those of arguments.py.

    Raises:
        ValueError: what csv_table.py and shard_check.py refuse, or a kind of data that MAFA does not support.
    """
    from open_clip_train import data as open_clip_data
    from open_clip_train.params import parse_args

    args = parse_args(list(argv))
    if unsupported := [name for name in OF_OPEN_CLIP_4 if getattr(args, name, None)]:
        raise ValueError(f"--{unsupported[0].replace('_', '-')} does not work with MAFA: drop it")
    space = ours.mafa_search_space
    if space.isdigit() and int(space) < args.batch_size:
        raise ValueError(f"--mafa-search-space {space} is below --batch-size {args.batch_size}, which it is cut into")
    tables: list[str] = []
    for name in ("train_data", "val_data"):
        path = getattr(args, name)
        if not path and args.dataset_type != "synthetic":
            continue
        reader = open_clip_data.get_dataset_fn(path or "", args.dataset_type)
        if reader is open_clip_data.get_csv_dataset:
            images, _ = read_pairs(path, args.csv_img_key, args.csv_caption_key, args.csv_separator)
            csv_images(ours).check(path, images)
            tables.append(path)
            if name == "train_data" and (listed := ours.mafa_connections):
                columns = args.csv_img_key, args.csv_caption_key, args.csv_separator
                as_in_the_data(*read_pairs(listed, *columns), read_pairs(path, *columns), listed)
        elif reader is open_clip_data.get_wds_dataset:
            urls, _ = open_clip_data.expand_urls(path)
            check_shards(urls, open_clip_data.base_plus_ext, _is_pair(args))
        else:
            raise ValueError(f"--dataset-type {args.dataset_type}: MAFA only supports csv or webdataset")
    if ours.mafa_images and not tables:
        raise ValueError("--mafa-images is about CSV data, and there are none: drop it")
    if ours.mafa_allow_symlinks and not (tables or args.imagenet_val):
        raise ValueError("--mafa-allow-symlinks is about CSV data and --imagenet-val, and there are none: drop it")


def _is_pair(args: argparse.Namespace) -> Callable[[set[str]], bool]:
    """Whether open_clip trains on a sample of these suffixes; those of 4 have names of their own."""
    from open_clip_train import data as open_clip_data

    if not hasattr(args, "image_key"):
        is_pair: Callable[[set[str]], bool] = open_clip_data.filter_no_caption_or_no_image
        return is_pair
    wanted = [set(key.split(";")) for key in (args.image_key, args.text_key)]
    return lambda suffixes: all(suffixes & one for one in wanted)
