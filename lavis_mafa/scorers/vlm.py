"""A vision-language model as judge: P(yes) to a question that contains the caption.

    run.con_d: {arch: vlm, model: HuggingFaceTB/SmolVLM-256M-Instruct}

Any AutoModelForImageTextToText with a chat template. An image and the question up to the caption are read once; every
caption goes on from their key-value cache. Tested in tests/scorers/test_vlm.py against a model's logits by hand.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import ImageOps
from PIL.Image import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import Batch
from lavis_mafa.encoders.frozen import folder_or_name, load_frozen, named_folder, weights_digest
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest

QUESTION = 'Does this caption describe the image? "{}" Answer yes or no.'
IMAGE_SIZE = 384
CAPTIONS = 16  # of one pass
PLACE = "\0"  # of the caption, in a template
YES, NO = ("Yes", "yes", " Yes", " yes", "YES"), ("No", "no", " No", " no", "NO")


@dataclass(frozen=True)
class VlmScorer:
    """PairScorer: P = Σ P(yes) / Σ P(yes or no) of the first token of the answer.

    prefix, suffix: the chat around the caption. An image is padded to a square of `size` pixels, then prepared as the
    model's own processor does.
    """

    model: Any
    processor: Any
    prefix: str
    suffix: str
    size: int = IMAGE_SIZE

    @cached_property
    def fingerprint(self) -> str:
        words = sorted(self.processor.tokenizer.get_vocab().items())
        prepared = sorted(self.processor.image_processor.to_dict().items(), key=str)
        return f"vlm:{digest(weights_digest(self.model), words, prepared, self.prefix, self.suffix, self.size)}"

    @cached_property
    def answers(self) -> tuple[Tensor, Tensor]:
        """First tokens of yes and of no."""
        found = [{self._ids(word)[0] for word in words if self._ids(word)} for words in (YES, NO)]
        unknown = self.processor.tokenizer.unk_token_id
        yes, no = (ids - {unknown} for ids in found)
        device = self.model.device
        return torch.tensor(sorted(yes - no), device=device), torch.tensor(sorted(no - yes), device=device)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def view(self, image: Image) -> Tensor:
        """(3, size, size) uint8, padded in black."""
        padded = ImageOps.pad(image.convert("RGB"), (self.size, self.size))
        return torch.from_numpy(np.array(padded)).permute(2, 0, 1).contiguous()

    @torch.no_grad()
    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) P(yes)."""
        p_K = torch.empty(len(image_K))
        with torch.autocast(self.model.device.type, enabled=False):
            for image in torch.unique(image_K).tolist():
                pixels = batch["judge_image"][torch.tensor([image], device=image_K.device)][0].cpu()
                prefix, length = self._read(pixels)
                (at_k,) = torch.nonzero(image_K.cpu() == image, as_tuple=True)
                for rows in torch.split(at_k, CAPTIONS):
                    captions = [batch["caption"][row] for row in text_K.cpu()[rows].tolist()]
                    p_K[rows] = self._answered(copy.deepcopy(prefix), length, captions).cpu()
        return p_K.to(image_K.device)

    def _read(self, pixels_3HW: Tensor) -> tuple[Any, int]:
        """(key-value cache, tokens) of an image and the question up to the caption."""
        given = self.processor(images=[pixels_3HW], text=[self.prefix], return_tensors="pt").to(self.model.device)
        return self.model(**given, use_cache=True).past_key_values, given["input_ids"].shape[1]

    def _answered(self, cache: Any, length: int, captions: Sequence[str]) -> Tensor:
        """(k,) P(yes). Padding stands behind the question, where no token before it looks."""
        ids = [self._ids(caption + self.suffix) for caption in captions]
        longest, pad = max(map(len, ids)), self.processor.tokenizer.pad_token_id or 0
        ids_kT = torch.tensor([each + [pad] * (longest - len(each)) for each in ids], device=self.model.device)
        cache.batch_repeat_interleave(len(ids))
        mask_kT = torch.ones(len(ids), length + longest, dtype=torch.long, device=self.model.device)
        logits_kTV = self.model(input_ids=ids_kT, attention_mask=mask_kT, past_key_values=cache, use_cache=True).logits
        last_kV = logits_kTV[torch.arange(len(ids)), torch.tensor([len(each) - 1 for each in ids])].float()
        yes, no = (last_kV[:, words].logsumexp(dim=1) for words in self.answers)
        p_k: Tensor = (yes - no).sigmoid()
        return p_k


def build_vlm(request: ScorerRequest) -> VlmScorer:
    """Build the judge `vlm`.

    Raises:
        ValueError: no model named, one without a chat template, a question without a place for the caption.
    """
    where, section = request.where, request.section
    if not section.get("model"):
        raise ValueError(
            f"{where}: arch vlm needs model, a vision-language model's folder or hub name (e.g. "
            "HuggingFaceTB/SmolVLM-256M-Instruct)"
        )
    name, question = str(section["model"]), str(section.get("question") or QUESTION)
    if question.count("{}") != 1:
        raise ValueError(f"{where}.question is {question!r}; it must have one {{}}, where the caption stands")
    size = section.get("image_size", IMAGE_SIZE)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{where}.image_size is {size!r}; it must be a number of pixels")
    model = load_frozen(AutoModelForImageTextToText, name, f"{where}.model", request.device, needs_pooler=True)
    loaded: Any = AutoProcessor
    processor = loaded.from_pretrained(folder_or_name(name), trust_remote_code=False)
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"{where}.model: {name} has no chat template; choose a model that answers questions")
    content = [{"type": "image"}, {"type": "text", "text": question.format(PLACE)}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    prefix, _, suffix = chat.partition(PLACE)
    scorer = VlmScorer(model, processor, prefix, suffix, size)
    if not all(map(len, scorer.answers)):
        raise ValueError(f"{where}.model: {name} has no words for yes and no")
    return scorer


JUDGES.add("vlm")(
    Judge(
        build_vlm,
        ("model", "question", "image_size"),
        files=lambda section: named_folder(section, "model"),
        costs="a vision-language model, weights in 32 bits",
    )
)
