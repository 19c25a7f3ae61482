"""What every BLIP-2 model of the project builds beyond LAVIS: any tower, any Q-Former width, any tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lavis.models.blip2_models.blip2 import Blip2Base, LayerNorm
from lavis.models.blip2_models.Qformer import BertConfig, BertLMHeadModel
from torch import Tensor, nn

from lavis_mafa.core.batch import Batch
from lavis_mafa.models.bert import start_from_bert
from lavis_mafa.models.text import load_tokenizer
from lavis_mafa.models.towers.build import LAVIS_TOWERS, build_tower, half_as_it_is

# of the model config, beside what a checkpoint is loaded by
QFORMER_KEYS = (
    *("vit_model", "vit_weights", "image_size", "drop_path_rate", "use_grad_checkpoint", "vit_precision", "freeze_vit"),
    *("vocab", "bert", "qformer", "num_query_token", "max_txt_len"),
)

STAGE_1_HEADS = ("itm_head.", "vision_proj.", "text_proj.", "temp", "Qformer.")  # dropped where stage 2 has no such key


class QformerParts:
    """Mixin before a LAVIS BLIP-2 class, whose constructor calls these three. Set the four settings before it runs."""

    _vocab: str
    _bert: str
    _qformer: Mapping[str, Any] | None
    _vit_weights: str | None

    def init_tokenizer(self) -> Any:
        tokenizer = load_tokenizer(self._vocab)
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        return tokenizer

    def init_vision_encoder(
        self, model_name: str, img_size: int, drop_path_rate: float, use_grad_checkpoint: bool, precision: str
    ) -> tuple[nn.Module, nn.Module]:
        if model_name in LAVIS_TOWERS:
            return Blip2Base.init_vision_encoder(model_name, img_size, drop_path_rate, use_grad_checkpoint, precision)
        tower = build_tower(model_name, img_size, self._vit_weights)
        return tower, LayerNorm(tower.num_features)

    def init_Qformer(
        self, num_query_token: int, vision_width: int, cross_attention_freq: int = 2
    ) -> tuple[nn.Module, nn.Parameter]:
        small = self._qformer is not None
        config = BertConfig(**self._qformer) if small else BertConfig.from_pretrained(self._bert)
        config.update(
            {"encoder_width": vision_width, "add_cross_attention": True, "cross_attention_freq": cross_attention_freq}
        )
        config.query_length = num_query_token
        qformer = BertLMHeadModel(config) if small else start_from_bert(BertLMHeadModel, self._bert, config)
        query_tokens = nn.Parameter(torch.zeros(1, num_query_token, config.hidden_size))
        query_tokens.data.normal_(mean=0.0, std=config.initializer_range)
        return qformer, query_tokens

    def vision_tokens(self, samples: Batch) -> Tensor:
        """Tower tokens (B, L, V): the sample's cached ones, else computed; a frozen tower gives no gradient."""
        if "image_tokens" in samples:
            return samples["image_tokens"]
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and not self.tower_is_frozen),
            half_as_it_is(self.visual_encoder),
        ):
            return self.visual_encoder(samples["image"])

    def set_part_files(self, vit_model: str) -> str | None:
        """Note which own file the tower and the Q-Former start from (`part_files`); returns the tower's."""
        lavis_file = vit_model if vit_model in LAVIS_TOWERS else None
        tower_file = self._vit_weights or getattr(self.visual_encoder, "source", lavis_file)
        self.part_files = {"visual_encoder": tower_file, "Qformer": None if self._qformer else self._bert}
        self.tower_is_frozen = not any(parameter.requires_grad for parameter in self.visual_encoder.parameters())
        self.tower_has_weights = self.tower_is_frozen and tower_file is not None
        return tower_file


def queries_alone(qformer: nn.Module) -> None:
    """Without the parts that read text, as in LAVIS' stage 2."""
    qformer.cls = None
    qformer.bert.embeddings.word_embeddings = qformer.bert.embeddings.position_embeddings = None
    for layer in qformer.bert.encoder.layer:
        layer.output = layer.intermediate = None


def stage_2_part(state: Mapping[str, Tensor], model: Any) -> Mapping[str, Tensor]:
    """What stage 2 takes of a checkpoint: of stage 1 its queries, Q-Former and norm, less its heads and text weights.

    Raises:
        ValueError: a checkpoint that is neither: it would leave the projection untrained.
    """
    is_stage_1 = "vision_proj.weight" in state
    if not is_stage_1 and f"{model.projection}.weight" not in state:
        raise ValueError(
            f"model.pretrained: the checkpoint has neither stage 1's vision_proj nor stage 2's {model.projection}; "
            "choose the arch that it was saved with"
        )
    own = model.state_dict()
    return {key: value for key, value in state.items() if key in own or not (is_stage_1 and _of_stage_1(key))}


def _of_stage_1(key: str) -> bool:
    return key.startswith(STAGE_1_HEADS)
