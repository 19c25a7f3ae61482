"""R@1 on Flickr8k after a fixed budget, through open_clip's own loop: ClipLoss, S-ITC alone, GRIT alone, MAFA.

    python projects/openclip/flickr8k.py --out output/openclip/flickr8k
    python projects/openclip/flickr8k.py --rows mafa --con-d arch=mafa_blip2 model_type=small load_finetuned=true …

A small ResNet (openclip/configs/mafa-small.json) from scratch at 64 pixels; every row sees the same number of pairs.
Needs $LAVIS_MAFA_DATA/flickr8k. Hardware: one CPU core, 1 GB, minutes a row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

import lavis_mafa.openclip  # noqa: F401  open_clip knows mafa-small from now on
from lavis_mafa.core.metrics import query_figures, summary
from lavis_mafa.data.images import FORMATS, open_file
from lavis_mafa.reports.table import write_json

MODEL, SIZE = "mafa-small", 64
RANDOM, PLAIN = ("--mafa-sampling", "random"), ("--mafa-known-positives", "off")
ROWS = {
    "clip": (*RANDOM, *PLAIN, "--mafa-alpha", "0"),
    "s_itc": (*RANDOM, *PLAIN, "--mafa-alpha", "0.5", "--mafa-alpha-from-epoch", "0"),
    "grit": (*PLAIN, "--mafa-alpha", "0"),
    "mafa": ("--mafa-alpha", "0.5"),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("output/openclip/flickr8k"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["clip", "s_itc", "grit"])
    parser.add_argument("--con-d", nargs="+", default=[], metavar="KEY=VALUE", help="Con-D of the row mafa")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--images", type=int, help="the first so many training and test images (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if "mafa" in arguments.rows and not arguments.con_d:
        parser.error("the row mafa needs --con-d; projects/mafa/blip2/train_con_d_flickr8k.yaml trains one")
    return arguments


def pairs(data: Path, split: str, out: Path, images: int | None) -> pd.DataFrame:
    """(filepath, title), a row a caption, of a split; its images are kept small once, as decoding costs most."""
    rows = json.loads((data / f"flickr8k_{split}.json").read_text())
    table = pd.DataFrame(rows).explode("caption").rename(columns={"caption": "title"})
    table = table[table.image.isin(table.image.unique()[:images])]
    (out / "images").mkdir(parents=True, exist_ok=True)
    for name in tqdm(table.image.unique(), desc=f"{split} images", leave=False):
        small = out / "images" / Path(name).name
        if not small.exists():
            with Image.open(data / name, formats=FORMATS) as image:
                image.draft("RGB", (2 * SIZE, 2 * SIZE))
                image.convert("RGB").resize([round(SIZE * 1.15 * n / min(image.size)) for n in image.size]).save(small)
    return pd.DataFrame(
        {"filepath": [str(out / "images" / Path(name).name) for name in table.image], "title": table.title}
    )


def train(row: str, arguments: argparse.Namespace, csv: Path) -> Path:
    """The last checkpoint of a row, trained by the launcher."""
    theirs = {"model": MODEL, "train-data": csv, "dataset-type": "csv", "logs": arguments.out, "name": row}
    theirs |= {"batch-size": arguments.batch_size, "epochs": arguments.epochs, "seed": arguments.seed, "workers": 0}
    theirs |= {"lr": 1e-3, "wd": 0.1, "warmup": 100, "precision": "fp32", "device": "cpu", "log-every-n-steps": 50}
    theirs["save-frequency"] = arguments.epochs
    theirs["mafa-images"] = arguments.out / "images"
    ours = [*ROWS[row], *(["--mafa-search-space", "4800"] if row in ("grit", "mafa") else [])]
    ours += ["--mafa-con-d", *arguments.con_d, "--mafa-con-d-cache-tokens"] if row == "mafa" else []
    words = [str(word) for name, value in theirs.items() for word in (f"--{name}", value)]
    subprocess.run([sys.executable, "-m", "lavis_mafa.openclip.train", *words, *ours], check=True)
    return arguments.out / row / "checkpoints" / f"epoch_{arguments.epochs}.pt"


@torch.no_grad()
def recall(checkpoint: Path, test: pd.DataFrame) -> dict[str, float]:
    """R@1, R@5, R@10 in percent, image to text (`txt_`: captions found) and text to image (`img_`)."""
    model, _, preprocess = open_clip.create_model_and_transforms(MODEL, str(checkpoint))
    model.eval()
    files = test.filepath.unique().tolist()
    images = torch.stack([preprocess(open_file(file)) for file in files])
    image_ND = torch.cat([model.encode_image(part, normalize=True) for part in images.split(256)])
    tokens = open_clip.get_tokenizer(MODEL)(test.title.tolist())
    text_CD = torch.cat([model.encode_text(part, normalize=True) for part in tokens.split(256)])
    sim_NC = (image_ND @ text_CD.T).numpy()
    positive_NC = np.array(files)[:, None] == test.filepath.to_numpy()[None, :]
    ways = {"txt": (sim_NC, positive_NC), "img": (sim_NC.T, positive_NC.T)}
    found = {way: summary(query_figures(*queries))[0] for way, queries in ways.items()}
    return {f"{way}_{name}": value for way, recalls in found.items() for name, value in recalls.items()}


def main() -> None:
    arguments = parse()
    data = Path(os.environ.get("LAVIS_MAFA_DATA", "../shared/data")) / "flickr8k"
    arguments.out.mkdir(parents=True, exist_ok=True)
    csv, test = arguments.out / "train.csv", pairs(data, "test", arguments.out, arguments.images)
    pairs(data, "train", arguments.out, arguments.images).to_csv(csv, sep="\t", index=False)
    file = arguments.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for row in arguments.rows:
        began = time.perf_counter()
        checkpoint = train(row, arguments, csv)
        seconds = time.perf_counter() - began
        budget = {name: getattr(arguments, name) for name in ("epochs", "batch_size", "images", "seed")}
        results[row] = {**recall(checkpoint, test), "seconds": seconds, **budget}
        write_json(file, results)
    print(pd.DataFrame(results).T.to_string(float_format="{:.1f}".format))


if __name__ == "__main__":
    main()
