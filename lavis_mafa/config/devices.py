"""run.device: what `auto` is here, and which GPU is this process' own. Tested in tests/jobs/test_gpus.py."""

from __future__ import annotations

import torch

from lavis_mafa.common import gpus
from lavis_mafa.common.precision import use_tf32


def chosen_device(asked: str) -> str:
    """What `auto` stands for on this machine; anything else as it is.

    Raises:
        ValueError: the machine has GPUs, but torch cannot use them: a run on the CPU would take days in silence.
    """
    if asked != "auto" or torch.cuda.is_available():
        return "cuda" if asked == "auto" else asked
    if problem := gpus.unused(torch.__version__, torch.version.cuda):
        raise ValueError("run.device is auto: " + ": ".join(problem))
    return "cpu"


def check_device(device: str) -> None:
    """ValueError: no such device here."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (kind == "cpu" and number) or (":" in device and not number.isdigit()):
        raise ValueError(f"run.device is {device!r}: allowed is auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return
    if not torch.cuda.is_available():
        problem = gpus.unused(torch.__version__, torch.version.cuda)
        none = f"torch {torch.__version__} sees no GPU", "set run.device to auto or cpu"
        raise ValueError(f"run.device is {device}, but " + ": ".join(problem or none))
    if number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"run.device is {device!r}: allowed is cuda:N with N below {torch.cuda.device_count()}")


def take_device(device: str, local_rank: int | None = None) -> None:
    """Make this process' GPU the current one, on which `cuda` without a number lands, and let it take TF32.

    local_rank: of this process on its machine, under torchrun; None: it is alone.

    Raises:
        ValueError: cuda:N under torchrun, or a process without a GPU of its own.
    """
    if device == "cpu":
        return
    use_tf32()
    if local_rank is None and device == "cuda":
        return
    if local_rank is None:
        torch.cuda.set_device(torch.device(device))
        return
    if device != "cuda":
        raise ValueError(
            f"run.device is {device}, one GPU for all processes of torchrun: set run.device to cuda, by which each "
            "takes the GPU of its number, and choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine has no GPU of its own: torch sees {torch.cuda.device_count()}; "
            "start no more than that (--nproc-per-node)"
        )
    torch.cuda.set_device(local_rank)
