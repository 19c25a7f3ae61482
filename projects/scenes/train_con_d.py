"""The scenes' Con-D: a Q-Former that matches images with captions, from annotated pairs alone, in random batches.

In random batches the hardest caption of an image seldom differs from its own by one word, and for a short caption it is
mostly a false negative; GRIT batches and mined candidates are full of captions that differ by a word. So each
annotated caption is set against itself with a colour, shape, size, place, count or background changed, or two of them
exchanged (as NegCLIP, Yuksekgonul et al., ICLR 2023), and against one of another image. This needs the captions alone:
neither the scene nor its truth function is asked (a changed caption may by chance be true; few are).

    python projects/scenes/train_con_d.py --out output/mafa/con_d_scenes/matching.safetensors
    python projects/scenes/export_con_d.py output/mafa/con_d_scenes/matching.safetensors
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

SCENES, SEED, BATCH, RATE = 20_000, 11, 64, 1.5e-3  # scenes that nothing else uses
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
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1800)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lavis_mafa.register()
    torch.manual_seed(SEED)
    model, data = _model_and_data(arguments.out.parent)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.05)
    progress = trange(arguments.steps, unit="it")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / arguments.steps)) / 2
        itc, itm, right = losses(model, data, np.random.default_rng((SEED, step)))
        optimizer.zero_grad()
        (itc + itm).backward()
        optimizer.step()
        progress.set_postfix(itc=f"{itc.item():.3f}", itm=f"{itm.item():.3f}", right=f"{right:.3f}")
    from lavis_mafa.checkpoint import trained_state

    correct_prior(model)
    save_file({key: value.contiguous().clone() for key, value in trained_state(model).items()}, arguments.out)


@torch.no_grad()
def correct_prior(model: Any) -> None:
    """P(match) for one match in four pairs, not for the two in five of training (Saerens et al., 2002): mined pairs are
    mostly mismatches, and a wrong connection costs more than a missed one."""
    model.itm_head.bias[1] += math.log((1 / 3) / (2 / 3))


def _model_and_data(tokens: Path) -> tuple[Any, PairDataset]:
    from lavis.processors import load_processor

    from lavis_mafa.models.blip2 import MafaBlip2
    from lavis_mafa.token_cache import attach_tokens

    config = OmegaConf.load(MafaBlip2.default_config_path("scenes_con_d"))
    config.model.load_finetuned = False
    model = MafaBlip2.from_config(config.model).float().train()
    view, text = load_processor("blip_image_eval", config.preprocess.vis_processor.eval), load_processor("blip_caption")
    table, open_image, _ = scenes_table(SCENES, SEED, details=list(DETAILS), captions_a_scene=3)
    data = PairDataset(table, open_image, view, text, seed=SEED, augmented=False)
    attach_tokens(model, data, tokens, torch.device("cpu"), workers=0)
    return model, data


def losses(model: Any, data: PairDataset, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """ITC of annotated pairs; ITM of two captions of each image, each of them changed, and one of another image."""
    records = np.sort(rng.choice(len(data), BATCH, replace=False))
    drawn = [rng.permutation(data.table.caption_rows(int(record)))[[0, -1]] for record in records]
    own, second = ([data.text_processor(data.table.caption(int(pair[n]))) for pair in drawn] for n in (0, 1))
    texts = own + second + [changed(caption, rng) for caption in own + second]
    vision = torch.from_numpy(data.tokens[records].astype(np.float32))
    image = torch.arange(BATCH)
    text_of_pair = torch.cat([torch.arange(4 * BATCH), image.roll(1)])
    logits = model.match_logits(model.pair_state(vision, model.tokenize(texts)), image.repeat(5), text_of_pair)
    labels = (torch.arange(5 * BATCH) < 2 * BATCH).long()
    itc = _itc(model, vision, own)
    return itc, F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean().item()


def _itc(model: Any, vision: Tensor, own: list[str]) -> Tensor:
    image_feat, text_feat = model.encode_image(vision)[1], model.encode_text(model.tokenize(own))
    sim = torch.einsum("bqd,cd->bcq", image_feat, text_feat).amax(-1) / model.temp
    both = [F.cross_entropy(logits, torch.arange(len(own)), label_smoothing=0.1) for logits in (sim, sim.T)]
    return torch.stack(both).mean()


if __name__ == "__main__":
    main()
