"""What a training step will cost on GPUs that one can book, from the step on the meta device (models/step_costs.py).

Nothing of a GPU is timed. Tested in tests/models/test_costs.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

from lavis.common.config import Config
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig

from lavis_mafa.common.precision import precision
from lavis_mafa.models.base import MafaForward
from lavis_mafa.models.step_costs import StepCosts, step_costs

# Dense TFLOPS in 16 bits of the SXM boards, from NVIDIA's data sheets (H100's and H200's 1,979 are with sparsity)
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989}
UTILISATION = 0.4  # of the peak: what large models reach in practice; a small batch reaches less
GPU_MEMORY = (24, 40, 80, 141)  # GB
USABLE = 0.9  # the rest: CUDA's context, the allocator's fragments, communication
LARGE = 50_000_000  # parameters: a smaller model is nothing to book a GPU for


def has_table(model: BaseModel) -> bool:
    """Whether it is a stage-1 model of a size for which one books a GPU."""
    large = sum(value.numel() for value in model.parameters()) >= LARGE
    return large and isinstance(model, MafaForward) and model.has_itm


def checkpoint_lines(models: Mapping[str, BaseModel], cfg: Config, kept_bytes: int) -> Iterator[str]:
    """Peak memory and FLOPs with and without gradient checkpointing; models: with, without → the model on meta."""
    batch, size = int(cfg.run_cfg.batch_size_train), int(cfg.model_cfg.image_size)
    for name, model in models.items():
        step = step_costs(model, batch, size, precision(cfg.run_cfg))
        peak = (kept_bytes + step.peak_bytes) / 1e9
        yield f"  {name} gradient checkpointing: peak memory {peak:.1f} GB, {step.flops / 1e12:.1f} TFLOPs"


def cost_table(model: BaseModel, cfg: Config, kept_bytes: int, records: int | None) -> Iterator[str]:
    """Lines for people, of a model that `has_table`.

    kept_bytes: weights, moments and teacher. records: of training, None where they are not known here.
    """
    run, size = cfg.run_cfg, int(cfg.model_cfg.image_size)
    batch, dtype, cached = int(run.batch_size_train), precision(run), bool(run.get("cache_tokens", False))
    half, step, more = (step_costs(model, rows, size, dtype, cached) for rows in (max(batch // 2, 1), batch, 8 * batch))
    total = kept_bytes + step.peak_bytes
    yield f"a step of {batch} on one GPU, predicted: {step.flops / 1e12:.1f} TFLOPs, peak memory {total / 1e9:.1f} GB"
    yield "  with a connection for every anchor, the most there is; the judge comes on top"
    fits = {gpu: batch_that_fits(USABLE * gpu * 1e9 - kept_bytes, half, step, more) for gpu in GPU_MEMORY}
    yield "  batch that fits: " + ", ".join(f"{rows} in {gpu} GB" for gpu, rows in fits.items())
    if dtype is None:
        yield "  run.precision is fp32: no hours are predicted; bf16 or fp16 is what such GPUs are for"
        return
    yield f"  at {UTILISATION:.0%} of the dense 16-bit peak (stated, not measured):"
    yield from _hours(step, run, records)


def batch_that_fits(free_bytes: float, half: StepCosts, step: StepCosts, more: StepCosts) -> int:
    """On the line through the two steps on the side of `step` where it lies.

    The peak is the largest of sums that grow with the batch, at the end of the forward or among the gradients: the
    samples' share is smaller in small batches.
    """
    other = more if free_bytes > step.peak_bytes or half.batch == step.batch else half
    per_sample = (other.peak_bytes - step.peak_bytes) / (other.batch - step.batch)
    return max(int(step.batch + (free_bytes - step.peak_bytes) / per_sample), 0)


def _hours(step: StepCosts, run: DictConfig, records: int | None) -> Iterator[str]:
    world = int(run.world_size)
    loaded = "rows of tokens" if run.get("cache_tokens", False) else "images"
    for gpu, peak in PEAK_TFLOPS.items():
        rate = step.batch * UTILISATION * peak * 1e12 / step.flops
        epoch = "" if records is None else f", {records / rate / world / 3600:.1f} hours an epoch on {world}"
        asked = f"the loader must give {rate:,.0f} {loaded}/s"
        yield f"    {gpu}: {rate * 3600:,.0f} samples an hour and GPU{epoch}; {asked}"
