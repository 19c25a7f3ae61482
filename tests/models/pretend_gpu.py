"""Tensors that say they are elsewhere, and compute on the CPU: a step on them counts its waits for the device.

The device that they name is `meta`: torch has no kernels for it that would look for a real GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

GPU, CPU = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
# whose result is a number of Python's, or of a size that only the data tell
READ = {
    *(aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor),
}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class OnGpu(Tensor):
    """A wrapper of a CPU tensor that names another device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        like = {"dtype": inner.dtype, "device": GPU, "requires_grad": inner.requires_grad}
        wrapped: OnGpu = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), **like
        )
        wrapped.inner = inner.detach()
        return wrapped

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of PretendGpu")


class PretendGpu(TorchDispatchMode):
    """Runs what touches the pretended GPU on the CPU.

    waits: the operations that a real GPU would be waited for. Mixing its tensors with those of the CPU is an error, as
    there, and so is a copy to it that the CPU waits for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_gpu = any(isinstance(value, OnGpu) for value in tensors)
        to = kwargs.get("device")
        target = torch.device(to) if to is not None else None
        if not on_gpu and (target is None or target.type != "meta"):
            return func(*args, **kwargs)
        leaves_gpu = on_gpu and target is not None and target.type == "cpu"
        self._note(func, args, kwargs, tensors, leaves_gpu, on_gpu)
        if target is not None:
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        args, kwargs = tree_map_only(OnGpu, lambda value: value.inner, (args, kwargs))
        found = func(*args, **kwargs)
        if leaves_gpu:
            return found.clone() if isinstance(found, Tensor) else found
        if func is aten.copy_.default or func._schema.is_mutable:
            return tensors[0]
        return tree_map_only(Tensor, OnGpu, found)

    def _note(
        self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], leaves_gpu: bool, on_gpu: bool
    ) -> None:
        if func is aten._to_copy.default and "device" in kwargs:
            crosses = leaves_gpu or not on_gpu  # from the GPU, or to it
            if crosses and not kwargs.get("non_blocking"):
                self.waits.append(f"copied {'from' if leaves_gpu else 'to'} the GPU")
            return
        strangers = [value for value in tensors if not isinstance(value, OnGpu) and value.dim()]
        if func in INDEXED and on_gpu and strangers:
            self.waits.append(f"{func}: places on the CPU")
            return
        assert not (on_gpu and strangers), f"{func}: a tensor {tuple(strangers[0].shape)} is on the CPU"
        by_mask = func in INDEXED and any(
            isinstance(place, Tensor) and place.dtype == torch.bool for place in args[1] if place is not None
        )
        if func in READ or by_mask:
            self.waits.append(str(func))


def moved(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the pretended GPU."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = nn.Parameter(OnGpu(value.data), value.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = OnGpu(buffer)
    return module


@contextmanager
def pretended() -> Iterator[PretendGpu]:
    no_autocast = {
        "autocast": lambda *given, **more: nullcontext(),
        "is_autocast_enabled": lambda device: False,
        "get_autocast_dtype": lambda device: None,
    }
    with mock.patch.multiple(torch, **no_autocast), PretendGpu() as gpu:
        yield gpu
