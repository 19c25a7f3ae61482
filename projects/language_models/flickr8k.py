"""Trains a small OPT for photographs from text alone: Flickr8k's training captions, DAQUAR's training questions.

It never sees an image, nor a text of a validation or test split. Before a caption stand eight words of the other four
captions of its image, a position each; one caption in eight has none. Of a DAQUAR photograph there is no description:
before half of the questions stand answers to others about the same image. Nothing of it is shipped with the package.

    LAVIS_MAFA_DATA=… python projects/language_models/flickr8k.py      # minutes on one CPU core
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from text_reader import PROMPT, SLOTS, OptReader, Text, export, opt_reader, train

import lavis_mafa

SEED = 42
HELD_OUT = 20  # one image in so many is kept to measure with
CAPTIONS = 0.7  # share of steps with captions
BLIND_CAPTIONS, BLIND_QUESTIONS = 0.125, 0.5
CONTENT_WORD = re.compile(
    r"""(?x) \b (?! (?:a|about|after|all|along|also|an|and|are|as|at|away|back|be|been|being|by|down|each|for|from|
    front|has|have|having|he|her|him|his|in|into|is|it|its|like|near|next|not|of|off|on|one|onto|or|other|others|out|over|
    past|she|so|some|that|the|their|them|there|they|this|through|to|together|toward|towards|under|up|very|while|who|with)
    (?![\w-]) ) \w+ (?:-\w+)*"""
)


@dataclass
class Corpus:
    """By image: its captions, and its questions, each with what it may be answered by."""

    captions: list[list[str]]
    questions: list[list[tuple[str, list[str]]]]

    def parts(self) -> tuple[Corpus, Corpus]:
        """What to learn from, and what is held out."""
        kept, held = ([], []), ([], [])
        for place, images in enumerate((self.captions, self.questions)):
            for number, image in enumerate(images):
                (held if number % HELD_OUT == 0 else kept)[place].append(image)
        return Corpus(*kept), Corpus(*held)

    def lines(self) -> Iterator[str]:
        """What the tokenizer learns its words from."""
        for captions in self.captions:
            yield from (f"{caption}\n" for caption in captions)
        for questions in self.questions:
            yield from (f"{PROMPT.format(asked)} {answer}\n" for asked, answers in questions for answer in answers)


def read(folder: Path) -> Corpus:
    """The training splits, as the processors of stage 2 and of the evaluation give them to the model."""
    from lavis.processors.blip_processors import BlipCaptionProcessor, BlipQuestionProcessor

    caption, question = BlipCaptionProcessor(), BlipQuestionProcessor()
    captions, questions = defaultdict(list), defaultdict(list)
    for row in json.loads((folder / "flickr8k" / "flickr8k_train.json").read_text(encoding="utf-8")):
        captions[row["image"]].append(caption(row["caption"]))
    for row in json.loads((folder / "daquar" / "daquar_train.json").read_text(encoding="utf-8")):
        questions[row["image"]].append((question(row["question"]), row["answer"]))
    return Corpus(list(captions.values()), list(questions.values()))


def caption_text(captions: Sequence[str], rng: np.random.Generator, blind: float = BLIND_CAPTIONS) -> Text:
    place = int(rng.integers(len(captions)))
    others = " ".join(captions[:place] + captions[place + 1 :])
    words = [] if rng.random() < blind else eight(CONTENT_WORD.findall(others), rng)
    return Text(words, "", captions[place], "caption")


def question_text(
    questions: Sequence[tuple[str, list[str]]], rng: np.random.Generator, blind: float = BLIND_QUESTIONS
) -> Text:
    place = int(rng.integers(len(questions)))
    asked, answers = questions[place]
    others = [answer for number, (_, output) in enumerate(questions) if number != place for answer in output]
    phrases = [] if rng.random() < blind else eight(others, rng)
    return Text(phrases, PROMPT.format(asked), answers[int(rng.integers(len(answers)))], "question")


def eight(phrases: Sequence[str], rng: np.random.Generator) -> list[str]:
    """SLOTS of them, each once where there are enough: more frequent ones are likelier."""
    shuffled = [phrases[i] for i in rng.permutation(len(phrases))]
    chosen = list(dict.fromkeys(shuffled))[:SLOTS]
    return [chosen[i % len(chosen)] for i in range(SLOTS)] if chosen else []


def texts_of(corpus: Corpus, step: int, batch: int) -> list[Text]:
    """A step's texts, all captions or all questions: they are about as long as one another then."""
    rng = np.random.default_rng((SEED, step))
    if rng.random() < CAPTIONS:
        return [caption_text(corpus.captions[i], rng) for i in rng.integers(len(corpus.captions), size=batch)]
    return [question_text(corpus.questions[i], rng) for i in rng.integers(len(corpus.questions), size=batch)]


def measure(reader: OptReader, corpus: Corpus) -> dict[str, float]:
    """Held-out images: a caption's loss a token (nats), and the share of questions answered, with words and without."""
    reader.eval()
    rng = np.random.default_rng(SEED)
    target = [caption_text(captions, rng, blind=0) for captions in corpus.captions]
    asked = [question_text(questions, rng, blind=0) for questions in corpus.questions for _ in questions]
    found = {
        "captions": caption_loss(reader, target),
        "captions without words": caption_loss(reader, blind(target)),
        "questions": answered(reader, asked),
        "questions without words": answered(reader, blind(asked)),
    }
    return {name: round(value, 4) for name, value in found.items()}


def blind(texts: Sequence[Text]) -> list[Text]:
    return [Text([], text.given, text.target, text.kind) for text in texts]


@torch.no_grad()
def caption_loss(reader: OptReader, texts: Sequence[Text]) -> float:
    parts = [texts[start : start + 100] for start in range(0, len(texts), 100)]
    return float(np.average([reader.loss(list(part)).item() for part in parts], weights=[len(part) for part in parts]))


def answered(reader: OptReader, texts: Sequence[Text]) -> float:
    output = [one for start in range(0, len(texts), 100) for one in reader.generated(list(texts[start : start + 100]))]
    return float(np.mean([one == text.target for one, text in zip(output, texts, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("output/mafa/flickr8k_opt"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    if not os.environ.get("LAVIS_MAFA_DATA"):
        parser.error("set LAVIS_MAFA_DATA to the folder that holds flickr8k/ and daquar/")
    lavis_mafa.register()
    torch.manual_seed(SEED)
    learned, held_out = read(Path(os.environ["LAVIS_MAFA_DATA"])).parts()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    reader = opt_reader(arguments.out, learned.lines(), words=3000, width=192).train()
    weights = sum(parameter.numel() for parameter in reader.model.parameters())
    print(f"{weights / 1e6:.2f} M weights, {len(reader.tokenizer)} tokens", flush=True)
    train(reader, lambda step: texts_of(learned, step, arguments.batch), arguments.steps, arguments.lr)
    found = measure(reader, held_out)
    print(json.dumps(found, indent=1))
    export(reader, arguments.out, {"steps": arguments.steps, "batch": arguments.batch, "held_out": found})


if __name__ == "__main__":
    main()
