"""What open_clip 4 has and 3 has not: dictionaries as samples and batches, tasks. Runs on either version.

The tests of this folder hold for both; on 4 they are run by `pip install` of it and `pytest tests/openclip`.
"""

from __future__ import annotations

import io
from types import SimpleNamespace

import open_clip
import pytest
import torch
from PIL import Image
from torch import nn

from lavis_mafa.data.identity import image_id, text_id
from lavis_mafa.openclip.loss import MafaClipLoss, MafaSigLipLoss
from lavis_mafa.openclip_train import batches, shard_feed
from lavis_mafa.openclip_train import launcher as train
from lavis_mafa.openclip_train.arguments import parser

wds = pytest.importorskip("webdataset")


def png() -> bytes:
    Image.new("RGB", (4, 4), "red").save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_a_sample_of_a_shard_is_read_in_one_stage_and_keeps_its_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """As 4 builds its pipeline: rename, then the caption's tokens, then the image, then a batch."""
    monkeypatch.setattr(shard_feed, "HAS_TASKS", True)
    data = SimpleNamespace(wds=wds, log_and_continue=lambda error: True)
    identity = shard_feed.Identity({"a.tar": "a.tar"}, lambda image: torch.tensor(float(image.width)), str.lower)
    rename = shard_feed.shard_stages(data, identity)["rename"]
    raw = [
        {"__key__": "x", "__url__": "a.tar", "png": png(), "caption": b"A red square", "pyd": b"never read"},
        {"__key__": "y", "__url__": "a.tar", "png": b"no image", "caption": b"left out"},
    ]
    (sample,) = rename(image="jpg;png", text="txt;caption", keep=False)(raw)
    sample["text"], sample["image"] = torch.tensor([7]), torch.ones(3)
    batch = torch.utils.data.default_collate([sample])
    image, text, ids, view, captions = batches.parts(batch)
    assert (image.shape, text.tolist(), view.tolist(), captions) == ((1, 3), [[7]], [4.0], ["A red square"])
    assert ids.tolist() == [[image_id("webdataset", "a.tar:x"), text_id("a red square")]]


def test_a_batch_has_the_form_that_the_version_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    image, text = torch.ones(2, 3), torch.zeros(2, 7)
    for has_tasks, form in ((False, tuple), (True, dict)):
        monkeypatch.setattr(batches, "HAS_TASKS", has_tasks)
        assert isinstance(batch := batches.paired(image, text), form)
        assert all(one is other for one, other in zip(batches.parts(batch), (image, text), strict=True))


class Task(nn.Module):
    def __init__(self, model: nn.Module, loss: object) -> None:
        super().__init__()
        self.model, self.loss = model, loss


class SigLipTask(Task):
    pass


@pytest.mark.parametrize(("siglip", "kind", "loss"), [(False, Task, MafaClipLoss), (True, SigLipTask, MafaSigLipLoss)])
def test_a_task_has_the_managed_loss(
    monkeypatch: pytest.MonkeyPatch, siglip: bool, kind: type[Task], loss: type[nn.Module]
) -> None:
    made = SigLipTask if siglip else Task
    monkeypatch.setattr(open_clip, "create_task", lambda args, model, **more: made(model, None), raising=False)
    monkeypatch.setattr(open_clip, "task", SimpleNamespace(CLIPTask=Task, SigLIPTask=SigLipTask), raising=False)
    args = {
        "distill": False,
        "model": "mafa-scenes",
        "siglip": siglip,
        "rank": 0,
        "world_size": 1,
        "loss_dist_impl": None,
    }
    args |= {"local_loss": False, "gather_with_grad": False, "variable_text": False, "cache_dir": None}
    training, model = train.Training(parser().parse_args([])), nn.Linear(1, 1)
    task = training.create_task(SimpleNamespace(**args), model, dist_model=None)
    assert type(task) is kind and task.model is model and isinstance(task.loss.loss, loss)
    with pytest.raises(ValueError, match="fixed length"):
        training.create_task(SimpleNamespace(**{**args, "variable_text": True}), model)
