"""`python -m lavis_mafa.train --dry-run`: what a run would be and lacks, without training or fetching."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

import torch
from lavis.common.config import Config
from lavis.common.registry import registry
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.stdout import show
from lavis_mafa.config.costs import checkpoint_lines, cost_table, has_table
from lavis_mafa.config.first_reads import refuse_as_the_run, to_fetch, unreadable
from lavis_mafa.config.keys import is_ours
from lavis_mafa.config.output import refuse_output
from lavis_mafa.config.values import check_data, missing_files
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.splits import TrainTable
from lavis_mafa.datasets.lavis_captions import Splits
from lavis_mafa.models.meta import build_on_meta
from lavis_mafa.models.pretrained import checkpoint_path
from lavis_mafa.models.step_costs import checkpointed
from lavis_mafa.models.teacher import Teacher
from lavis_mafa.models.trained import trained_state
from lavis_mafa.runners.grit_state import keeps_scores
from lavis_mafa.scorers.registry import judge_of

PAIR_BYTES = 16  # at most, of a scored pair (core/connections.py)
WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}


def dry_run(cfg: Config) -> list[str]:
    """Print the run; returns what is missing on this machine, empty where it can start (exit code 0).

    It reads what the run reads, the first samples of every split among it, and fetches nothing.

    ValueError: a model that is not ours, or whatever the run itself would refuse before its first step.
    """
    model_cls = registry.get_model_class(cfg.model_cfg.arch)
    if not is_ours(model_cls):
        raise ValueError(f"--dry-run only describes models of lavis_mafa, not {cfg.model_cfg.arch!r}")
    refuse_output(cfg.run_cfg, "train")
    missing = missing_files(cfg.config) + to_fetch(cfg.config)
    model = train = None
    needed = "model.vit_weights: no file", "model.vocab", f"model.{_llm(model_cls)}"
    if not any(line.startswith(needed) for line in missing):
        model = build_on_meta(model_cls, OmegaConf.to_container(cfg.model_cfg, resolve=True))
        show("\n".join(_model(model, cfg)))
    if not any(line.startswith("datasets.") for line in missing):
        datasets = registry.get_task_class(cfg.run_cfg.task).setup_task(cfg=cfg).build_datasets(cfg)
        if cfg.run_cfg.runner == "grit_runner":
            check_data(cfg.config, datasets)
        splits = next(iter(datasets.values()))
        refuse_as_the_run(cfg, splits)
        missing += unreadable(datasets)
        train = splits.get("train")
        show("\n".join(_splits(splits) if train is None else _batches(train.table, cfg.run_cfg)))
    if model is not None and has_table(model) and not cfg.run_cfg.get("evaluate", False):
        show("\n".join(_costs(model, cfg, None if train is None else train.table.n_records)))
    if model is not None and train is not None:
        disk = disk_bytes(model, train.table.n_records, cfg)
        show("disk, at most: " + ", ".join(f"{what} {_size(size)}" for what, size in disk.items()))
        missing += _lacking_disk(sum(disk.values()), Path(cfg.run_cfg.output_dir))
    lines = ["missing on this machine:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    show("\n".join(lines))
    return missing


def _costs(model: BaseModel, cfg: Config, records: int | None) -> Iterator[str]:
    """What a step costs (config/costs.py), and what checkpointing of a trained tower changes."""
    memory = memory_bytes(model)
    kept = sum(memory.values()) - memory["gradients"]  # the step's own peak has the gradients
    yield from cost_table(model, cfg, kept, records)
    if model.tower_is_frozen:
        return
    plain = plain_config(cfg.model_cfg)
    ways = {"with": True, "without": False}
    models = {name: build_on_meta(type(model), checkpointed(plain, on)) for name, on in ways.items()}
    yield from checkpoint_lines(models, cfg, kept)


def _llm(model_cls: type[BaseModel]) -> str:
    """The key of the language model, of a network that has one."""
    return str(getattr(model_cls, "llm", "vocab"))


def _splits(splits: Splits) -> Iterator[str]:
    yield "evaluated alone: " + ", ".join(f"{name} with {len(dataset)} samples" for name, dataset in splits.items())


def _model(model: BaseModel, cfg: Config) -> Iterator[str]:
    """Parameters by origin and trainability, and what of the memory is known beforehand."""
    path = checkpoint_path(cfg.model_cfg)
    yield f"model: {cfg.model_cfg.arch}, {cfg.model_cfg.model_type}"
    for part, (frozen, trained) in parameters(model).items():
        origin = model.origin.get(part, "initialised")
        origin = f"from {path}" if path and origin == "initialised" else origin
        yield f"  {part}: {trained / 1e6:.2f} M trained, {frozen / 1e6:.2f} M frozen; {origin}"
    memory = memory_bytes(model)
    yield "memory per process, without activations: " + ", ".join(
        f"{name} {_size(size)}" for name, size in memory.items()
    )
    if (con_d := cfg.run_cfg.get("con_d")) and (costs := judge_of(con_d).costs):
        yield f"  the judge ({con_d.arch}) comes on top: {costs}"
    activations = activation_bytes(model, cfg)
    if activations and not has_table(model):
        yield f"  activations, roughly: {_size(activations)} (with run.batch_size_train, not accum_grad_iters)"


def parameters(model: nn.Module) -> dict[str, tuple[int, int]]:
    """part → (frozen, trained) numbers of parameters."""
    counts: dict[str, tuple[int, int]] = {}
    for name, value in model.named_parameters():
        frozen, trained = counts.get(name.split(".")[0], (0, 0))
        more = (0, value.numel()) if value.requires_grad else (value.numel(), 0)
        counts[name.split(".")[0]] = frozen + more[0], trained + more[1]
    return counts


def memory_bytes(model: nn.Module) -> dict[str, int]:
    """Weights, gradients, AdamW's two moments, and the momentum copy where the model learns from one."""
    trained, teacher = _bytes(value for value in model.parameters() if value.requires_grad), teacher_bytes(model)
    found = {"weights": _bytes(_tensors(model)), "gradients": trained, "optimiser": 2 * trained}
    return found | {"momentum teacher": teacher} if teacher else found


def teacher_bytes(model: BaseModel) -> int:
    """What a momentum copy holds beside the student, whose frozen tower it shares; 0 where there is none."""
    if not hasattr(model, "mafa") or not model.mafa.needs_teacher:
        return 0
    own = set(map(id, _tensors(model)))
    return _bytes(value for value in _tensors(Teacher(model).model) if id(value) not in own)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors)


def activation_bytes(model: BaseModel, cfg: Config) -> int:
    """What the Q-Former's passes keep for the backward pass, 0 for other networks: 34 bytes a token, layer and width in
    16 bits with fused attention (Korthikanti et al. 2022, eq. 1 without 5as/h): image and text once, 3 B pairs of ITM,
    2 B of LM.
    """
    if not hasattr(model, "Qformer"):
        return 0
    config, batch = model.Qformer.config, int(cfg.run_cfg.batch_size_train)
    queries, words = model.query_tokens.shape[1], model.max_txt_len
    tokens = batch * (queries + words + 3 * (queries + words) + 2 * words)
    per_layer = 34 * WIDTH[cfg.run_cfg.get("precision", "fp32")] // 2
    return int(tokens * config.num_hidden_layers * config.hidden_size * per_layer)


def _batches(table: TrainTable, run: DictConfig) -> Iterator[str]:
    world, batch = int(run.world_size), int(run.batch_size_train)
    steps = table.n_records // (batch * world)
    epochs = int(run.get("stop_epoch") or run.max_epoch)
    captions = f" with {table.n_captions} captions" if isinstance(table, RecordTable) else ""
    yield f"records: {table.n_records}{captions}"
    yield f"batches: {steps} an epoch of {world} x {batch}, {epochs} epochs, {steps * epochs} steps"
    if int(run.warmup_steps) > steps * epochs:
        yield f"  note: run.warmup_steps ({run.warmup_steps}) exceeds all steps; the rate stays below run.init_lr"
    if int(run.accum_grad_iters) > 1:
        yield f"  note: {run.accum_grad_iters} batches are accumulated, but pairs are mined within one batch of {batch}"


def disk_bytes(model: BaseModel, records: int, cfg: Config) -> dict[str, int]:
    """Bytes of everything a run keeps, at most."""
    run = cfg.run_cfg
    epochs, steps = int(run.max_epoch), records // int(run.batch_size_train)
    trained, state = memory_bytes(model)["gradients"], _bytes(trained_state(model).values())
    keeps = run.get("con_d") and judge_of(run.con_d).is_stored and keeps_scores(run, records)
    kept = int(run.get("keep_checkpoints", 2)) + 1  # the old one goes when the new one stands
    found = {
        # with moments and teacher; the best and the last without
        "checkpoints": kept * (state + 2 * trained + teacher_bytes(model)) + 2 * state,
        "plans": 8 * records * (epochs + 1),
        "embeddings": 2 * 2 * 2 * records * model.embed_dim if run.sampling != "random" else 0,
        "connections": PAIR_BYTES * 2 * int(run.batch_size_train) * steps * epochs if keeps else 0,
    }
    if run.get("cache_tokens", False):
        tokens, width = token_shape(model, int(cfg.model_cfg.image_size))
        found["tokens of train"] = 2 * records * tokens * width
    return found


def token_shape(model: BaseModel, image_size: int) -> tuple[int, int]:
    """(L, V) of the tower's tokens."""
    with torch.no_grad(), torch.device("meta"):
        shape = model.visual_encoder(torch.zeros(1, 3, image_size, image_size)).shape
    return int(shape[1]), int(shape[2])


def _lacking_disk(needed: int, folder: Path) -> list[str]:
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    return [f"run.output_dir: {folder} needs {_size(needed)}, but only {_size(free)} are free"] if needed > free else []


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
