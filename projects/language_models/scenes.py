"""Trains the tiny OPT and T5 of the scenes from text alone: they never see an image.

A text begins with eight phrases about a scene ("big red circle top left"), and goes on with a caption of it, or with a
question and its answer (text_reader.py). One text in eight has no phrases.

    python projects/language_models/scenes.py opt      # writes lavis_mafa/assets/
    python projects/language_models/scenes.py t5
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from text_reader import PROMPT, SLOTS, Reader, Text, export, opt_reader, padded, train
from torch import Tensor

import lavis_mafa
from lavis_mafa.data.scenes.captions import DETAILS, caption_of
from lavis_mafa.data.scenes.grammar import words
from lavis_mafa.data.scenes.questions import CELLS, compositional, knowledge
from lavis_mafa.data.scenes.scene import COLOURS, PATTERNS, SHAPES, SIZES, TONES, Scene, pick, scene_number, scene_rng
from lavis_mafa.models.blip2.llm import cut_at_random

ASSETS = Path(lavis_mafa.__file__).parent / "assets"
SEED, HELD_OUT_SEED = 2_000_001, 2_000_002  # no data set of the package uses them
BLIND = 0.125
STEPS = {"opt": 8000, "t5": 2500}
T5 = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def text_of(seed: int, number: int) -> Text:
    scene, rng = scene_number(seed, number), scene_rng(seed, number, 5)
    phrases = [] if rng.random() < BLIND else slots(phrases_of(scene, rng), rng)
    kind = rng.random()
    if kind < 0.35:
        return Text(phrases, "", caption_of(scene, rng, pick(rng, DETAILS[1:])), "caption")
    question = (compositional if kind < 0.85 else knowledge)(scene, rng)
    return Text(phrases, PROMPT.format(question.text), question.answers[0], question.question_type)


def phrases_of(scene: Scene, rng: np.random.Generator) -> list[str]:
    """One phrase an object, one for the background, one for the count."""
    found = [
        f"{len(scene.objects)} objects",
        f"{pick(rng, words(TONES[scene.tone]))} {PATTERNS[scene.pattern]} background",
    ]
    for thing in scene.objects:
        named = ((SIZES, thing.size), (COLOURS, thing.colour), (SHAPES, thing.shape))
        output = [pick(rng, words(names[number])) for names, number in named]
        found.append(" ".join([*output, CELLS[3 * thing.row + thing.column]]))
    return found


def slots(phrases: list[str], rng: np.random.Generator) -> list[str]:
    """Every phrase once, some twice, in random order: as queries may look at what they like."""
    more = [pick(rng, phrases) for _ in range(SLOTS - len(phrases))]
    both = phrases + more
    return [both[i] for i in rng.permutation(SLOTS)]


def corpus(count: int = 4000) -> Iterator[str]:
    """What the tokenizers learn their words from."""
    for number in range(count):
        text = text_of(SEED, number)
        yield from (f"{text.given} {text.target}\n", *text.phrases)
    yield from ("a photo of", "Question: Short answer:", *"0123456789")


def t5_tokenizer(folder: Path) -> Any:
    """T5's kind: words marked by a bar, an end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import T5TokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.?:;!'-▁")
    special = ["<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=512, special_tokens=special, initial_alphabet=letters)
    )
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    bpe.save(str(folder / "tokenizer.json"))
    tokenizer = T5TokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), extra_ids=0)
    tokenizer.save_pretrained(folder)
    return T5TokenizerFast.from_pretrained(folder)


def build(name: str, folder: Path) -> Reader:
    if name == "opt":
        return opt_reader(folder, corpus(), words=768, width=128)
    from lavis.models.blip2_models.modeling_t5 import T5Config, T5ForConditionalGeneration

    tokenizer = t5_tokenizer(folder)
    return T5Reader(T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **T5)), tokenizer)


class T5Reader(Reader):
    def parts(self, texts: list[Text]) -> tuple[dict[str, Tensor], list[str]]:
        """What the encoder reads, and what is to follow; of a caption the words from a random place on."""
        prefix, there = self.prefix(texts)
        cut = [(text.given, text.target) if text.given else cut_at_random(text.target) for text in texts]
        ids, mask = padded([[*self.ids(given), self.tokenizer.eos_token_id] for given, _ in cut], 0)
        embeds = torch.cat([prefix, self.embed(ids)], 1)
        return {"inputs_embeds": embeds, "attention_mask": torch.cat([there, mask], 1)}, [target for _, target in cut]

    def loss(self, texts: list[Text]) -> Tensor:
        read, target = self.parts(texts)
        labels, _ = padded([[*self.ids(text), self.tokenizer.eos_token_id] for text in target], -100)
        return self.model(**read, labels=labels).loss

    @torch.no_grad()
    def generated(self, texts: list[Text]) -> list[str]:
        read, _ = self.parts(texts)
        output = self.model.generate(**read, max_new_tokens=8)
        return [text.strip() for text in self.tokenizer.batch_decode(output, skip_special_tokens=True)]


def accuracy(reader: Reader, count: int = 800) -> dict[str, float]:
    """Answers to held-out questions about held-out scenes, by kind; and without the phrases."""
    reader.eval()
    asked = [text for number in range(2 * count) if (text := text_of(HELD_OUT_SEED, number)).given and text.phrases][
        :count
    ]
    output = [target for start in range(0, count, 100) for target in reader.generated(asked[start : start + 100])]
    blind = [Text([], text.given, text.target, text.kind) for text in asked]
    unseen = [target for start in range(0, count, 100) for target in reader.generated(blind[start : start + 100])]
    found = {"all": _share(output, asked), "without phrases": _share(unseen, asked)}
    for kind in sorted({text.kind for text in asked}):
        of_kind = [i for i, text in enumerate(asked) if text.kind == kind]
        found[kind] = _share([output[i] for i in of_kind], [asked[i] for i in of_kind])
    return found


def _share(output: list[str], asked: list[Text]) -> float:
    return round(float(np.mean([one == text.target for one, text in zip(output, asked, strict=True)])), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("opt", "t5"))
    parser.add_argument("--out", type=Path, help="default: lavis_mafa/assets/scenes_MODEL")
    parser.add_argument("--steps", type=int, help="default: those of the packaged one")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    steps = arguments.steps or STEPS[arguments.model]
    lavis_mafa.register()
    torch.manual_seed(SEED)
    folder = arguments.out or ASSETS / f"scenes_{arguments.model}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reader = build(arguments.model, folder).train()
    print(
        f"{sum(p.numel() for p in reader.model.parameters()) / 1e6:.2f} M weights, {len(reader.tokenizer)} tokens",
        flush=True,
    )
    batch = arguments.batch
    train(
        reader,
        lambda step: [text_of(SEED, 10_000 + step * batch + i) for i in range(batch)],
        steps,
        arguments.lr,
    )
    found = accuracy(reader)
    print(json.dumps(found, indent=1))
    export(reader, folder, {"steps": steps, "batch": arguments.batch, "held_out": found})


if __name__ == "__main__":
    main()
