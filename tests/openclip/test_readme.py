"""What the README says to paste runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

import lavis_mafa

from .tiny import tiny_clip

README = Path(lavis_mafa.__file__).parent / "openclip" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


def test_there_are_three_ways_of_five_lines():
    assert [len(block.splitlines()) for block in BLOCKS] == [5, 5, 5]


@pytest.mark.parametrize("block", BLOCKS, ids=["ids", "bi_encoder", "itm"])
def test_it_can_be_pasted(block):
    model = tiny_clip()
    names = {
        "model": model,
        "images": torch.randn(4, 3, 32, 32),
        "texts": torch.randint(1, 40, (4, 77)),
        "image_id": torch.tensor([3, 3, 4, 5]),
        "text_id": torch.tensor([1, 2, 3, 4]),
        "judge_model": tiny_clip(width=48),
        "batch": {},
        "scorer": lambda batch, image_K, text_K: torch.full((len(image_K),), 0.9),
    }
    exec(block, names)
    names["total"].backward()
    assert names["total"].isfinite()
    assert model.visual.conv1.weight.grad.abs().sum() > 0
