"""Language models of transformers for stage 2: a hub name, a local folder, or `package:FOLDER`.

A decoder reads a prefix of embeddings and goes on; an encoder-decoder reads it whole and answers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from lavis_mafa.common.files import PACKAGE

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_language_model(name: str, key: str, dtype: torch.dtype, changes: Mapping[str, Any]) -> tuple[Any, Any]:
    """A frozen language model and its tokenizer; `changes` to its config, `key` of the model config that names it.

    Raises:
        ValueError: a folder that does not exist or holds none, or a hub name that cannot be fetched.
    """
    source = language_model_folder(name)
    try:
        if Path(source).is_dir() and not Path(source, "config.json").is_file():  # else guessed from the folder's name
            raise OSError("there is no config.json")
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config.update(dict(changes))
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_pretrained(source, config=config, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.{key}: {name!r} is not a language model that is available here ({' '.join(str(error).split())}); "
            "set it to a hub name that can be downloaded here, or to a local folder with weights and tokenizer"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config = _plain_generation(model, tokenizer)
    return model.requires_grad_(False), tokenizer


def _plain_generation(model: Any, tokenizer: Any) -> GenerationConfig:
    """Where an answer begins and ends; not the temperature and penalties that a chat model's authors recommend."""
    given = model.generation_config
    ends = given.eos_token_id if given.eos_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(
        bos_token_id=given.bos_token_id,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=given.decoder_start_token_id,
    )


def language_model_folder(name: str) -> str:
    """A hub name as it is, a local folder, or `package:FOLDER`."""
    if name.startswith("package:"):
        return str(PACKAGE / name[len("package:") :])
    path = Path(name).expanduser()
    if not path.is_dir() and (path.is_absolute() or name.startswith(".")):
        raise ValueError(f"no folder at {name}; give a local folder of a language model, or a hub name")
    return str(path) if path.is_dir() else name


def precision_name(asked: str | None, half: torch.dtype, device: str) -> str:
    """fp32, bf16 or fp16 on a device. None asked: on a GPU LAVIS' `half`, or fp32 where it lacks that; on a CPU fp32.

    Raises:
        ValueError: an unknown precision, or one that the device cannot do.
    """
    if asked is not None and asked not in PRECISIONS:
        raise ValueError(f"model.llm_precision is {asked!r}; choose one of {', '.join(PRECISIONS)}")
    if device == "cpu":
        if asked == "fp16":
            raise ValueError("model.llm_precision is fp16, which needs a GPU: use bf16 or fp32 on a CPU")
        return asked or "fp32"
    name = asked or next(name for name, dtype in PRECISIONS.items() if dtype == half)
    if name != "bf16" or torch.cuda.is_bf16_supported(including_emulation=False):
        return name
    if asked:
        raise ValueError("model.llm_precision is bf16, which this GPU does not support: use fp16 or fp32")
    logging.warning("this GPU does not support bf16: the language model runs in fp32")
    return "fp32"
