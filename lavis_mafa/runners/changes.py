"""Settings that differ between a checkpoint and the run that goes on from it: refused, or taken and written down."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from lavis_mafa.runners.checkpoint import Changed, Checkpoint
from lavis_mafa.runners.image_files import ImageStamp, changed_images

# Keys of `run` that change nothing of what is learned: where it is kept, how fast, and what is evaluated at the end.
FREE = frozenset(
    {
        *("output_dir", "token_folder", "num_workers", "batch_size_eval", "evaluate", "stop_epoch"),
        *("distributed", "world_size", "rank", "gpu", "dist_url"),
        *("resume_ckpt_path", "resume_changes", "save_every_steps", "save_every_minutes", "keep_checkpoints"),
        *(
            "test_splits",
            "k_test",
            "zero_shot",
            "coco_captions",
            "test_set",
            "judged_pairs",
            "judged_threshold",
            "references",
            "without_image",
            "expected",
        ),
        *("num_beams", "max_len", "min_len", "length_penalty", "lemmatise", "match"),
    }
)
Changes = dict[str, tuple[object, object]]  # key → (old, new)


def changed_settings(before: Mapping[str, object], now: Mapping[str, object]) -> Changes:
    """The settings of two configs that differ and change what is learned.

    A data set's files may lie elsewhere: their content is compared by its fingerprint, here only their names are.
    """
    old, new = dict(_leaves(before)), dict(_leaves(now))
    by_later_version = {key for key in new if key not in old and key.startswith("run.") and key.count(".") == 1}
    keys = [*(key for key in new if key not in by_later_version), *(key for key in old if key not in new)]
    found = {key: (old.get(key), new.get(key)) for key in keys if not _is_free(key)}
    return {key: pair for key, pair in found.items() if _comparable(key, pair[0]) != _comparable(key, pair[1])}


def accept_changes(
    content: Checkpoint, now: Mapping[str, object], allow: bool, images: ImageStamp | None = None
) -> list[Changed]:
    """What resumes have changed so far, this one among them.

    Args:
        content: of the checkpoint. now: the config of this run.
        allow: run.resume_changes is `allow`. images: those of this run, where it stores something of them.

    Raises:
        ValueError: settings or image files differ and are not allowed to; with the old and the new values.
    """
    changes = {**changed_settings(content["config"], now), **changed_images(content.get("images"), images)}
    lines = "".join(f"\n  {key}: was {old!r}, is {new!r}" for key, (old, new) in changes.items())
    if changes and not allow:
        raise ValueError(
            f"the checkpoint was trained with other settings or data:{lines}\n"
            "set them back, choose another run.output_dir, or set run.resume_changes: allow to go on with the new ones"
        )
    before = content.get("changes", [])
    if not changes:
        return before
    logging.warning("going on with other settings or data than before:%s", lines)
    settings = {key: {"old": old, "new": new} for key, (old, new) in changes.items()}
    return [*before, {"epoch": content["epoch"], "step": content["step"], "settings": settings}]


def _is_free(key: str) -> bool:
    section, _, rest = key.partition(".")
    return section == "run" and rest.split(".")[0] in FREE


def _comparable(key: str, value: object) -> object:
    if key.startswith("datasets.") and isinstance(value, str) and "/" in value:
        return Path(value).name
    return value


def _leaves(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
