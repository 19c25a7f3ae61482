"""Trains the vision tower of the embedded scenes from attribute labels, as ImageNet networks are.

Every patch token learns to name what stands in its cell of the grid (shape, colour, size, or nothing) and which cell it
is; the class token names the background and the kinds of objects present. Captions are not used.

    python projects/scenes/train_tower.py            # about 5 minutes on 2 cores; writes lavis_mafa/assets/
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lavis_mafa.data.scenes.render import IMAGE_SIZE, render
from lavis_mafa.data.scenes.scene import COLOURS, GRID, PATTERNS, SHAPES, SIZES, TONES, Scene, random_scene, scene_rng
from lavis_mafa.models.towers.small_vit import SmallViT

SEED = 1_000_001  # no data set of the package uses it
HELD_OUT_SEED = 1_000_002
EMPTY = -100  # cross_entropy's ignore_index: colour and size of an empty cell
CROWDED = tuple(range(1, GRID * GRID + 1))  # up to nine objects: more cells to learn from in each image
Labels = dict[str, Tensor]


class Reader(nn.Module):
    """The tower and the linear heads that read it; only the tower is kept."""

    def __init__(self, tower: SmallViT):
        super().__init__()
        self.tower = tower
        self.cell_sizes = {"shape": len(SHAPES) + 1, "colour": len(COLOURS), "size": len(SIZES), "cell": GRID * GRID}
        self.of_cell = nn.Linear(tower.num_features, sum(self.cell_sizes.values()))
        self.background = nn.Linear(tower.num_features, len(TONES) * len(PATTERNS))
        self.kinds = nn.Linear(tower.num_features, len(SHAPES) * len(COLOURS))

    def forward(self, image: Tensor) -> Labels:
        """Logits: of each cell's attribute (B, 36, classes), of the background (B, 8) and of the kinds (B, 48)."""
        tokens = self.tower(image)
        of_cell = self.of_cell(tokens[:, 1:]).split(list(self.cell_sizes.values()), dim=-1)
        logits = dict(zip(self.cell_sizes, of_cell, strict=True))
        return {**logits, "background": self.background(tokens[:, 0]), "kinds": self.kinds(tokens[:, 0])}


def loss_of(logits: Labels, labels: Labels) -> Tensor:
    """Sum of the cross-entropies of all attributes."""
    single = [F.cross_entropy(logits[k].flatten(0, -2), labels[k].flatten()) for k in labels if k != "kinds"]
    return torch.stack(single).sum() + 4 * F.binary_cross_entropy_with_logits(logits["kinds"], labels["kinds"])


def labelled(seed: int, first: int, count: int, counts: tuple[int, ...]) -> tuple[Tensor, Labels]:
    """Images (count, 3, 48, 48) in [-1, 1] and labels of the scenes from `first` on."""
    numbers = range(first, first + count)
    scenes = [random_scene(scene_rng(seed, number, 1), counts) for number in numbers]
    images = [np.asarray(render(scene, scene_rng(seed, n, 3))) for n, scene in zip(numbers, scenes, strict=True)]
    images_BHWC = torch.from_numpy(np.stack(images))
    labels = [labels_of(scene) for scene in scenes]
    image_labels = {name: torch.stack([label[name] for label in labels]) for name in labels[0]}
    return images_BHWC.permute(0, 3, 1, 2).contiguous() / 127.5 - 1, image_labels


def labels_of(scene: Scene) -> Labels:
    cells = torch.tensor([len(SHAPES), EMPTY, EMPTY]).repeat(GRID, GRID, 1)  # shape, colour, size
    kinds = torch.zeros(len(SHAPES) * len(COLOURS))
    for thing in scene.objects:
        cells[thing.row, thing.column] = torch.tensor([thing.shape, thing.colour, thing.size])
        kinds[thing.shape * len(COLOURS) + thing.colour] = 1
    patches = cells.repeat_interleave(2, 0).repeat_interleave(2, 1).flatten(0, 1)  # a cell is 2 x 2 patches
    number = torch.arange(GRID * GRID).view(GRID, GRID).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten()
    background = torch.tensor([scene.tone * len(PATTERNS) + scene.pattern])
    named = dict(zip(("shape", "colour", "size"), patches.unbind(-1), strict=True))
    return {**named, "cell": number, "background": background, "kinds": kinds}


@torch.no_grad()
def accuracy(reader: Reader, count: int = 2000) -> dict[str, float]:
    """Held-out accuracy on ordinary scenes (1-3 objects), by the four tokens of a cell; of cells with an object."""
    reader.eval()
    images, labels = labelled(HELD_OUT_SEED, 0, count, (1, 2, 2, 3, 3))
    logits = reader(images)
    corner = [12 * row + 2 * column for row in range(GRID) for column in range(GRID)]  # first of a cell's patches
    square = torch.tensor([[c, c + 1, c + 6, c + 7] for c in corner])  # (9, 4)
    full = labels["shape"][:, corner] != len(SHAPES)  # (B, 9)
    found: dict[str, float] = {}
    for name in ("shape", "colour", "size"):
        right = logits[name][:, square].sum(2).argmax(-1) == labels[name][:, corner]
        found[name] = right[full].float().mean().item()
    found["empty cells"] = (logits["shape"][:, square].sum(2).argmax(-1)[~full] == len(SHAPES)).float().mean().item()
    found["background"] = (logits["background"].argmax(-1) == labels["background"][:, 0]).float().mean().item()
    return {name: round(value, 4) for name, value in found.items()}


def train(reader: Reader, steps: int, batch: int, peak: float, minutes: float) -> int:
    """AdamW with warm-up and a cosine over `steps`, ended early (with the cosine) when `minutes` would be exceeded."""
    decayed = [p for p in reader.parameters() if p.ndim > 1]
    plain = [p for p in reader.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    start, progress, step = time.monotonic(), 0.0, 0
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(labelled, SEED, 0, batch, CROWDED)
        while progress < 1:
            images, labels = ahead.result()
            ahead = pool.submit(labelled, SEED, (step + 1) * batch, batch, CROWDED)
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, (step + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
            loss = loss_of(reader(images), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            optimizer.step()
            step += 1
            progress = max(step / steps, (time.monotonic() - start) / (60 * minutes))
            if step % 100 == 0:
                print(f"step {step}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s", flush=True)
    return step


def save(tower: SmallViT, path: Path, notes: dict[str, object]) -> None:
    """fp16 safetensors; metadata: `config`, the constructor's arguments, and `training`, what it was made with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in tower.state_dict().items()}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"config": json.dumps(tower.config), "training": json.dumps(notes)})
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("lavis_mafa/assets/scenes_tower.safetensors"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=6.0, help="training ends by then, whatever the machine")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    reader = Reader(SmallViT(IMAGE_SIZE, patch_size=8, width=128, depth=4, heads=4))
    steps = train(reader, arguments.steps, arguments.batch, arguments.lr, arguments.minutes)
    held_out = accuracy(reader)
    print("held-out accuracy", held_out)
    save(reader.tower, arguments.output, {"steps": steps, "batch": arguments.batch, "held_out_accuracy": held_out})


if __name__ == "__main__":
    main()
