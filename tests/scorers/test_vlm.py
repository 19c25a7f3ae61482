"""A tiny vision-language model of random weights: P(yes) against its own logits, a pair at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.scorers import vlm
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer

MARKS = ["<pad>", "<unk>", "<image>", "yes", "no", "Yes", "No", "USER:", "ASSISTANT:", "fits", "?"]
WORDS = [*MARKS, "a", "dog", "cat", "red", "car", "runs", "on", "the", "grass"]
TEMPLATE = """\
{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> \
{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"""
CAPTIONS = ["a dog", "the red car runs on the grass", "a cat on the grass"]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def save(folder: Path, template: str | None = TEMPLATE) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    size = {"height": 16, "width": 16}
    prepare = CLIPImageProcessor(size=size, crop_size=size)
    more: Any = {"patch_size": 8, "vision_feature_select_strategy": "default", "image_token": "<image>"}
    more["num_additional_image_tokens"] = 1
    LlavaProcessor(prepare, fast, chat_template=template, **more).save_pretrained(folder)
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**SIZES, image_size=16, patch_size=8)
    text = LlamaConfig(**SIZES, vocab_size=len(WORDS), max_position_embeddings=64, initializer_range=0.5)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=WORDS.index("<image>"))
    LlavaForConditionalGeneration(config).eval().save_pretrained(folder)


def build(folder: Path, **section: Any) -> Any:
    section = {"arch": "vlm", "model": str(folder), "question": "fits {} ?", "image_size": 16, **section}
    return build_scorer(ScorerRequest(section, "run.con_d", torch.device("cpu"), MafaSettings()))


def test_p_yes_is_that_of_the_models_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm, "CAPTIONS", 2)
    save(tmp_path)
    judge = build(tmp_path)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(2)]
    batch: Any = {"judge_image": torch.stack([judge.view(image) for image in images]), "caption": CAPTIONS}

    @torch.no_grad()
    def by_hand(image: int, text: int) -> float:
        chat = f"USER: <image> fits {CAPTIONS[text]} ? ASSISTANT:"
        given = judge.processor(images=[batch["judge_image"][image]], text=[chat], return_tensors="pt")
        logits = judge.model(**given).logits[0, -1]
        yes, no = (
            logits[[WORDS.index(word) for word in words]].exp().sum() for words in (("yes", "Yes"), ("no", "No"))
        )
        return float(yes / (yes + no))

    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 0)]
    image_K, text_K = torch.tensor(pairs).T
    found = judge.score(batch, image_K, text_K).tolist()
    assert found == pytest.approx([by_hand(*pair) for pair in pairs], abs=1e-5)
    assert len({round(p, 4) for p in found}) == 5


def test_an_image_is_read_once_and_padded_not_stretched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)
    judge, read, plain = build(tmp_path), [], vlm.VlmScorer._read
    monkeypatch.setattr(vlm.VlmScorer, "_read", lambda self, pixels: read.append(1) or plain(self, pixels))
    batch: Any = {"judge_image": torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "caption": CAPTIONS}
    judge.score(batch, torch.tensor([1, 0, 1, 1]), torch.tensor([0, 1, 1, 2]))
    assert len(read) == 2
    seen = judge.view(Image.new("RGB", (32, 16), (200, 0, 0)))
    assert seen.shape == (3, 16, 16) and seen[0, 8].min() > 150 and seen[0, 0].max() == 0


def test_what_cannot_answer_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    assert build(tmp_path).fingerprint != build(tmp_path, question="{} fits ?").fingerprint
    with pytest.raises(ValueError, match=r"run.con_d.question is 'fits \?'; it must have one {}"):
        build(tmp_path, question="fits ?")
    with pytest.raises(ValueError, match="arch vlm needs model"):
        build(tmp_path, model=None)
    with pytest.raises(ValueError, match=r"run.con_d.image_size is 0"):
        build(tmp_path, image_size=0)
    save(tmp_path / "mute", None)
    with pytest.raises(ValueError, match="has no chat template"):
        build(tmp_path / "mute")
