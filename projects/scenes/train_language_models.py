"""Trains the tiny OPT and T5 of the scenes from text alone: they never see an image.

A text begins with phrases about a scene ("big red circle top left"), eight of them, and goes on with a caption of it,
or with a question and its answer. A phrase takes one position, as the sum of its words' embeddings, just as
much as one of the Q-Former's queries takes: a language model of this size could not read queries that are no words
otherwise. One text in eight has no phrases.

    python projects/scenes/train_language_models.py opt      # a few minutes on one CPU core; writes lavis_mafa/assets/
    python projects/scenes/train_language_models.py t5
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import lavis_mafa
from lavis_mafa.data.scenes.captions import DETAILS, caption_of
from lavis_mafa.data.scenes.grammar import words
from lavis_mafa.data.scenes.questions import CELLS, compositional, knowledge
from lavis_mafa.data.scenes.scene import COLOURS, PATTERNS, SHAPES, SIZES, TONES, Scene, pick, scene_number, scene_rng

ASSETS = Path(lavis_mafa.__file__).parent / "assets"
SEED, HELD_OUT_SEED = 2_000_001, 2_000_002  # no data set of the package uses them
SLOTS = 8  # queries of the scenes' Q-Former
BLIND = 0.125
PROMPT = "Question: {} Answer:"
OPT = {
    "hidden_size": 128,
    "word_embed_proj_dim": 128,
    "ffn_dim": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "dropout": 0.0,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
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


@dataclass
class Text:
    """`phrases` about a scene (none: blind), what is `given`, what is `told` after it, and which kind it is of."""

    phrases: list[str]
    given: str
    told: str
    kind: str


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
        said = [pick(rng, words(names[number])) for names, number in named]
        found.append(" ".join([*said, CELLS[3 * thing.row + thing.column]]))
    return found


def slots(phrases: list[str], rng: np.random.Generator) -> list[str]:
    """Every phrase once, some twice, in random order: as queries may look at what they like."""
    more = [pick(rng, phrases) for _ in range(SLOTS - len(phrases))]
    both = phrases + more
    return [both[i] for i in rng.permutation(SLOTS)]


class Reader(nn.Module):
    """A language model with its tokenizer: embeds phrases, gives the loss of what is told, and tells."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.embed = model.get_input_embeddings()

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def prefix(self, texts: list[Text]) -> tuple[Tensor, Tensor]:
        """Each phrase as the sum of its words by the root of their number (B, SLOTS, D); which there are (B, SLOTS)."""
        lists = [self.ids(" " + phrase) for text in texts for phrase in text.phrases or [""] * SLOTS]
        ids, mask = _padded(lists, 0)
        said = (self.embed(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()
        if self.training:
            said = said + 0.2 * said.detach().std() * torch.randn_like(said)
        there = torch.tensor([[bool(text.phrases)] * SLOTS for text in texts])
        return said.unflatten(0, (len(texts), SLOTS)), there.long()


class OptReader(Reader):
    def loss(self, texts: list[Text]) -> Tensor:
        prefix, there = self.prefix(texts)
        given = [[self.tokenizer.bos_token_id, *self.ids(text.given)] for text in texts]
        told = [self.ids((" " if text.given else "") + text.told + "\n") for text in texts]
        ids, mask = _padded([a + b for a, b in zip(given, told, strict=True)], self.tokenizer.pad_token_id)
        labels, _ = _padded([[-100] * len(a) + b for a, b in zip(given, told, strict=True)], -100)
        hidden = self.model.model.decoder(
            inputs_embeds=torch.cat([prefix, self.embed(ids)], 1), attention_mask=torch.cat([there, mask], 1)
        ).last_hidden_state[:, SLOTS:-1]
        asked = labels[:, 1:] != -100
        return nn.functional.cross_entropy(self.model.lm_head(hidden[asked]), labels[:, 1:][asked])

    @torch.no_grad()
    def tell(self, texts: list[Text]) -> list[str]:
        """Greedy, step by step, left-padded."""
        prefix, there = self.prefix(texts)
        given = [[self.tokenizer.bos_token_id, *self.ids(text.given)] for text in texts]
        ids, mask = (part.flip(1) for part in _padded([ids[::-1] for ids in given], self.tokenizer.pad_token_id))
        told = ids[:, :0]
        for _ in range(8):
            all_ids, all_mask = torch.cat([ids, told], 1), torch.cat([there, mask, torch.ones_like(told)], 1)
            embeds = torch.cat([prefix, self.embed(all_ids)], 1)
            hidden = self.model.model.decoder(inputs_embeds=embeds, attention_mask=all_mask).last_hidden_state[:, -1]
            told = torch.cat([told, self.model.lm_head(hidden).argmax(-1, keepdim=True)], 1)
        return [text.split("\n")[0].strip() for text in self.tokenizer.batch_decode(told)]


class T5Reader(Reader):
    def parts(self, texts: list[Text]) -> tuple[dict[str, Tensor], list[str]]:
        """What the encoder reads, and what is told; of a caption the words from a random place on."""
        prefix, there = self.prefix(texts)
        cut = [(text.given, text.told) if text.given else _cut(text.told) for text in texts]
        ids, mask = _padded([[*self.ids(given), self.tokenizer.eos_token_id] for given, _ in cut], 0)
        embeds = torch.cat([prefix, self.embed(ids)], 1)
        return {"inputs_embeds": embeds, "attention_mask": torch.cat([there, mask], 1)}, [told for _, told in cut]

    def loss(self, texts: list[Text]) -> Tensor:
        read, told = self.parts(texts)
        labels, _ = _padded([[*self.ids(text), self.tokenizer.eos_token_id] for text in told], -100)
        return self.model(**read, labels=labels).loss

    @torch.no_grad()
    def tell(self, texts: list[Text]) -> list[str]:
        read, _ = self.parts(texts)
        said = self.model.generate(**read, max_new_tokens=8)
        return [text.strip() for text in self.tokenizer.batch_decode(said, skip_special_tokens=True)]


def _cut(caption: str) -> tuple[str, str]:
    from lavis_mafa.models.blip2_llm import cut_at_random

    return cut_at_random(caption)


def _padded(lists: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, lists))
    ids = torch.tensor([one + [pad] * (width - len(one)) for one in lists])
    return ids, torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in lists])


def corpus(count: int = 4000) -> Iterator[str]:
    """What the tokenizers learn their words from."""
    for number in range(count):
        text = text_of(SEED, number)
        yield from (f"{text.given} {text.told}\n", *text.phrases)
    yield from ("a photo of", "Question: Short answer:", *"0123456789")


def opt_tokenizer(folder: Path) -> Any:
    """GPT-2's kind, as OPT has it: byte-level BPE."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer

    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>") | {"pad_token": "<pad>"}
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(corpus(), vocab_size=768, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    bpe.save_model(str(folder))
    about = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "model_max_length": 1024, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1))
    return AutoTokenizer.from_pretrained(folder, use_fast=False)


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
        from lavis.models.blip2_models.modeling_opt import OPTConfig, OPTForCausalLM

        tokenizer = opt_tokenizer(folder)
        return OptReader(OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), **OPT)), tokenizer)
    from lavis.models.blip2_models.modeling_t5 import T5Config, T5ForConditionalGeneration

    tokenizer = t5_tokenizer(folder)
    return T5Reader(T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **T5)), tokenizer)


def train(reader: Reader, steps: int, batch: int, peak: float) -> None:
    """AdamW, warm-up and cosine over `steps`."""
    optimizer = torch.optim.AdamW(reader.model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    start, shown = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 100) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))
        loss = reader.loss([text_of(SEED, 10_000 + step * batch + i) for i in range(batch)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.model.parameters(), 1.0)
        optimizer.step()
        shown = 0.95 * shown + 0.05 * loss.item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {shown:.3f}, {time.monotonic() - start:.0f} s", flush=True)


def accuracy(reader: Reader, count: int = 800) -> dict[str, float]:
    """Answers to held-out questions about held-out scenes, by kind; and without the phrases."""
    reader.eval()
    asked = [text for number in range(2 * count) if (text := text_of(HELD_OUT_SEED, number)).given and text.phrases][
        :count
    ]
    said = [told for start in range(0, count, 100) for told in reader.tell(asked[start : start + 100])]
    blind = [Text([], text.given, text.told, text.kind) for text in asked]
    unseen = [told for start in range(0, count, 100) for told in reader.tell(blind[start : start + 100])]
    found = {"all": _share(said, asked), "without phrases": _share(unseen, asked)}
    for kind in sorted({text.kind for text in asked}):
        of_kind = [i for i, text in enumerate(asked) if text.kind == kind]
        found[kind] = _share([said[i] for i in of_kind], [asked[i] for i in of_kind])
    return found


def _share(said: list[str], asked: list[Text]) -> float:
    return round(float(np.mean([one == text.told for one, text in zip(said, asked, strict=True)])), 4)


def export(reader: Reader, folder: Path, training: dict[str, Any]) -> None:
    """fp16 safetensors; tensors that share memory are kept once."""
    state, seen = {}, set()
    for key, value in reader.model.state_dict().items():
        if value.data_ptr() not in seen:
            state[key] = value.half().contiguous().clone()
        seen.add(value.data_ptr())
    save_file(state, folder / "model.safetensors", metadata={"format": "pt", "training": json.dumps(training)})
    reader.model.config.save_pretrained(folder)
    print(f"{folder.name}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("opt", "t5"))
    parser.add_argument("--out", type=Path, help="default: lavis_mafa/assets/scenes_MODEL")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()
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
    train(reader, arguments.steps, arguments.batch, arguments.lr)
    found = accuracy(reader)
    print(json.dumps(found, indent=1))
    export(reader, folder, {"steps": arguments.steps, "batch": arguments.batch, "held_out": found})


if __name__ == "__main__":
    main()
