"""WebDataset shards of open_clip's training, grouped into batches of look-alikes inside a buffer.

Shards are streamed, so no epoch can be planned. What comes out of open_clip's shuffle is buffered, embedded by the
model as it stands, chained (GRIT) and cut into batches. Tested in tests/openclip/test_shards.py.
"""

from __future__ import annotations

import argparse
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import open_clip
import torch
from torch import Tensor, nn

from lavis_mafa.core.chain import Chainer
from lavis_mafa.core.scorer import View
from lavis_mafa.core.siblings import keep_apart
from lavis_mafa.data.identity import image_id, text_id
from lavis_mafa.data.records import TextProcessor
from lavis_mafa.openclip_train.batches import HAS_TASKS, Pair, paired, parts
from lavis_mafa.openclip_train.images import RowBatch
from lavis_mafa.openclip_train.shard_decode import decoded, read

IDS, VIEW, CAPTION = "mafa_ids", "mafa_view", "mafa_caption"
Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Identity:
    """Adds (image_id, text_id) to a sample of a shard: of shard and key, and of the caption.

    names: of every shard, by its URL (shard_names.py). view: PIL image → tensor, how a judge sees an image; then its
    view and the caption as it stands are added too. read: what the tokenizer makes of a caption before it is cut.
    """

    def __init__(self, names: Mapping[str, str], view: View | None, read: TextProcessor) -> None:
        self.names, self.view, self.read = names, view, read
        self.adds = [IDS] if view is None else [IDS, VIEW, CAPTION]

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        name = f"{self.names[sample['__url__']]}:{sample['__key__']}"
        ids = image_id("webdataset", name), text_id(self.read(sample["text"]))
        more: dict[str, Any] = {IDS: torch.tensor(ids)}
        if self.view is not None:
            more |= {VIEW: self.view(sample["image"]), CAPTION: sample["text"]}
        return {**sample, **more}


def shard_stages(open_clip_data: ModuleType, identity: Identity | None) -> dict[str, Callable[..., object]]:
    """Stands in for stages of webdataset as open_clip calls them: only image and caption are decoded (shard_decode.py).

    identity: adds ids to the samples of training; None: of validation.
    """
    wds, handler = open_clip_data.wds, open_clip_data.log_and_continue
    if HAS_TASKS:  # one stage; those that follow find image and caption decoded
        return {"rename": lambda image, text, keep: wds.map(Reader(image, text, identity), handler=handler)}
    rename, to_tuple = wds.rename, wds.to_tuple
    stages: dict[str, Callable[..., object]] = {"decode": lambda spec, handler: wds.map(decoded, handler=handler)}
    if identity is None:
        return stages

    def identified(**names: str) -> Callable[[Iterable[Any]], Iterator[Any]]:
        stage = rename(**names)
        return lambda samples: map(identity, stage(samples))

    return {**stages, "rename": identified, "to_tuple": lambda *names: to_tuple(*names, *identity.adds)}


class Reader:
    """A sample of open_clip 4: image and caption of these suffixes (`png;jpg`), decoded, and what `identity` adds."""

    def __init__(self, images: str, captions: str, identity: Identity | None) -> None:
        self.suffixes, self.identity = (images.split(";"), captions.split(";")), identity

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        image, text = read(sample, *self.suffixes)
        known = {"image": image, "text": text}
        if self.identity is None:
            return known
        added = self.identity({**sample, **known})
        return {**known, **{name: added[name] for name in self.identity.adds}}


def encoder(model: nn.Module, args: argparse.Namespace) -> Encode:
    """The model's features of a batch, in open_clip's precision, and nothing learned from it."""
    from open_clip_train.precision import get_autocast

    device, dtype = torch.device(args.device), open_clip.get_input_dtype(args.precision)
    autocast = get_autocast(args.precision, device_type=device.type)

    @torch.no_grad()
    def encode(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        training = model.training
        model.eval()  # running means are the training's
        with autocast():
            image = model.encode_image(images.to(device, dtype), normalize=True)
            text = model.encode_text(texts.to(device), normalize=True)
        model.train(training)
        return image, text

    return encode


def without_eof(open_clip_data: ModuleType) -> dict[str, Callable[..., object]]:
    """webdataset 1 marks the end of a shard by a sample that open_clip's reader stumbles on: it is left out."""
    expander = open_clip_data.tar_file_expander
    marks = "eof_value" in inspect.signature(expander).parameters
    return {"tar_file_expander": partial(expander, eof_value=None)} if marks else {}


class Shards(Protocol):
    """open_clip_train's DataInfo of shards."""

    dataloader: Any  # webdataset's, with num_samples and num_batches

    def set_epoch(self, epoch: int) -> None: ...


class ShardFeed:
    """The training loader that open_clip's loop sees: batches (images, texts) of look-alikes.

    info: open_clip_train's DataInfo of shards, whose loader yields (images, texts, ids (B, 2)), for a judge with its
    view of the images and the captions. encode: images and texts → features (B, D) of unit length by the model as it
    stands. buffer: batches that are grouped at a time; the first epoch is left as it comes, as is everything where
    buffer is 1. accum_freq: batches the loss sees at a time.
    """

    def __init__(
        self, info: Shards, encode: Encode, buffer: int, seed: int, rank: int, siblings: str, accum_freq: int = 1
    ) -> None:
        self.info, self.encode, self.buffer, self.siblings = info, encode, buffer, siblings
        self.seed, self.rank = seed, rank
        self.num_samples, self.num_batches = info.dataloader.num_samples, info.dataloader.num_batches
        self.epoch = -1
        self.fresh = False
        self._last: deque[list[Any]] = deque(maxlen=accum_freq)

    def __len__(self) -> int:
        return self.num_batches

    def set_value(self, epoch: int) -> None:
        """open_clip's DataInfo.set_epoch calls this before it iterates."""
        self.epoch = epoch
        self.info.set_epoch(epoch)

    def __iter__(self) -> Iterator[Pair]:
        self._last.clear()
        loader, number = map(parts, self.info.dataloader), 0
        while batches := list(islice(loader, self.buffer)):
            if self.epoch > 0 and len(batches) > 1:
                batches = self._grouped(batches, np.random.default_rng((self.seed, self.epoch, self.rank, number)))
            for images, texts, *known in batches:
                self._last.append(known)
                self.fresh = True
                yield paired(images, texts)
            number += 1
        if not number:
            raise ValueError(
                f"epoch {self.epoch} has no batch, where {self.num_batches} were announced: the shards of a worker "
                "hold fewer pairs than a batch; see the warnings above, lower --batch-size or --workers"
            )

    def ids(self, n: int) -> Tensor:
        """(n, 2) image_id and text_id of the batch, or of the accumulated batches, that the loss is called with."""
        ids_n2 = torch.cat([ids_B2 for ids_B2, *_ in self._last])
        assert len(ids_n2) == n, f"{len(ids_n2)} pairs were yielded, {n} features came back"
        return ids_n2

    def samples(self, n: int, device: torch.device) -> RowBatch:
        """What a judge asks of the same pairs: image_id, text_id (n,), caption and judge_image (n, 3, h, w)."""
        image_id_n, text_id_n = self.ids(n).unbind(dim=1)
        _, view_n3hw, captions = (_joined(parts) for parts in zip(*self._last, strict=True))
        seen = {"judge_image": view_n3hw.to(device), "caption": captions}
        return {"image_id": image_id_n, "text_id": text_id_n, **seen}

    def keep(self, image_features_nD: Tensor, text_features_nD: Tensor) -> None:
        """Nothing is kept: the next buffer is embedded anew."""
        self.fresh = False

    def _grouped(self, batches: list[tuple[Any, ...]], rng: np.random.Generator) -> list[tuple[Any, ...]]:
        """The same pairs, chained and cut into as many batches, those in random order."""
        features = zip(*(self.encode(images, texts) for images, texts, *_ in batches), strict=True)
        image_MD, text_MD = (torch.cat(part).float().cpu().numpy() for part in features)
        parts = [_joined(part) for part in zip(*batches, strict=True)]
        size = len(batches[0][0])
        order = Chainer().chain(image_MD, text_MD, int(rng.integers(len(image_MD))))
        if self.siblings == "apart":
            order = keep_apart(order, parts[2][:, 0].numpy(), size)
        return [tuple(_taken(part, rows) for part in parts) for rows in rng.permutation(order.reshape(-1, size))]


def _joined(parts: Sequence[Any]) -> Any:
    """Tensors or lists of several batches as one."""
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else list(chain(*parts))


def _taken(part: Any, rows: np.ndarray) -> Any:
    return part[rows] if isinstance(part, Tensor) else [part[row] for row in rows]
