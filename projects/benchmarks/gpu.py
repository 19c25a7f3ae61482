"""What one GPU says of the parts that need neither LAVIS nor data: mining, losses, planning, and networks by size.

    bash projects/benchmarks/gpu.sh

Weights are random: times and memory count, accuracies do not. Sizes are BLIP-2's (Q-Former over ViT-g's 257 tokens) and
ALBEF's (a tower at 384 px as Con-D's), B = 96. Every part is written down when it is done, so that a run that is cut
off loses the rest alone; after --seconds no further part begins. `--device cpu --tiny` tries the script.
"""

from __future__ import annotations

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import about
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2QFormerModel, ViTConfig, ViTModel

from lavis_mafa.common.precision import full_float32, use_tf32
from lavis_mafa.core import chain, losses
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.neighbors import nearest
from lavis_mafa.core.pairs import SettledPairs, own_positives
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.reports.table import write_json

KEPT = (
    34  # bytes of activations a token, layer and width in 16 bits (Korthikanti et al. 2022), as --dry-run counts them
)
PRECISIONS = ("fp32", "tf32", "bf16")
Part = Callable[["Sizes", torch.device], dict[str, Any]]


class Sizes:
    """Those of the paper's runs, or tiny ones of the same shape."""

    def __init__(self, tiny: bool) -> None:
        self.batch, self.world, self.dim = (8, 2, 16) if tiny else (96, 8, 256)
        self.records, self.space = (200, 50) if tiny else (48_000, 4800)
        self.keys, self.queries = (500, 20) if tiny else (500_000, 4096)
        self.repeats = 2 if tiny else 20
        self.qformer = Blip2QFormerConfig(
            **(
                {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
                if tiny
                else {}
            ),
            encoder_hidden_size=24 if tiny else 1408,
        )
        self.tokens = 5 if tiny else 257
        self.tower = ViTConfig(
            **(
                {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
                if tiny
                else {}
            ),
            image_size=32 if tiny else 384,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds on a CPU")
    parser.add_argument("--seconds", type=float, default=420, help="no part begins after so many")
    parser.add_argument("--json", required=True, help="the file of results")
    given = parser.parse_args()
    device, sizes, began = torch.device(given.device), Sizes(given.tiny), time.perf_counter()
    found: dict[str, Any] = {}
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    for part in PARTS:
        if time.perf_counter() - began > given.seconds:
            found[part.__name__] = {"skipped": f"after {given.seconds:g} s"}
            continue
        started = time.perf_counter()
        try:
            found[part.__name__] = part(sizes, device)
        except torch.OutOfMemoryError:
            found[part.__name__] = {"out_of_memory": True}
        found[part.__name__]["seconds"] = time.perf_counter() - started
        print(part.__name__, found[part.__name__], flush=True)
        write_json(given.json, {**about(), "device": name, "tiny": given.tiny, "parts": found})


def milliseconds(step: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median of a step; the first two warm up."""
    taken = []
    for _ in range(2 + repeats):
        wait(device)
        began = time.perf_counter()
        step()
        wait(device)
        taken.append(1e3 * (time.perf_counter() - began))
    return float(np.median(taken[2:]))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def unit(*shape: int, device: torch.device, seed: int = 0) -> Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1).to(device)


class Given:
    """A judge that knows the answer: what is left is mining's own time."""

    fingerprint = None

    def __init__(self, p_BB: Tensor) -> None:
        self.p_BB = p_BB

    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        return self.p_BB[image_K.to(self.p_BB.device), text_K.to(self.p_BB.device)]


def mining(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """ConnectionMiner on similarities that are on the device, and how often it waits for it."""
    B = sizes.batch
    image, text = unit(B, sizes.dim, device=device), unit(B, sizes.dim, device=device, seed=1)
    sim_BB, known_BB = image @ text.T, own_positives(B, B)
    miner = ConnectionMiner(MafaSettings(), Given(torch.rand(B, B, device=device)))
    batch: Batch = {"caption": [""] * B}

    def step() -> Any:
        return miner.mine(batch, sim_BB, sim_BB.T, known_BB)

    return {"step_ms": milliseconds(step, device, sizes.repeats), "waits": waits(step, device)}


def waits(step: Callable[[], Any], device: torch.device) -> int | None:
    """Synchronisations that CUDA itself reports; the judge's look-up is two of them."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def itc(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Similarities of Q queries with the texts of all ranks, targets and loss, forward and backward."""
    B, W, Q = sizes.batch, sizes.batch * sizes.world, 32
    image = unit(B, Q, sizes.dim, device=device).requires_grad_()
    text, known_BW = unit(W, sizes.dim, device=device, seed=1), own_positives(B, W, 0, device)
    none = torch.empty(0, dtype=torch.int64)
    settled = SettledPairs(none, none, none, none.bool())

    def step() -> None:
        with full_float32(device.type):
            sim_BW = torch.einsum("bqd,wd->bwq", image, text).amax(-1) / 0.07
        targets = losses.managed_itc_targets(settled, known_BW, 0, 0.5, 0.1)
        losses.itc_loss(sim_BW, sim_BW, *targets).backward()

    return {"step_ms": milliseconds(step, device, sizes.repeats)}


def planner(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """GritPlanner, which works on the CPU, and whether products of the device make the same chain."""
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((sizes.records, sizes.dim)).astype(np.float32) for _ in range(2)]
    rows = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in rows]
    began = time.perf_counter()
    GritPlanner(sizes.batch, search_space=sizes.space).plan(1, (rows[0], rows[1]), sizes.records)
    seconds = time.perf_counter() - began
    image, text = (torch.from_numpy(each[: sizes.space]).to(device) for each in rows)
    with full_float32(device.type):
        sim_MM = (image @ text.T).cpu()
        product_ms = milliseconds(lambda: (image @ text.T).cpu(), device, 5)
    here = chain.Chainer().chain(rows[0][: sizes.space], rows[1][: sizes.space], 0)
    there = chain._walk(sim_MM.numpy(), sim_MM.T.contiguous().numpy(), 0)
    return {
        "us_a_record": 1e6 * seconds / sizes.records,
        "product_on_device_ms": product_ms,
        "same_chain": float((here == there).mean()),
    }


def search(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Exact search by torch, which runs on the GPU where there is one, and by FAISS."""
    rng = np.random.default_rng(1)
    keys = rng.standard_normal((sizes.keys, sizes.dim)).astype(np.float16)
    queries = rng.standard_normal((sizes.queries, sizes.dim)).astype(np.float16)
    found = {}
    for backend in ("torch", "flat"):
        began = time.perf_counter()
        with contextlib.suppress(ValueError):  # no FAISS
            nearest(queries, keys, 10, backend=backend)
            found[f"{backend}_s"] = time.perf_counter() - began
    return found


def tower_of_con_d(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """A judge's tower without gradient, in each precision."""
    model = ViTModel(sizes.tower, add_pooling_layer=False).to(device).eval()
    images = torch.randn(sizes.batch, 3, sizes.tower.image_size, sizes.tower.image_size, device=device)
    return {f"{name}_ms": in_precision(name, lambda: model(images), sizes, device, False) for name in PRECISIONS}


def qformer(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """The Q-Former over the images of 3 B pairs, as ITM has them: forward, then forward and backward, by precision."""
    pairs = 3 * sizes.batch
    model = Blip2QFormerModel(sizes.qformer).to(device).train()
    queries = torch.randn(pairs, 32, sizes.qformer.hidden_size, device=device)
    images = torch.randn(pairs, sizes.tokens, sizes.qformer.encoder_hidden_size, device=device)

    def forward() -> Tensor:
        states: Tensor = model(query_embeds=queries, encoder_hidden_states=images).last_hidden_state
        return states.float().square().mean()

    found = {f"forward_{name}_ms": in_precision(name, forward, sizes, device, False) for name in PRECISIONS}
    found |= {
        f"{name}_ms": in_precision(name, lambda: forward().backward(), sizes, device, True) for name in PRECISIONS
    }
    return found


def memory(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Activations that the Q-Former keeps for its backward pass, in bytes, beside what --dry-run counts."""
    if device.type != "cuda":
        return {"skipped": "torch counts the memory of GPUs alone"}
    pairs, config = 3 * sizes.batch, sizes.qformer
    model = Blip2QFormerModel(config).to(device).train()
    queries = torch.randn(pairs, 32, config.hidden_size, device=device)
    images = torch.randn(pairs, sizes.tokens, config.encoder_hidden_size, device=device)
    found: dict[str, Any] = {}
    for name, width in (("fp32", 2), ("bf16", 1)):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", torch.bfloat16, enabled=name == "bf16"):
            states = model(query_embeds=queries, encoder_hidden_states=images).last_hidden_state
        torch.cuda.synchronize()
        kept = torch.cuda.memory_allocated() - before
        predicted = pairs * 32 * config.num_hidden_layers * config.hidden_size * KEPT * width
        found |= {f"{name}_kept": kept, f"{name}_predicted": predicted, f"{name}_ratio": kept / predicted}
        del states
    return found


def in_precision(name: str, step: Callable[[], Any], sizes: Sizes, device: torch.device, gradient: bool) -> float:
    """Milliseconds of a step in float32 in all its bits, TF32 or bf16."""
    with torch.set_grad_enabled(gradient):
        if name == "fp32":
            with full_float32(device.type):
                return milliseconds(step, device, sizes.repeats)
        use_tf32()
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
            return milliseconds(step, device, sizes.repeats)


PARTS: tuple[Part, ...] = (mining, itc, tower_of_con_d, qformer, memory, planner, search)

if __name__ == "__main__":
    main()
