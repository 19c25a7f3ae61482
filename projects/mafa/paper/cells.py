"""One cell: a run of the real training or mining command, as its config and the runs that it starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from keys import Key, key_of
from omegaconf import OmegaConf

from lavis_mafa.common.config_file import read_config_file

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Cell:
    """A run of `lavis_mafa.{command}`: a YAML, and options over it.

    after: the run whose weights it starts from. verdicts: the mining run whose connections.parquet is its Con-D, where
    the options say run.con_d={arch: file}. every_seed: one run serves all seeds.
    """

    config: str
    options: tuple[str, ...] = ()
    after: Cell | None = None
    verdicts: Cell | None = None
    command: str = "train"
    every_seed: bool = False

    @property
    def before(self) -> list[Cell]:
        """The runs that must be whole first."""
        return [cell for cell in (self.after, self.verdicts) if cell]

    def with_options(self, *options: str) -> Cell:
        """The same with these options last, here and in the runs before: of data sets, those that a run has; mining
        knows no others."""
        mine = [option for option in options if self._knows(option)]
        after, verdicts = (cell.with_options(*options) if cell else None for cell in (self.after, self.verdicts))
        return replace(self, options=(*self.options, *mine), after=after, verdicts=verdicts)

    def _knows(self, option: str) -> bool:
        section, name, *_ = option.split(".")
        return name in self.given()["datasets"] if section == "datasets" else self.command == "train"

    def with_seed(self, seed: int) -> Cell:
        """Seed of the initial weights, of the order of the data and of the captions drawn, here and in the runs that it
        starts from."""
        if self.every_seed:
            return self
        after, verdicts = (cell.with_seed(seed) if cell else None for cell in (self.after, self.verdicts))
        data = [f"datasets.{name}.seed={seed}" for name in self.given()["datasets"]]
        return replace(self, options=(*self.options, f"run.seed={seed}", *data), after=after, verdicts=verdicts)

    def given(self) -> dict[str, Any]:
        """What the YAML and the options say; ${…} unresolved, as a key must not depend on where a machine has its
        data."""
        given: Any = OmegaConf.to_container(self.written())
        return given

    def written(self) -> Any:
        """The same as a config; the weights of the run before are given as it starts, in place of what is written."""
        started = ("model.pretrained=null",) if self.after else ()
        return _config(self.config, (*self.options, *started))

    @property
    def kind(self) -> tuple[str, int | None]:
        """Runs of a kind take about the same time."""
        return self.config, self.given()["run"].get("max_epoch")

    @property
    def key(self) -> Key:
        """What tells this run from others, wherever they write and their data lies."""
        return key_of(self.written(), (cell.key for cell in self.before))


@cache
def _config(path: str, options: tuple[str, ...]) -> Any:
    return read_config_file(ROOT / path, options)
