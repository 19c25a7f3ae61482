"""What a runner asks of an evaluation: validation after every epoch, the best weights, and the report at the end.

Every rank takes its share of an evaluation, so all of them call these; rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch

from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.common.ranks import is_main_process
from lavis_mafa.models.saved import WEIGHTS, write_config
from lavis_mafa.models.trained import load_trained, trained_state
from lavis_mafa.models.weights import read_state_dict
from lavis_mafa.runners import checkpoint
from lavis_mafa.runners.run import Best, Results, Run


class Evaluation:
    """Evaluates the network of a run. `best`: the epoch with the highest mean recall so far."""

    def __init__(self, run: Run) -> None:
        self.run, self.best = run, Best()

    def validate(self) -> dict[str, float]:
        """Figures of the validation splits for the epoch's row; `val_r_mean` among them picks the best epoch."""
        return {}

    def report(self) -> Results:
        """Evaluate, write the report; returns what results.json holds."""
        raise NotImplementedError

    def keep_best(self, epoch: int, row: Mapping[str, float]) -> None:
        """Write checkpoint_best.pth if the epoch's row is the best so far."""
        value = row.get("val_r_mean")
        if value is None or value <= self.best.value:
            return
        self.best.epoch, self.best.value = epoch, float(value)
        if is_main_process():
            content = {"model": trained_state(self.run.network), **vars(self.best)}
            checkpoint.write(self.run.folder / "checkpoint_best.pth", content)

    def keep_final(self) -> None:
        """Take the best weights, the last without a best, and keep them as model.safetensors, with config.yaml."""
        network = self.run.network
        if self.best.epoch >= 0:
            load_trained(network, read_state_dict(self.run.folder / "checkpoint_best.pth"))
        if not is_main_process():
            return
        state = {key: value.detach().cpu().contiguous().clone() for key, value in trained_state(network).items()}
        with atomic_write(self.run.folder / WEIGHTS) as file:
            file.write(safetensors.torch.save(state))
        config = self.run.config
        name = self.run.name.split("+")[0]  # of LAVIS' own that are trained on together, the first
        write_config(self.run.folder, config.model_cfg, config.datasets_cfg[name])
