"""Broken and hostile data sets, weights and configs, drawn by hypothesis, with what is good about them."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from hypothesis import strategies as st
from PIL import Image

GOOD_IMAGES = ("red.png", "blue.jpg", "größe 犬.png", "sub/16bit.png", "palette.png", "cmyk.jpg")
BAD_IMAGES = (
    *("empty.png", "page.jpg", "torn.png", "torn.jpg", "gone.png", "../outside.png", "/etc/passwd", "sub", "a\nb.png"),
    *("link.png", "fifo.png", "", "   ", "red.png\x00", "http://127.0.0.1:1/a.png"),
)
GOOD_CAPTIONS = (
    *(
        "a red circle",
        "NA",
        "None",
        "nan",
        "null",
        "1e5",
        "True",
        "=1+1",
        "@SUM(A1)",
        "-1",
        "a, b; c\td",
        'he said "x"',
    ),
    *(
        "line\nbreak",
        "größe 犬 👩‍👩‍👧",
        "كلب أحمر",
        "</script><b>x",
        "{question} {}",
        "${oc.env:HOME}",
        "x" * 3000,
        "'",
    ),
)
BAD_CAPTIONS: tuple[object, ...] = ("", "   ", None, 7, 0.5, {"a": 1}, [], [""], [None], True)
IDS = (None, 1, 2, "1", "x", "")
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
Bytes = Callable[[bytes, int], bytes]

CORRUPTIONS: dict[str, Bytes] = {
    "none": lambda data, at: data,
    "cut": lambda data, at: data[: at % (len(data) + 1)],
    "byte": lambda data, at: data[: at % len(data)] + bytes([at % 256]) + data[at % len(data) + 1 :],
    "BOM": lambda data, at: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data, at: data.decode("utf-8", "replace").encode("utf-16"),
    "web page": lambda data, at: b"<!doctype html><title>login</title>" + data,
    "twice": lambda data, at: data + data,
    "more": lambda data, at: data + b"\x00\xff}]",
    "nothing": lambda data, at: b"",
    "git-lfs": lambda data, at: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "deep": lambda data, at: b"[" * 100_000,
}


def write_images(root: Path) -> None:
    """GOOD_IMAGES and BAD_IMAGES that a disk can hold."""
    (root / "sub").mkdir(parents=True)
    Image.new("RGB", (9, 8), "red").save(root / "red.png")
    Image.new("RGB", (9, 8), "blue").save(root / "blue.jpg")
    Image.new("RGBA", (9, 8)).save(root / "größe 犬.png")
    Image.fromarray(np.full((8, 9), 40_000, np.uint16)).save(root / "sub" / "16bit.png")
    Image.new("P", (9, 8)).save(root / "palette.png")
    Image.new("CMYK", (9, 8)).save(root / "cmyk.jpg")
    Image.new("RGB", (9, 8)).save(root.parent / "outside.png")
    (root / "empty.png").touch()
    (root / "page.jpg").write_text("<!doctype html>")
    noise = Image.effect_noise((64, 64), 80)
    for name in ("torn.png", "torn.jpg"):
        noise.save(root / name)
        (root / name).write_bytes((root / name).read_bytes()[:600])
    (root / "link.png").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo.png")


@dataclass(frozen=True)
class DataSet:
    """An annotation: rows (image, caption, id), how it is written, and what is then done to its bytes."""

    rows: tuple[tuple[object, object, object], ...]
    suffix: str
    lines_as_json: bool
    corruption: str
    place: int

    @property
    def is_whole(self) -> bool:
        return self.corruption == "none" or (self.corruption == "BOM" and self.suffix != ".parquet")

    @property
    def all_good(self) -> bool:
        """Every row is one that a run must take."""
        by_id: dict[object, object] = {}
        return self.is_whole and all(
            image in GOOD_IMAGES and caption in GOOD_CAPTIONS and by_id.setdefault(key, image) == image
            for image, caption, key in (
                (image, caption, str(own) if own not in (None, "") else image) for image, caption, own in self.rows
            )
        )

    def write(self, folder: Path) -> Path:
        path = folder / f"train{self.suffix}"
        path.write_bytes(CORRUPTIONS[self.corruption](self._bytes(), self.place))
        return path

    def _bytes(self) -> bytes:
        names = ("image", "caption", "image_id")
        given = [dict(zip(names, row, strict=True)) for row in self.rows]
        rows = [{key: value for key, value in row.items() if key != "image_id" or value is not None} for row in given]
        if self.suffix == ".json" and not self.lines_as_json:
            return json.dumps(rows).encode()
        if self.suffix in (".json", ".jsonl"):
            return "".join(json.dumps(row) + "\n" for row in rows).encode()
        if self.suffix == ".parquet":
            columns = {name: [None if row.get(name) is None else str(row[name]) for row in rows] for name in names}
            file = io.BytesIO()
            pq.write_table(pa.table(columns), file)
            return file.getvalue()
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, delimiter="," if self.suffix == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()


def data_sets(mostly_good: bool = False) -> st.SearchStrategy[DataSet]:
    good = st.tuples(st.sampled_from(GOOD_IMAGES), st.sampled_from(GOOD_CAPTIONS), st.sampled_from((None, "")))
    bad = st.tuples(
        st.sampled_from(GOOD_IMAGES + BAD_IMAGES),
        st.sampled_from((*GOOD_CAPTIONS, *BAD_CAPTIONS)),
        st.sampled_from(IDS),
    )
    rows = st.lists(good if mostly_good else st.one_of(good, good, good, bad), min_size=0, max_size=8)
    harm = st.sampled_from(("none",) if mostly_good else ("none", "none", "none", "none", *CORRUPTIONS))
    return st.builds(DataSet, rows.map(tuple), st.sampled_from(SUFFIXES), st.booleans(), harm, st.integers(0, 5000))


VALUES: tuple[object, ...] = (
    *(None, -1, 0, 10**12, 1e309, float("nan"), True, "", " ", "x" * 500, "~", "null", "../..", "/", "/proc/x", "犬"),
    *(
        [],
        [1],
        {},
        {"a": {"b": 1}},
        "${oc.env:HOME}",
        "${run.seed}",
        "${nothing}",
        "!!python/object:os.system",
        "cuda:99",
    ),
)
KEYS = (
    *("run.output_dir", "run.seed", "run.batch_size_train", "run.max_epoch", "run.init_lr", "run.device", "run.con_d"),
    *("run.search_space", "run.valid_splits", "run.plugins", "run.sampling", "run.precision", "run.resume_ckpt_path"),
    *("run.task", "run.runner", "run.num_workers", "run.prompt", "run.k_test", "run.token_folder", "run", "model"),
    *(
        "model.arch",
        "model.model_type",
        "model.pretrained",
        "model.vocab",
        "model.vit_weights",
        "model.mafa",
        "model.qformer",
    ),
    *(
        "model.image_size",
        "model.mafa.low",
        "datasets",
        "datasets.image_text",
        "datasets.image_text.images",
        "nonsense",
    ),
    *("datasets.image_text.annotations", "datasets.image_text.annotations.train", "datasets.image_text.columns"),
    *("datasets.image_text.vis_processor", "datasets.image_text.vis_processor.train.name", "datasets.scenes.n"),
    *("datasets.image_text.max_rows", "datasets.image_text.on_bad_image", "datasets.image_text.name"),
)
changes = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=1, max_size=3)


class Bomb:
    """What a pickle may do to who loads it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.canary}'",)


@dataclass(frozen=True)
class Weights:
    """A checkpoint of some kind, and what is done to its bytes."""

    kind: str
    suffix: str
    corruption: str
    place: int

    def write(self, folder: Path, canary: Path) -> Path:
        tensors = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.zeros(2)}
        path = folder / f"weights{self.suffix}"
        if self.kind == "folder":
            path.mkdir()
            return path
        if self.kind == "safetensors":
            data = safetensors.torch.save(tensors)
        elif self.kind == "bomb":
            data = pickle.dumps({"model": Bomb(canary)})
        else:
            contents: dict[str, object] = {
                "state": tensors,
                "model": {"model": tensors, "epoch": 3},
                "wrapped": {"state_dict": {f"module.{name}": value for name, value in tensors.items()}},
                "NaN": {"layer.weight": torch.tensor([float("nan")])},
                "numbers": {"a": 1, "b": [2, 3]},
                "list": [1, 2],
                "bomb inside": {"model": tensors, "args": Bomb(canary)},
            }
            file = io.BytesIO()
            torch.save(contents[self.kind], file)
            data = file.getvalue()
        path.write_bytes(CORRUPTIONS[self.corruption](data, self.place))
        return path


GOOD_KINDS = ("safetensors", "state", "model", "wrapped")
KINDS = (*GOOD_KINDS, "NaN", "numbers", "list", "bomb", "bomb inside", "folder")
weights = st.builds(
    Weights,
    st.sampled_from(KINDS),
    st.sampled_from((".pth", ".pt", ".safetensors", "", ".bin")),
    st.sampled_from(("none", "none", *CORRUPTIONS)),
    st.integers(0, 5000),
)
