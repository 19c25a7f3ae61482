"""Tiny random language models in folders, with the tokenizers of the packaged ones, and our stage-2 models on them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from lavis_mafa.models.blip2.language_model import language_model_folder
from tests.models.tiny import QFORMER, VOCAB, loud

OPT = {
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "dropout": 0.0,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
T5 = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}


def language_model(kind: str, folder: Path) -> Path:
    """A random one, saved as a hub's would be."""
    from lavis.models.blip2_models.modeling_opt import OPTConfig, OPTForCausalLM
    from lavis.models.blip2_models.modeling_t5 import T5Config, T5ForConditionalGeneration
    from transformers import AutoConfig

    packaged = Path(language_model_folder(f"package:assets/scenes_{kind}"))
    words = AutoConfig.from_pretrained(packaged).vocab_size
    torch.manual_seed(1)
    model = (
        OPTForCausalLM(OPTConfig(vocab_size=words, **OPT))
        if kind == "opt"
        else T5ForConditionalGeneration(T5Config(vocab_size=words, **T5))
    )
    loud(model).save_pretrained(folder)
    for file in packaged.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, folder)
    return folder


def stage_2(kind: str, folder: Path, **settings: Any) -> Any:
    """Our model before the language model in `folder`."""
    from lavis.common.registry import registry

    torch.manual_seed(0)
    config = {**stage_2_config(kind, folder), **settings}
    return registry.get_model_class(f"mafa_blip2_{kind}").from_config(config).eval()


def stage_2_config(kind: str, folder: Path) -> dict[str, Any]:
    return {
        "vocab": str(VOCAB),
        "qformer": QFORMER,
        "vit_model": "small_vit",
        "vit_precision": "fp32",
        "freeze_vit": False,
        "image_size": 16,
        "num_query_token": 4,
        "max_txt_len": 24,
        "load_pretrained": False,
        f"{kind}_model": str(folder),
    }
