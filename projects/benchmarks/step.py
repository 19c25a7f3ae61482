"""Time of a training step: LAVIS' own, ours with MAFA less Con-D, and ours with Con-D, on the same weights and batch.

    python projects/benchmarks/step.py --json projects/benchmarks/step.json

`blip2` is Blip2Qformer, `albef` AlbefPretrain with queue and momentum copies, both in LAVIS' own code. Ours takes
hardest negatives and S-ITC; `con_d` mines with a matching network of the same size on the student's frozen tower.
Every step encodes its images. A batch is real: images and captions of Flickr8k, the networks those of its run files
(ALBEF on a small ViT, since LAVIS' reads a class token). Forward, backward and AdamW with a learning rate of 0, so that
all stay on the same weights; columns in turn in one process, medians over repeats, and medians of the paired ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import lavis_mafa.compat

import numpy as np
import torch
from flickr8k import build_model, model_config, training_data
from lavis.models.albef_models.albef_pretrain import AlbefPretrain
from lavis.models.blip2_models.blip2_qformer import Blip2Qformer
from lavis.models.vit import VisionTransformerEncoder
from machine import about
from torch.utils.data import default_collate

import lavis_mafa
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.models.albef.parts import build_text_encoder
from lavis_mafa.models.albef.pretrain import ALBEF_SETTINGS, MafaAlbef
from lavis_mafa.models.blip2.parts import QformerParts
from lavis_mafa.models.text import load_tokenizer
from lavis_mafa.reports.table import write_json
from lavis_mafa.scorers.con_d import ItmScorer

Step = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["blip2", "albef"], choices=["blip2", "albef"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--weights", help="trained weights of the blip2 run file, for student and Con-D: fewer doubts")
    parser.add_argument("--json", type=Path, required=True, help="the file of results")
    given = parser.parse_args()
    lavis_mafa.register()
    torch.manual_seed(0)
    data = training_data()
    records = np.random.default_rng(0).permutation(len(data))[: given.batch]
    batch = {**default_collate([data[int(record)] for record in records]), "epoch": 1}
    found = {}
    for name in given.models:
        columns = blip2_steps(batch, data, given.weights) if name == "blip2" else albef_steps(batch, data)
        found[name] = timed(columns, given.repeats)
        print(name, found[name], flush=True)
    write_json(given.json, {**about(), "steps": found})


def timed(columns: dict[str, Step], repeats: int) -> dict[str, Any]:
    """Median seconds of each column, and how many times as fast as LAVIS' step in its own repeat (median)."""
    seconds: dict[str, list[float]] = {name: [] for name in columns}
    for repeat in range(repeats + 1):
        for name, step in columns.items():
            began = time.perf_counter()
            step()
            if repeat:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    result: dict[str, Any] = {f"{name}_s": float(np.median(values)) for name, values in seconds.items()}
    theirs = np.array(seconds["lavis"])
    ratios = {name: float(np.median(theirs / np.array(values))) for name, values in seconds.items()}
    return {**result, "times_as_fast_as_lavis": ratios}


class LavisBlip2(QformerParts, Blip2Qformer):
    """LAVIS' own model and forward; only tower, tokenizer and widths are those of the run file."""

    def __init__(self, config: Any) -> None:
        self._vocab, self._bert, self._vit_weights = config.vocab, "", config.vit_weights
        self._qformer = dict(config.qformer)
        names = ("vit_model", "vit_precision", "freeze_vit", "num_query_token", "embed_dim", "max_txt_len")
        super().__init__(img_size=config.image_size, **{name: config[name] for name in names})


def blip2_steps(batch: dict[str, Any], data: Any, weights: str | None) -> dict[str, Step]:
    trained = {"load_finetuned": True, "finetuned": weights} if weights else {}
    ours = build_model("blip2", **trained, mafa={"negatives": "hardest", "alpha_from_epoch": 1})
    theirs = LavisBlip2(model_config("blip2"))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return steps(theirs, ours, batch, data)


def albef_steps(batch: dict[str, Any], data: Any) -> dict[str, Step]:
    config = model_config("albef")
    tokenizer = load_tokenizer(config.vocab)

    def parts() -> tuple[Any, Any]:
        tower = VisionTransformerEncoder(img_size=224, patch_size=32, embed_dim=192, depth=6, num_heads=3)
        tower.vision_width = 192
        return tower, build_text_encoder(config, 192, len(tokenizer), None)

    mafa = MafaSettings.from_dict({**ALBEF_SETTINGS, "alpha_from_epoch": 1})
    ours = MafaAlbef(*parts(), tokenizer, mafa=mafa, freeze_vit=True, embed_dim=128, max_txt_len=config.max_txt_len)
    with mock.patch.object(AlbefPretrain, "init_tokenizer", lambda self: tokenizer):
        sizes = {"embed_dim": 128, "mlm_mask_prob": ours.mlm_probability, "max_txt_len": config.max_txt_len}
        theirs = AlbefPretrain(*parts(), len(batch["text_input"]) * 10, **sizes)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all("_m." in key or "queue" in key for key in missing)
    theirs.visual_encoder.requires_grad_(False)  # ours stands on a frozen tower too
    theirs.copy_params()
    return steps(theirs, ours, {**batch, "iters": 0, "num_iters_per_epoch": 1}, data)


def steps(theirs: Any, ours: Any, batch: dict[str, Any], data: Any) -> dict[str, Step]:
    """A training step of each column."""
    scorer = ItmScorer(copy.deepcopy(ours), "benchmark", data.vis_processor, data.text_processor, shares_tower=True)
    miners = {"ours": ConnectionMiner(ours.mafa), "con_d": ConnectionMiner(ours.mafa, scorer)}
    optimizers = {model: torch.optim.AdamW(trained(model), lr=0.0) for model in (theirs.train(), ours.train())}
    plain = {key: value for key, value in batch.items() if key != "image_id"}  # LAVIS' pre-training knows none

    def step(model: Any, samples: dict[str, Any]) -> None:
        with one_process():
            model({**samples})["loss"].backward()
        optimizers[model].step()
        optimizers[model].zero_grad()

    def mined(name: str) -> None:
        ours.miner = miners[name]
        step(ours, batch)

    return {"lavis": lambda: step(theirs, plain), "ours": lambda: mined("ours"), "con_d": lambda: mined("con_d")}


def trained(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """LAVIS' BLIP-2 asks for its rank and gathers without looking whether there is a process group."""
    module = "lavis.models.blip2_models.blip2_qformer"
    with (
        mock.patch(f"{module}.dist.get_rank", lambda: 0),
        mock.patch(f"{module}.all_gather_with_grad", lambda tensor: tensor),
    ):
        yield


if __name__ == "__main__":
    main()
