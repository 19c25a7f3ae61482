"""`mafa_blip2_opt` and `mafa_blip2_t5`: stage 2 with LAVIS' keys and losses.

Tested in tests/models/test_blip2_llm.py.
"""

from __future__ import annotations

import torch
from lavis.common.registry import registry
from lavis.models.blip2_models.blip2_opt import Blip2OPT
from lavis.models.blip2_models.blip2_t5 import Blip2T5

from lavis_mafa.common.files import CONFIGS
from lavis_mafa.models.blip2.llm import LANGUAGE_MODEL_KEYS, MafaBlip2LLM


@registry.register_model("mafa_blip2_opt")
class MafaBlip2OPT(MafaBlip2LLM):
    """LAVIS' `blip2_opt`, keys and loss; also answers questions, which LAVIS 1.0.2 leaves out. A line ends a text."""

    PRETRAINED_MODEL_CONFIG_DICT = {
        **Blip2OPT.PRETRAINED_MODEL_CONFIG_DICT,
        "scenes": str(CONFIGS / "models" / "mafa_blip2_opt_scenes.yaml"),
        "small": str(CONFIGS / "models" / "mafa_blip2_opt_small.yaml"),
    }
    config_keys = (*LANGUAGE_MODEL_KEYS, "opt_model")
    llm, projection, tokenizer_name, half = "opt_model", "opt_proj", "opt_tokenizer", torch.float16
    end = "\n"

    @property
    def stop(self) -> dict[str, int]:
        return {"eos_token_id": self.llm_words("\n", add_special_tokens=False).input_ids[0]}


@registry.register_model("mafa_blip2_t5")
class MafaBlip2T5(MafaBlip2LLM):
    """LAVIS' `blip2_t5`, keys and loss."""

    PRETRAINED_MODEL_CONFIG_DICT = {
        **Blip2T5.PRETRAINED_MODEL_CONFIG_DICT,
        "scenes": str(CONFIGS / "models" / "mafa_blip2_t5_scenes.yaml"),
    }
    config_keys = (*LANGUAGE_MODEL_KEYS, "t5_model")
    llm, projection, tokenizer_name = "t5_model", "t5_proj", "t5_tokenizer"
    llm_changes = {"dense_act_fn": "gelu"}  # LAVIS': its checkpoints were trained before it
