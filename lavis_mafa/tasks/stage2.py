"""`mafa_stage2`: LAVIS' training in front of a frozen language model (its image_text_pretrain).

Captioning and VQA (captions.py, vqa.py) train alike. They differ in what they ask of a test split and how an answer is
judged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lavis.common.config import Config
from lavis.common.registry import registry
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig
from torch import Tensor

from lavis_mafa.datasets.lavis_captions import Splits, gathered
from lavis_mafa.models.blip2.language_model import PRECISIONS, precision_name
from lavis_mafa.models.blip2.llm import MafaBlip2LLM
from lavis_mafa.tasks.loop import LoopTask, Losses


@registry.register_task("mafa_stage2")
class MafaStage2Task(LoopTask):
    """Trains by the language model's loss over captions; evaluates nothing."""

    @classmethod
    def setup_task(cls, cfg: Config, **kwargs: object) -> MafaStage2Task:
        """Before anything is built: model.llm_precision as run.device allows it."""
        model_cls = registry.get_model_class(cfg.model_cfg.arch)
        if not issubclass(model_cls, MafaBlip2LLM):
            allowed = "mafa_blip2_opt, mafa_blip2_t5 or mafa_blip2_llm, as the task needs a language model"
            raise ValueError(f"model.arch is {cfg.model_cfg.arch}; it must be {allowed}")
        cfg.model_cfg.llm_precision = _llm_precision(cfg.run_cfg, cfg.model_cfg.get("llm_precision"), model_cls.half)
        return cls(cfg.run_cfg)

    def build_model(self, cfg: Config) -> BaseModel:
        """On a CPU all of a model is made float32; its language model then has the precision that was asked for."""
        model = super().build_model(cfg)
        model.language_model.to(PRECISIONS[cfg.model_cfg.llm_precision])
        return model

    def build_datasets(self, cfg: Config) -> dict[str, Splits]:
        """One record table of LAVIS' data sets to train on, a caption a record, as LAVIS counts an epoch. What is
        evaluated stays as they have it."""
        built: dict[str, Splits] = super().build_datasets(cfg)
        if self.run_cfg.evaluate:
            return built
        found = gathered(built, cfg.datasets_cfg, int(self.run_cfg.seed), one_caption_a_record=True)
        return {name: {**built.get(name, {}), **splits} for name, splits in found.items()}

    def output_of(self, output: Mapping[str, Tensor]) -> Losses:
        return Losses(output["loss"], {"loss_lm": output["loss"]})

    def settings(self) -> dict[str, object]:
        """What a prediction depends on beside weights and data."""
        names = ("prompt", "num_beams", "max_len", "min_len", "length_penalty")
        return {name: self.run_cfg.get(name) for name in names}

    def _penalty(self, default: float) -> float:
        given = self.run_cfg.get("length_penalty")
        return default if given is None else float(given)


def _llm_precision(run: DictConfig, asked: str | None, half: torch.dtype) -> str:
    """Gradients pass fp16 only under run.precision fp16, which scales the loss: below its range they would be lost."""
    own = run.get("precision", "fp32")
    if run.device != "cpu" and own != "fp16" and not run.get("evaluate", False):
        if asked == "fp16":
            raise ValueError(
                f"model.llm_precision is fp16, but run.precision {own}, which scales no loss: "
                "set model.llm_precision to bf16, or both to fp16"
            )
        if asked is None and half == torch.float16:
            asked = own
    return precision_name(asked, half, str(run.device))
