"""Second part of the scenes' Con-D: matching against captions with one word changed.

In random batches the hardest caption seldom differs by one word only, but GRIT batches are full of such. So each
annotated caption is set against itself with a colour, shape, size, place, count or background changed, or two of them
exchanged (as NegCLIP, Yuksekgonul et al., ICLR 2023). This needs the caption alone: neither the scene nor its truth
function is asked (a changed caption may by chance be true; few are).

    bash run_scripts/mafa/train_con_d.sh
    python projects/scenes/tune_con_d.py --start output/mafa/con_d_scenes/model.safetensors \\
        --out output/mafa/con_d_scenes/tuned.safetensors
    python projects/scenes/export_con_d.py output/mafa/con_d_scenes/tuned.safetensors
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor
from tqdm import trange

import lavis_mafa
from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.data.scenes.captions import DETAILS
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.data.scenes.grammar import words
from lavis_mafa.data.scenes.scene import COLOURS, PATTERNS, SHAPES, SIZES, TONES

SCENES, SEED, BATCH = 20_000, 11, 64  # the scenes of train_con_d_scenes.yaml
# words of one class, by meaning: exchanging one for a word of another meaning makes another caption
CLASSES: list[list[tuple[str, ...]]] = [
    *([words(name) for name in names] for names in (COLOURS, SHAPES, SIZES, TONES, PATTERNS)),
    [("left",), ("right",)],
    [("top", "upper"), ("bottom", "lower")],
    [("above", "over"), ("below", "under")],
    [("two",), ("three",)],
]
MEANING = {word: (kind, n) for kind, group in enumerate(CLASSES) for n, same in enumerate(group) for word in same}


def changed(caption: str, rng: np.random.Generator) -> str:
    """The caption with one word of another meaning, or with two words of a class exchanged."""
    said = caption.split()
    places = [place for place, word in enumerate(said) if word.strip(",") in MEANING]
    if not places:
        return "an image of nothing"
    place = places[rng.integers(len(places))]
    kind, meaning = MEANING[said[place].strip(",")]
    rivals = [
        other
        for other in places
        if MEANING[said[other].strip(",")][0] == kind and MEANING[said[other].strip(",")][1] != meaning
    ]
    if rivals and rng.random() < 0.5:
        other = rivals[rng.integers(len(rivals))]
        said[place], said[other] = _as(said[place], said[other]), _as(said[other], said[place])
    else:
        others = [same for n, same in enumerate(CLASSES[kind]) if n != meaning]
        same = others[rng.integers(len(others))]
        said[place] = _as(said[place], same[rng.integers(len(same))])
    return " ".join(said)


def _as(old: str, new: str) -> str:
    """`new` with the comma of `old`."""
    return new.strip(",") + ("," if old.endswith(",") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--tokens", default="output/mafa/con_d_scenes/tokens", help="token cache of the first part")
    arguments = parser.parse_args()
    lavis_mafa.register()
    torch.manual_seed(SEED)
    model, data = _model_and_data(arguments)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.05)
    progress = trange(arguments.steps, unit="it")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / arguments.steps)) / 2
        itc, itm, right = losses(model, data, np.random.default_rng((SEED, step)))
        optimizer.zero_grad()
        (itc + itm).backward()
        optimizer.step()
        progress.set_postfix(itc=f"{itc.item():.3f}", itm=f"{itm.item():.3f}", right=f"{right:.3f}")
    from lavis_mafa.checkpoint import trained_state

    save_file({key: value.contiguous().clone() for key, value in trained_state(model).items()}, arguments.out)


def _model_and_data(arguments: Any) -> tuple[Any, PairDataset]:
    from lavis.processors import load_processor

    from lavis_mafa.models.blip2 import MafaBlip2
    from lavis_mafa.token_cache import attach_tokens

    config = OmegaConf.load(MafaBlip2.default_config_path("scenes_con_d"))
    config.model.finetuned = arguments.start
    model = MafaBlip2.from_config(config.model).float().train()
    view, text = load_processor("blip_image_eval", config.preprocess.vis_processor.eval), load_processor("blip_caption")

    def dataset(details: list[str]) -> PairDataset:
        table, open_image, _ = scenes_table(SCENES, SEED, details=details, captions_a_scene=3)
        return PairDataset(table, open_image, view, text, seed=SEED, augmented=False)

    first, data = dataset(["pair", "account"]), dataset(list(DETAILS))
    attach_tokens(model, first, Path(arguments.tokens), torch.device("cpu"), workers=0)
    data.tokens = first.tokens  # the same images
    return model, data


def losses(model: Any, data: PairDataset, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """ITC of the annotated pairs; ITM of these, of each image with two changes of its caption and with another's."""
    records = rng.choice(len(data), BATCH, replace=False)
    rows = [data.table.caption_rows(int(record)) for record in records]
    own = [data.text_processor(data.table.caption(row[rng.integers(len(row))])) for row in rows]
    texts = own + [changed(caption, rng) for caption in own] + [changed(caption, rng) for caption in own]
    vision = torch.from_numpy(data.tokens[np.sort(records)][np.argsort(np.argsort(records))].astype(np.float32))
    _, image_feat, _ = model.encode_image(vision)
    tokens = model.tokenize(texts)
    image = torch.arange(BATCH)
    pairs = torch.cat([image, image + BATCH, image + 2 * BATCH, image.roll(1)])
    logits = model.match_logits(model.pair_state(vision, tokens), image.repeat(4), pairs)
    labels = (torch.arange(4 * BATCH) < BATCH).long()
    text_feat = model.encode_text(model.tokenize(own))
    sim = torch.einsum("bqd,cd->bcq", image_feat, text_feat).amax(-1) / model.temp
    itc = (F.cross_entropy(sim, image, label_smoothing=0.1) + F.cross_entropy(sim.T, image, label_smoothing=0.1)) / 2
    return itc, F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
