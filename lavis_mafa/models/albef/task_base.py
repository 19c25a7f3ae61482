"""What LAVIS' ALBEF models of all downstream tasks share here: how they are built, and how a checkpoint is laid out.

Tested in tests/models/test_albef_tasks.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lavis.models.med import XBertEncoder
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.models.albef.parts import (
    MOMENTUM,
    QUEUES,
    adapt_albef,
    bert_config,
    build_visual_encoder,
    files_of_parts,
)
from lavis_mafa.models.albef.pretrain import AlbefEncoding
from lavis_mafa.models.attention import fuse_attention
from lavis_mafa.models.pretrained import checkpoint_key, load_from_config
from lavis_mafa.models.teacher import cut_from_student
from lavis_mafa.models.text import load_tokenizer

State = Mapping[str, Tensor]
UNUSED = ("vision_proj.", "text_proj.", "itm_head.", "temp", "text_encoder.cls.", "ta_head.")  # ta: text assignment


class AlbefDownstreamModel(AlbefEncoding):
    """Mixin over one of LAVIS' ALBEF models, whose config it reads as `mafa_albef` does, and loads key by key.

    `model.pretrained`, with load_pretrained: a checkpoint of mafa_albef or LAVIS, or of ALBEF's authors;
    `model.finetuned`, with load_finetuned: of this very task. The momentum copies start as copies of what was loaded.
    """

    PRETRAINED_MODEL_CONFIG_DICT: dict[str, str] = {
        name: str(CONFIGS / "models" / f"mafa_albef_{name}.yaml") for name in ("base", "scenes")
    }
    settings: tuple[str, ...]  # keys that LAVIS' constructor takes
    config_keys: tuple[str, ...]
    reads_class_token = False
    reads_bert = False  # `bert` is where a text encoder without a checkpoint starts
    is_finetuned = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **parts: object) -> None:
        self.given_tokenizer = tokenizer
        super().__init__(**parts)
        fuse_attention(self.text_encoder)  # not a decoder: it masks what it attends to
        for name, copied in self.named_children():
            if name.endswith("_m"):
                cut_from_student(copied, getattr(self, name[:-2]))

    def init_tokenizer(self) -> PreTrainedTokenizerBase:
        return self.given_tokenizer

    @classmethod
    def text_parts(cls, cfg: Mapping[str, Any], width: int, words: int) -> dict[str, nn.Module]:
        """The text networks by the names of LAVIS' constructor."""
        return {"text_encoder": XBertEncoder(bert_config(cfg, width, words), add_pooling_layer=False)}

    @classmethod
    def from_config(cls, cfg: DictConfig) -> AlbefDownstreamModel:
        plain = plain_config(cfg)
        vit_weights, bert = files_of_parts(plain, cls.reads_bert)
        tower = build_visual_encoder(plain, vit_weights)
        tower.vision_width = tower.num_features
        if not hasattr(tower, "forward_features"):
            tower.forward_features = tower.forward  # under this name LAVIS asks its own
        if cls.reads_class_token and not (hasattr(tower, "cls_token") or hasattr(tower, "class_token")):
            raise ValueError(f"model.vit_model {plain.get('vit_model')} has no class token, which {cls.__name__} needs")
        tokenizer = load_tokenizer(plain.get("vocab", "bert-base-uncased"))
        chosen = {name: plain[name] for name in cls.settings if name in plain}
        text_parts = cls.text_parts(plain, tower.num_features, len(tokenizer))
        model = cls(tokenizer, image_encoder=tower, **text_parts, **chosen)
        if plain.get("freeze_vit", False):
            model.freeze_tower()
        model.tower_has_weights = model.tower_is_frozen and vit_weights is not None
        model.part_files = {"visual_encoder": vit_weights, "text_encoder": bert}
        model.copies = tuple(name for name, _ in model.named_children() if name.endswith("_m"))
        model.is_finetuned = checkpoint_key(plain) == "finetuned"
        new = () if model.is_finetuned else model.new_parts()
        load_from_config(model, plain, model.adapted, (*new, *MOMENTUM, *QUEUES))
        model.copy_params()
        return model

    def new_parts(self) -> tuple[str, ...]:
        """Prefixes of the keys that no pre-training gives; a fine-tuned checkpoint must hold them."""
        return ()

    def adapted(self, state: State, model: nn.Module) -> dict[str, Tensor]:
        """A checkpoint's tensors under this model's keys; which parts are not used is logged."""
        state = adapt_albef(state, model)
        placed = self.placed(state)
        # a pre-trained ALBEF has heads that a task does without; anything else that has no place is an error
        own = set(self.state_dict())
        unused = [key for key in placed if key not in own and key.startswith(UNUSED)]
        parts = [part.rstrip(".") for part in UNUSED if any(key.startswith(part) for key in unused)]
        logging.info("not used by %s: %s", type(self).__name__, ", ".join(parts) or "nothing")
        return {key: value for key, value in placed.items() if key not in unused}

    def placed(self, state: State) -> dict[str, Tensor]:
        return {without_bert(key): value for key, value in state.items()}


def without_bert(key: str) -> str:
    """The key in a task's model, whose text encoder is BERT itself."""
    return key.replace("text_encoder.bert.", "text_encoder.", 1)


def layer_of(key: str) -> int | None:
    """Number of the BERT layer that text_encoder.bert.encoder.layer.N.… belongs to."""
    parts = key.split(".")
    return int(parts[4]) if parts[:4] == ["text_encoder", "bert", "encoder", "layer"] else None


def at_layer(key: str, number: int) -> str:
    """The key of another BERT layer's same tensor."""
    return ".".join([*key.split(".")[:4], str(number), *key.split(".")[5:]])
