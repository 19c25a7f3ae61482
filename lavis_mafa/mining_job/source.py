"""The split that is mined: its records, its name, its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from omegaconf import DictConfig

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.hashing import digest_of
from lavis_mafa.common.tree import Keys, at, keys_at
from lavis_mafa.data.dataset import OpenImage, TruthFunction
from lavis_mafa.data.images import ImageFiles, content_of
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.rules import FileRules
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.data.sources import image_text


class JobConfig(Protocol):
    """The sections of a config: LAVIS' Config, one without `model`, or what a worker made of either."""

    @property
    def model_cfg(self) -> DictConfig | None: ...

    @property
    def datasets_cfg(self) -> DictConfig: ...

    @property
    def run_cfg(self) -> DictConfig: ...

    @property
    def config(self) -> DictConfig: ...


@dataclass(frozen=True)
class Records:
    """What is mined. truth: which pairs match; None where nobody knows."""

    table: RecordTable
    open_image: OpenImage
    truth: TruthFunction | None = None


@dataclass
class Source:
    """The split to mine, as its builder gives it."""

    data: Records
    name: str
    options: Keys  # the data set's config

    @property
    def files(self) -> list[Path]:
        """Annotation files of the split; none where captions are made, as those of scenes."""
        root, split = "", str(self.options["split"])
        files = at(self.options, "annotations", split) or []
        if self.options.get("build_info"):  # LAVIS' own: below its cache
            from lavis.common.registry import registry

            root = str(registry.get_path("cache_root"))
            files = at(self.options, "build_info", "annotations", split, "storage")
        return [Path(root, file) for file in ([files] if isinstance(files, str) else cast(list[str], files))]

    @property
    def stamp(self) -> str:
        """Hash of what the images are: one that was replaced, or moved, is embedded anew."""
        return digest_of(content_of(self.data.open_image))


def load_source(cfg: JobConfig) -> Source:
    """Build the data set of the config; one of LAVIS' own is gathered into records.

    Raises ValueError: more than one data set, a split that it has not, or one without image files and captions.
    """
    if len(cfg.datasets_cfg) != 1:
        raise ValueError(
            "datasets: name exactly one data set to mine; list several annotation files under one image_text"
        )
    (key, options), split = next(iter(cfg.datasets_cfg.items())), cfg.run_cfg.split
    name = str(key)
    if options.get("on_bad_image", "raise") != "raise":
        raise ValueError(
            f"datasets.{name}.on_bad_image is {options.on_bad_image}, which is for training: mining needs every image; "
            f"run `lavis-mafa check` and give the rows that it keeps, {split}_clean.jsonl, as the annotation"
        )
    records = _plain(name, options, split) if cfg.model_cfg is None else _built(name, options, split)
    return Source(records, name, {**plain_config(options), "split": split})


def lost_images(source: Source) -> str:
    """What is wrong where images are missing or empty, which the gallery would show; else nothing. None is opened."""
    opener, split = source.data.open_image, source.options["split"]
    lost = opener.lost() if isinstance(opener, ImageFiles) else []
    if not lost:
        return ""
    return (
        f"datasets.{source.name}, split {split}: {len(lost):,} of {source.data.table.n_records:,} images are missing "
        f"or empty, the first {lost[0]}: `lavis-mafa check` lists them and writes the other rows to "
        f"{split}_clean.jsonl, which can be mined"
    )


def _plain(name: str, options: DictConfig, split: str) -> Records:
    """Without LAVIS."""
    plain = plain_config(options)
    splits = keys_at(plain, "annotations" if name == "image_text" else "splits")
    if not splits.get(split):
        raise ValueError(f"run.split is {split!r}; the splits of datasets.{name} are {', '.join(splits) or 'none'}")
    if name == "scenes":
        return Records(*scenes_table(**cast("dict[str, int]", splits[split])))
    return Records(*image_text(split, plain))


def _built(name: str, options: DictConfig, split: str) -> Records:
    """By LAVIS' builder of that name."""
    import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

    from lavis.common.registry import registry
    from lavis.datasets.datasets.base_dataset import BaseDataset

    from lavis_mafa.datasets.lavis_captions import as_records

    built = registry.get_builder_class(name)(options).build_datasets()
    if split not in built:
        raise ValueError(f"run.split is {split!r}; the splits of datasets.{name} are {', '.join(built)}")
    data = built[split]
    if isinstance(data, BaseDataset):
        table, opener = as_records(str(name), data, rules=FileRules.of(options))
        return Records(table.read_through(data.text_processor), opener)
    if hasattr(data, "table"):
        return Records(data.table, data.open_image, data.truth)
    raise ValueError(f"datasets.{name} has no images with captions ({type(data).__name__}): name a data set that has")
