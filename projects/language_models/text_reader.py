"""Small language models that learn from text alone to read a prefix; the scripts below projects/ make them for stage 2.

A text begins with phrases about a picture, SLOTS of them, and goes on with a caption of it, or with a question and its
answer. A phrase takes one position, as the sum of its words' embeddings, just as much as one of the Q-Former's queries
takes: a language model of this size could not read queries that are no words otherwise.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SLOTS = 8  # queries of the small Q-Formers
PROMPT = "Question: {} Answer:"


@dataclass
class Text:
    """`phrases` about a picture (none: blind), what is `given`, the `target` after it, and which kind it is of."""

    phrases: list[str]
    given: str
    target: str
    kind: str


class Reader(nn.Module):
    """A language model with its tokenizer: embeds phrases, gives the loss of a target, and generates one."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.embed = model.get_input_embeddings()

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def prefix(self, texts: list[Text]) -> tuple[Tensor, Tensor]:
        """Each phrase as the sum of its words by the root of their number (B, SLOTS, D); which there are (B, SLOTS)."""
        lists = [self.ids(" " + phrase) for text in texts for phrase in text.phrases or [""] * SLOTS]
        ids, mask = padded(lists, 0)
        summary = (self.embed(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()
        if self.training:
            summary = summary + 0.2 * summary.detach().std() * torch.randn_like(summary)
        there = torch.tensor([[bool(text.phrases)] * SLOTS for text in texts])
        return summary.unflatten(0, (len(texts), SLOTS)), there.long()


class OptReader(Reader):
    def loss(self, texts: list[Text]) -> Tensor:
        prefix, there = self.prefix(texts)
        given = [[self.tokenizer.bos_token_id, *self.ids(text.given)] for text in texts]
        target = [self.ids((" " if text.given else "") + text.target + "\n") for text in texts]
        ids, mask = padded([a + b for a, b in zip(given, target, strict=True)], self.tokenizer.pad_token_id)
        labels, _ = padded([[-100] * len(a) + b for a, b in zip(given, target, strict=True)], -100)
        hidden = self.model.model.decoder(
            inputs_embeds=torch.cat([prefix, self.embed(ids)], 1), attention_mask=torch.cat([there, mask], 1)
        ).last_hidden_state[:, SLOTS:-1]
        asked = labels[:, 1:] != -100
        return nn.functional.cross_entropy(self.model.lm_head(hidden[asked]), labels[:, 1:][asked])

    @torch.no_grad()
    def generated(self, texts: list[Text]) -> list[str]:
        """Greedy, step by step, left-padded."""
        prefix, there = self.prefix(texts)
        given = [[self.tokenizer.bos_token_id, *self.ids(text.given)] for text in texts]
        ids, mask = (part.flip(1) for part in padded([ids[::-1] for ids in given], self.tokenizer.pad_token_id))
        target = ids[:, :0]
        for _ in range(8):
            all_ids, all_mask = torch.cat([ids, target], 1), torch.cat([there, mask, torch.ones_like(target)], 1)
            embeds = torch.cat([prefix, self.embed(all_ids)], 1)
            hidden = self.model.model.decoder(inputs_embeds=embeds, attention_mask=all_mask).last_hidden_state[:, -1]
            target = torch.cat([target, self.model.lm_head(hidden).argmax(-1, keepdim=True)], 1)
        return [text.split("\n")[0].strip() for text in self.tokenizer.batch_decode(target)]


def padded(lists: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, L); which are there (B, L)."""
    width = max(map(len, lists))
    ids = torch.tensor([one + [pad] * (width - len(one)) for one in lists])
    return ids, torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in lists])


def opt_reader(folder: Path, corpus: Iterable[str], words: int, width: int) -> OptReader:
    """A new OPT of three layers; its tokenizer learns up to `words` tokens from `corpus`, and goes into `folder`."""
    from lavis.models.blip2_models.modeling_opt import OPTConfig, OPTForCausalLM

    tokenizer = opt_tokenizer(folder, corpus, words)
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=4 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        dropout=0.0,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
    )
    return OptReader(OPTForCausalLM(config), tokenizer)


def opt_tokenizer(folder: Path, corpus: Iterable[str], words: int) -> Any:
    """GPT-2's kind, as OPT has it: byte-level BPE."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer

    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>") | {"pad_token": "<pad>"}
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(corpus, vocab_size=words, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    bpe.save_model(str(folder))
    about = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "model_max_length": 1024, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1))
    return AutoTokenizer.from_pretrained(folder, use_fast=False)


def train(reader: Reader, batch_at: Callable[[int], list[Text]], steps: int, peak: float) -> None:
    """AdamW, warm-up and cosine over `steps`; `batch_at(step)` gives the texts of a step."""
    optimizer = torch.optim.AdamW(reader.model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    start, shown = time.monotonic(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 100) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))
        loss = reader.loss(batch_at(step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.model.parameters(), 1.0)
        optimizer.step()
        shown = 0.95 * shown + 0.05 * loss.item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {shown:.3f}, {time.monotonic() - start:.0f} s", flush=True)


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
