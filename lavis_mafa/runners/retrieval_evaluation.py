"""What `grit_runner` evaluates: validation after every epoch, the best weights, and the report at the end.

Every rank takes its share of an evaluation (evaluation.py), so all of them call these; rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch

from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.common.ranks import barrier, is_main_process
from lavis_mafa.evaluation.eccv import CocoIds, coco_ids, refuse_other_split
from lavis_mafa.evaluation.judgments import JudgedPairs, configured_con_d, evaluate_judgments, read_judged_pairs
from lavis_mafa.evaluation.retrieval import evaluate_retrieval
from lavis_mafa.models.trained import load_trained, trained_state
from lavis_mafa.models.weights import read_state_dict
from lavis_mafa.openclip.zero_shot import zero_shot
from lavis_mafa.runners import checkpoint
from lavis_mafa.runners.report import report_run


class RunEvaluation:
    """Evaluates the model of `runner`. `best`: the epoch with the highest mean recall so far, -1 before the first."""

    def __init__(self, runner: Any) -> None:
        self.runner, self.run_cfg = runner, runner.run_cfg
        self.best = {"epoch": -1, "value": -1.0}
        # now, so that what is wrong with a file is told before hours of training
        self._judged, self._coco = self._read_judged(), self._read_coco()

    def validate(self) -> dict[str, float]:
        """Recall by ITC alone on the validation splits, every epoch: quick, and it shows the curve."""
        row: dict[str, float] = {}
        for split in self.runner.valid_splits:
            found = self._retrieval(split, k_test=0)["itc"]["annotation"]
            row.update(
                {f"{split}_{way}_{name}": value for way, values in found.items() for name, value in values.items()}
            )
            row[f"{split}_r_mean"] = sum(value for values in found.values() for value in values.values()) / 6
        return row

    def keep_best(self, epoch: int, row: Mapping[str, Any]) -> None:
        """Write checkpoint_best.pth if the epoch's row is the best so far."""
        value = row.get("val_r_mean")
        if value is None or value <= self.best["value"]:
            return
        self.best = {"epoch": epoch, "value": float(value)}
        if is_main_process():
            content = {"model": trained_state(self.runner.network), **self.best}
            checkpoint.write(self.runner.output_dir / "checkpoint_best.pth", content)

    def report(self) -> dict[str, Any]:
        """Evaluate the best weights (the last without validation), keep them as model.safetensors, and report."""
        _ = self.runner.model  # on its device
        if not self.runner.evaluate_only:
            self._keep_final()
        k_test = int(self.run_cfg.get("k_test", 0))
        results: dict[str, Any] = {
            split: self._retrieval(split, k_test, self._coco.get(split)) for split in self.runner.test_splits
        }
        judgments = self._judgments()
        if is_main_process():
            results = report_run(self.runner, results, judgments, self._zero_shot())
        barrier()
        return results

    def _retrieval(self, split: str, k_test: int, coco: CocoIds | None = None) -> dict[str, Any]:
        return evaluate_retrieval(
            self.runner.network,
            self.runner.splits[split],
            batch_size=int(self.run_cfg.batch_size_eval),
            workers=int(self.run_cfg.num_workers),
            device=self.runner.device,
            k_test=k_test,
            coco=coco,
        )

    def _zero_shot(self) -> dict[str, float] | None:
        """Classification of run.zero_shot, an image folder, by a model of open_clip."""
        asked = self.run_cfg.get("zero_shot")
        if not asked:
            return None
        network, split = self.runner.network, self.runner.splits[self.runner.test_splits[0]]
        return zero_shot(
            network.clip,
            network.tokenizer,
            split.vis_processor,
            **asked,
            batch_size=int(self.run_cfg.batch_size_eval),
            workers=int(self.run_cfg.num_workers),
            device=self.runner.device,
        )

    def _read_judged(self) -> JudgedPairs | None:
        if not self.run_cfg.get("judged_pairs"):
            return None
        if not self.runner.test_splits:
            raise ValueError("run.judged_pairs is about the images of a test split; name it in run.test_splits")
        return read_judged_pairs(self.run_cfg.judged_pairs, self.runner.splits[self.runner.test_splits[0]].table)

    def _read_coco(self) -> dict[str, CocoIds]:
        file = self.run_cfg.get("coco_captions")
        found = {split: coco_ids(self.runner.splits[split], file) for split in self.runner.test_splits} if file else {}
        for split, ids in found.items():
            refuse_other_split(split, ids)
        return found

    def _judgments(self) -> dict[str, Any] | None:
        if self._judged is None:
            return None
        return evaluate_judgments(
            self.runner.network,
            self.runner.splits[self.runner.test_splits[0]],
            self._judged,
            configured_con_d(self.runner.network, self.run_cfg.get("con_d"), self.runner.device),
            batch_size=int(self.run_cfg.batch_size_eval),
            workers=int(self.run_cfg.num_workers),
            device=self.runner.device,
        )

    def _keep_final(self) -> None:
        network = self.runner.network
        if self.best["epoch"] >= 0:
            load_trained(network, read_state_dict(self.runner.output_dir / "checkpoint_best.pth"))
        if not is_main_process():
            return
        state = {key: value.detach().cpu().contiguous().clone() for key, value in trained_state(network).items()}
        with atomic_write(self.runner.output_dir / "model.safetensors") as file:
            file.write(safetensors.torch.save(state))
