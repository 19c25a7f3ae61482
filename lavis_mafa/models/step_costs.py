"""One training step on torch's meta device: its FLOPs and its peak memory, without data, weights or a GPU.

FLOPs are those of matrix products, convolutions and attention (torch.utils.flop_counter), as in every published count;
memory is what the step's tensors take, without the allocator's fragments. Tested in tests/models/test_costs.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from lavis_mafa.core.batch import Batch
from lavis_mafa.core.miner import MinedPairs
from lavis_mafa.core.pairs import Candidates, SettledPairs
from lavis_mafa.models.meta import replaced
from lavis_mafa.models.teacher import Teacher

ALL_LAYERS = 12  # of ALBEF's ViT-B, as `vit_ckpt_layer` counts them
HALF = torch.float16, torch.bfloat16
MATRIX = {F.linear, F.conv2d, F.scaled_dot_product_attention, torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__}
FULL = {F.layer_norm, F.softmax, F.log_softmax, F.cross_entropy, torch.softmax, Tensor.softmax}


@dataclass(frozen=True)
class StepCosts:
    """Of one step of `batch` samples on one GPU; bytes beyond those of weights and moments, gradients among them."""

    batch: int
    flops: int
    peak_bytes: int


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Bytes of the storages that operations made on `device` and that live; `peak` is the most at any time."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.device, self.live, self.peak = device, 0, 0
        self._known: set[int] = set()

    def know(self, module: nn.Module) -> None:
        """The module's own tensors are not counted."""
        self._known |= {value.untyped_storage()._cdata for value in (*module.parameters(), *module.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and value.device.type == self.device:
                self._note(value.untyped_storage())
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class Halved(TorchFunctionMode):
    """Autocast's two lists for the meta device, which torch's autocast does not know."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self._weights: dict[int, Tensor] = {}  # as autocast, a weight is cast once a step

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = args, kwargs or {}
        if func in MATRIX:
            tensors = [value for value in tree_leaves(given) if isinstance(value, Tensor)]
            halves = [value.dtype for value in tensors if value.dtype in HALF]
            own = [value.dtype for value in tensors if isinstance(value, nn.Parameter) and value.dtype in HALF]
            dtype = own[0] if own else self.dtype or next(iter(halves), None)
            if dtype is not None:
                given = tree_map_only(Tensor, lambda value: self._cast(value, dtype), given)
        elif func in FULL and self.dtype is not None:
            given = tree_map_only(Tensor, lambda value: value.float() if value.dtype in HALF else value, given)
        return func(*given[0], **given[1])

    def _cast(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        if not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        return self._weights.setdefault(id(value), value.to(dtype))


class EveryPair:
    """In the miner's place, which reads values: every anchor has a connection in both directions, the most there is."""

    def mine(self, samples: Batch, sim_i2t_BB: Tensor, *rest: Any) -> MinedPairs:
        own_B = torch.arange(len(sim_i2t_BB))
        image_K, text_K = torch.cat([own_B, (own_B + 1) % len(own_B)]), torch.cat([(own_B + 2) % len(own_B), own_B])
        from_text_K = torch.arange(len(image_K)) >= len(own_B)
        settled = SettledPairs(image_K, text_K, torch.ones_like(image_K), from_text_K)
        return MinedPairs(settled, {}, Candidates(image_K, text_K, image_K, text_K, from_text_K), None)


def step_costs(model: Any, batch: int, image_size: int, dtype: torch.dtype | None, cached: bool = False) -> StepCosts:
    """Of one forward and backward of a stage-1 model: captions of the full length, `EveryPair`, epoch 1.

    model: on the meta device, or a small one on the CPU; it is left without gradients.
    cached: the tower's tokens come from disk.
    """
    device = next(model.parameters()).device
    image = torch.zeros(batch, 3, image_size, image_size, device=device)
    samples: Batch = {"image": image, "text_input": ["a " * model.max_txt_len] * batch, "epoch": 1}
    if cached:
        with torch.no_grad(), Halved(dtype):
            samples["image_tokens"] = torch.empty_like(model.visual_encoder(image), dtype=torch.float16)
    if model.mafa.needs_teacher:
        model.teacher = Teacher(model)
    flops, memory = FlopCounterMode(display=False), PeakBytes(device.type)
    memory.know(model)
    if model.mafa.needs_teacher:
        memory.know(model.teacher.model)
    with ExitStack() as stack:
        stack.enter_context(replaced(model, "miner", EveryPair()))
        if device.type == "meta":
            stack.enter_context(replaced(torch, "autocast", lambda *given, **more: nullcontext()))
            stack.enter_context(Halved(dtype))
        stack.enter_context(flops)
        stack.enter_context(memory)
        model.train()
        model(samples).loss.backward()
    model.zero_grad(set_to_none=True)
    return StepCosts(batch, flops.get_total_flops(), memory.peak)


def checkpointed(config: Mapping[str, object], on: bool) -> dict[str, object]:
    """The model config with gradient checkpointing of its whole tower on or off."""
    if "vit_grad_ckpt" in config:
        return {**config, "vit_grad_ckpt": on, "vit_ckpt_layer": ALL_LAYERS if on else 0}
    return {**config, "use_grad_checkpoint": on}
