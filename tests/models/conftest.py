"""A tiny BLIP-2 beside LAVIS' own, with the same weights, tokenizer and batch."""

from __future__ import annotations

import os
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before Hugging Face is imported: a test that asks the hub fails at once

import lavis_mafa.compat  # before the tests import LAVIS

import pytest
import torch

from tests.models.tiny import CAPTIONS


@pytest.fixture(scope="session", autouse=True)
def registered() -> None:
    lavis_mafa.register()


@pytest.fixture
def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    size = len(CAPTIONS)
    image = torch.randn(size, 3, 16, 16, generator=generator)
    return {
        "image": image,
        "judge_image": image,
        "text_input": list(CAPTIONS),
        "caption": list(CAPTIONS),
        "index": torch.arange(size),
        "image_id": torch.arange(size) + 100,
        "text_id": torch.arange(size) + 200,
        "text_row": torch.arange(size),
    }
