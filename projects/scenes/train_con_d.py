"""The scenes' Con-D: an ALBEF, as the paper's, that learns matching from annotated pairs alone, in random batches.

In random batches the hardest caption of an image seldom differs from its own by one word, and for a short caption it is
mostly a false negative; GRIT batches and mined candidates are full of captions that differ by a word, or by which
object has it. So each annotated caption is set against itself with one thing changed (data/scenes/changes.py), in the
same wording, and against a caption of another image. Two losses a word teach which word belongs to which object, which
the matching head alone learns too late: masked words are predicted from the image (ALBEF, eq. 3), changed ones found
(as ELECTRA, Clark et al., ICLR 2020). All this needs the captions alone: neither the scene nor its truth function is
asked.

    python projects/scenes/train_con_d.py --out output/mafa/con_d_scenes/matching.safetensors
    python projects/scenes/export_con_d.py output/mafa/con_d_scenes/matching.safetensors
"""

from __future__ import annotations

import argparse
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import trange

import lavis_mafa
from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.data.scenes.captions import DETAILS
from lavis_mafa.data.scenes.changes import changed
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.data.scenes.grammar import PLACES, Statement, parse, say, words
from lavis_mafa.data.scenes.scene import COLOURS, PATTERNS, SHAPES, SIZES, TONES

SCENES, SEED, BATCH, RATE = 20_000, 11, 32, 1.5e-3  # scenes that nothing else uses
CAPTIONS = 4  # of an image
BLOCKS = 4  # of captions of like length
MASKED = 0.4  # share of a caption's telling words
DRAWN_MORE = 3.0  # how much likelier a caption that says where or how many is drawn: these are the last things learnt
WEIGHTS = {"itm": None, "mlm": None, "changed": torch.tensor([1.0, 4.0])}  # one word in some ten is changed
TELLING = {
    *(word for names in (COLOURS, SHAPES, SIZES, TONES, PATTERNS) for name in names for word in words(name)),
    *(word for phrases in PLACES.values() for phrase in phrases for word in phrase.split()[1:]),
    *("above", "over", "below", "under", "one", "single", "two", "three"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2250)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lavis_mafa.register()
    torch.manual_seed(SEED)
    model, data = _model_and_data(arguments.out.parent)
    lesson = Lesson(model, data)
    optimizer = torch.optim.AdamW([p for p in lesson.parameters() if p.requires_grad], lr=RATE, weight_decay=0.05)
    progress = trange(arguments.steps, unit="it")
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / arguments.steps)) / 2
        losses = lesson(np.random.default_rng((SEED, step)))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        progress.set_postfix({name: f"{loss.item():.3f}" for name, loss in losses.items()})
    from lavis_mafa.models.trained import trained_state

    correct_prior(model)
    save_file({key: value.contiguous().clone() for key, value in trained_state(model).items()}, arguments.out)


@torch.no_grad()
def correct_prior(model: Any) -> None:
    """P(match) for one match in four pairs, not for the two in five of training (Saerens et al., 2002): mined pairs are
    mostly mismatches, and a wrong connection costs more than a missed one."""
    model.itm_head.bias[1] += math.log((1 / 3) / (2 / 3))


def _model_and_data(tokens: Path) -> tuple[Any, PairDataset]:
    from lavis.processors import load_processor

    from lavis_mafa.models.albef.pretrain import MafaAlbef
    from lavis_mafa.runners.token_cache import attach_tokens

    config = OmegaConf.load(MafaAlbef.default_config_path("scenes_con_d"))
    config.model.load_finetuned = False
    model = MafaAlbef.from_config(config.model).float().train()
    view, text = load_processor("blip_image_eval", config.preprocess.vis_processor.eval), load_processor("blip_caption")
    table, open_image, _ = scenes_table(SCENES, SEED, details=list(DETAILS), captions_a_scene=CAPTIONS)
    data = PairDataset(table, open_image, view, text, seed=SEED, augmented=False)
    attach_tokens(model, data, tokens, torch.device("cpu"), workers=0)
    return model, data


_read = cache(parse)


def _two(statements: list[Statement], rng: np.random.Generator) -> np.ndarray:
    """Two different captions of an image, as far as it has two."""
    weights = np.array([DRAWN_MORE if _says_where_or_how_many(statement) else 1.0 for statement in statements])
    order = rng.choice(len(statements), len(statements), replace=False, p=weights / weights.sum())
    return order[[0, min(1, len(order) - 1)]]


def _says_where_or_how_many(statement: Statement) -> bool:
    places = {(mention.row, mention.column) for mention in statement.mentions}
    return statement.count is not None or places != {(None, None)}


def _pair(statement: Statement, siblings: list[Statement], rng: np.random.Generator) -> tuple[str, str]:
    """What the statement says, and the same with one thing changed, as far as can be in the same words."""
    other, wording = changed(statement, siblings, rng), int(rng.integers(2**32))
    own, other = (say(one, np.random.default_rng(wording)) for one in (statement, other))
    return own, other


class Lesson(nn.Module):
    """The four losses of a batch: two captions of each image, both of them changed, and one of another image."""

    def __init__(self, model: Any, data: PairDataset) -> None:
        super().__init__()
        self.model, self.data = model, data
        self.finds_changes = nn.Linear(model.text_encoder.config.hidden_size, 2)  # not kept
        telling = torch.zeros(len(model.tokenizer), dtype=torch.bool)
        telling[model.tokenizer.convert_tokens_to_ids(sorted(TELLING & set(model.tokenizer.vocab)))] = True
        self.register_buffer("telling", telling)

    def forward(self, rng: np.random.Generator) -> dict[str, Tensor]:
        records = np.sort(rng.choice(len(self.data), BATCH, replace=False))
        vision = torch.from_numpy(self.data.tokens[records].astype(np.float32))
        own, other = self._captions(records, rng)
        by_length = np.argsort([len(caption) for caption in own], kind="stable")  # little padding in a block
        blocks = [self._block(vision, own, other, block, rng) for block in np.array_split(by_length, BLOCKS)]
        asked = {name: [block[name] for block in blocks] for name in WEIGHTS}
        losses = {
            name: F.cross_entropy(*(torch.cat(part) for part in zip(*pairs, strict=True)), weight=WEIGHTS[name])
            for name, pairs in asked.items()
        }
        text_feat = torch.cat([block["text_feat"] for block in blocks])[np.argsort(by_length)[:BATCH]]
        return {"itc": self._itc(vision, text_feat), **losses}

    def _captions(self, records: np.ndarray, rng: np.random.Generator) -> tuple[list[str], list[str]]:
        """Own captions (2B), the first of each image, then the second, reworded; and the same, changed."""
        table = self.data.table
        of_records = [[_read(table.caption(int(row))) for row in table.caption_rows(int(record))] for record in records]
        drawn = [_two(statements, rng) for statements in of_records]
        both = [
            _pair(statements[pair[n]], statements, rng)
            for n in (0, 1)
            for statements, pair in zip(of_records, drawn, strict=True)
        ]
        own, other = zip(*both, strict=True)
        return list(own), list(other)

    def _block(
        self, vision: Tensor, own: list[str], other: list[str], at_K: np.ndarray, rng: np.random.Generator
    ) -> dict[str, Any]:
        """Logits and labels of each loss for the own captions `at` (K of 2B), their changed ones, and, of each image's
        first, the image before."""
        model, number = self.model, len(at_K)
        tokens = model.tokenize([captions[at] for captions in (own, other) for at in at_K])
        state = model.pair_state(vision, tokens)
        image_K, first = torch.from_numpy(at_K % BATCH), torch.from_numpy(np.flatnonzero(at_K < BATCH))
        image_of_pair = torch.cat([image_K, image_K, (image_K[first] - 1) % BATCH])
        hidden = model.fused(state, image_of_pair, torch.cat([torch.arange(2 * number), first]))
        return {
            "itm": (model.itm_head(hidden[:, 0]), (torch.arange(len(hidden)) < number).long()),
            "mlm": self._masked(state, image_K, rng),
            "changed": self._changes(tokens, hidden[: 2 * number]),
            "text_feat": model.text_feat(state.text_embeds[:number]),
        }

    def _itc(self, vision: Tensor, text_feat: Tensor) -> Tensor:
        image_feat = self.model.encode_image(vision)[1][:, 0]
        sim, own = image_feat @ text_feat.T / self.model.temp, torch.arange(BATCH)
        return (F.cross_entropy(sim, own, label_smoothing=0.1) + F.cross_entropy(sim.T, own, label_smoothing=0.1)) / 2

    def _masked(self, state: Any, image_K: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Telling words of the own captions, masked, predicted from the image and the rest of the caption."""
        ids = state.tokens.input_ids[: len(image_K)]
        masked = self.telling[ids] & (torch.from_numpy(rng.random(tuple(ids.shape))) < MASKED)
        seen = ids.masked_fill(masked, self.model.tokenizer.mask_token_id)
        return self.model.word_logits(state, seen, masked, image_K, torch.arange(len(image_K))), ids[masked]

    def _changes(self, tokens: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Own and changed captions (2K): which words were changed; where both have as many tokens, as nearly all do."""
        own, other = tokens.input_ids.chunk(2)
        lengths_own, lengths_other = tokens.attention_mask.sum(1).chunk(2)
        asked = tokens.attention_mask.bool() & (lengths_own == lengths_other).repeat(2)[:, None]
        return self.finds_changes(hidden)[asked], torch.cat([torch.zeros_like(own), (own != other).long()])[asked]


if __name__ == "__main__":
    main()
