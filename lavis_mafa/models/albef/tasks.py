"""LAVIS' ALBEF of every downstream task from a `mafa_albef` checkpoint: retrieval, VQA, NLVR2; and its pre-training.

Forward, losses and momentum are LAVIS' own. Ours is how they are built (any tower, any widths, a local vocabulary;
task_base.py) and what they load: every key has a place, is named as not used, or is an error. Tested in
tests/models/test_albef_tasks.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavis.common.registry import registry
from lavis.models.albef_models.albef_nlvr import AlbefNLVR
from lavis.models.albef_models.albef_pretrain import AlbefPretrain
from lavis.models.albef_models.albef_retrieval import AlbefRetrieval
from lavis.models.albef_models.albef_vqa import AlbefVQA
from lavis.models.med import BertLMHeadModel, BertModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lavis_mafa.models.albef.parts import ALBEF_KEYS, bert_config, build_text_encoder, files_of_parts
from lavis_mafa.models.albef.task_base import AlbefDownstreamModel, State, at_layer, layer_of, without_bert


@registry.register_model("mafa_albef_retrieval")
class MafaAlbefRetrieval(AlbefDownstreamModel, AlbefRetrieval):
    """`albef_retrieval`. `queue_size` must be a multiple of the batch."""

    settings = ("embed_dim", "queue_size", "temp", "momentum", "alpha", "max_txt_len")
    config_keys = (*ALBEF_KEYS, *settings)
    reads_class_token = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase, queue_size: int = 65536, **parts: object) -> None:
        super().__init__(tokenizer, queue_size=queue_size, **parts)


@registry.register_model("mafa_albef_lavis")
class LavisAlbef(AlbefDownstreamModel, AlbefPretrain):
    """`albef_pretrain`, ALBEF as it was: queue, momentum distillation, drawn negatives (the ALBEF row of Table 3)."""

    settings = ("embed_dim", "queue_size", "mlm_mask_prob", "temp", "momentum", "alpha", "max_txt_len")
    config_keys = (*ALBEF_KEYS, *settings, "bert")
    reads_class_token = True
    reads_bert = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase, queue_size: int = 65536, **parts: object) -> None:
        super().__init__(tokenizer, queue_size=queue_size, **parts)

    @classmethod
    def text_parts(cls, cfg: Mapping[str, Any], width: int, words: int) -> dict[str, nn.Module]:
        _, bert = files_of_parts(cfg)
        return {"text_encoder": build_text_encoder(cfg, width, words, bert)}

    def placed(self, state: State) -> dict[str, Tensor]:
        return dict(state)


@registry.register_model("mafa_albef_vqa")
class MafaAlbefVqa(AlbefDownstreamModel, AlbefVQA):
    """`albef_vqa`: its decoder starts as the fusion half of BERT and the MLM head (ALBEF, section 4)."""

    settings = ("momentum", "alpha", "max_txt_len")
    config_keys = (*ALBEF_KEYS, *settings)

    @classmethod
    def text_parts(cls, cfg: Mapping[str, Any], width: int, words: int) -> dict[str, nn.Module]:
        encoder = bert_config(cfg, width, words)
        depth = encoder.num_hidden_layers - encoder.fusion_layer
        # the decoder attends to the states of the encoder, which are as wide as it is itself
        decoder = bert_config(cfg, encoder.hidden_size, words, fusion_layer=0, num_hidden_layers=depth)
        return {**super().text_parts(cfg, width, words), "text_decoder": BertLMHeadModel(decoder)}

    def new_parts(self) -> tuple[str, ...]:
        """A decoder attends to the encoder's states, the fusion half to the tower's: of another width all start new."""
        config = self.text_encoder.config
        if config.encoder_width == config.hidden_size:
            return ()
        places = range(self.text_decoder.config.num_hidden_layers)
        layers = [f"text_decoder.bert.encoder.layer.{place}.crossattention.self." for place in places]
        return tuple(f"{layer}{part}." for layer in layers for part in ("key", "value"))

    def placed(self, state: State) -> dict[str, Tensor]:
        placed = super().placed(state)
        if self.is_finetuned or any(key.startswith("text_decoder.") for key in state):
            return placed
        fusion = self.text_encoder.config.fusion_layer
        for key, value in state.items():
            layer, decoded = layer_of(key), key.replace("text_encoder.", "text_decoder.", 1)
            if layer is not None and layer >= fusion:
                placed[at_layer(key, layer - fusion).replace("text_encoder.", "text_decoder.", 1)] = value
            elif key.startswith(("text_encoder.bert.embeddings.", "text_encoder.cls.")):
                placed[decoded] = value
        elsewhere = ("text_encoder.cls.", *self.new_parts())  # the MLM head is the decoder's
        return {key: value for key, value in placed.items() if not key.startswith(elsewhere)}

    def predict_answers(self, samples: Any, answer_list: list[str], num_ans_candidates: int = 128, **kw: Any) -> Any:
        """LAVIS would move and ask the momentum copies at every prediction."""
        self.use_distill = False
        try:
            return super().predict_answers(samples, answer_list, num_ans_candidates, **kw)
        finally:
            self.use_distill = True


@registry.register_model("mafa_albef_nlvr")
class MafaAlbefNlvr(AlbefDownstreamModel, AlbefNLVR):
    """`albef_nlvr`: every fusion layer stands twice, one for each image, with one projection of keys and values.

    With `num_classes: 3` it is the model of ALBEF's text assignment, the pre-training step before NLVR2 (section 4).
    """

    settings = ("momentum", "alpha", "max_txt_len", "num_classes")
    config_keys = (*ALBEF_KEYS, *settings)

    def __init__(self, tokenizer: PreTrainedTokenizerBase, num_classes: int = 2, **parts: object) -> None:
        super().__init__(tokenizer, num_classes=num_classes, **parts)

    @classmethod
    def text_parts(cls, cfg: Mapping[str, Any], width: int, words: int) -> dict[str, nn.Module]:
        config = bert_config(cfg, width, words)
        depth = 2 * config.num_hidden_layers - config.fusion_layer
        deep = bert_config(cfg, width, words, num_hidden_layers=depth)
        return {"text_encoder": BertModel(deep, add_pooling_layer=False)}

    def share_cross_attention(self, model: nn.Module) -> None:
        """LAVIS' own counts on BERT's 6 + 6 layers."""
        for one, other in _pairs(model.layer, model.config.fusion_layer):
            for name in ("key", "value"):
                first, second = (getattr(layer.crossattention.self, name) for layer in (one, other))
                first.weight, first.bias = second.weight, second.bias

    def placed(self, state: State) -> dict[str, Tensor]:
        fusion, depth = self.text_encoder.config.fusion_layer, self.text_encoder.config.num_hidden_layers
        given = 1 + max((layer for key in state if (layer := layer_of(key)) is not None), default=-1)
        placed: dict[str, Tensor] = {}
        for key, value in state.items():
            layer = layer_of(key)
            if layer is None or layer < fusion or given == depth:
                placed[without_bert(key)] = value
                continue
            for twin in (0, 1):
                placed[without_bert(at_layer(key, fusion + 2 * (layer - fusion) + twin))] = value
        return placed if self.is_finetuned else self._with_its_head(placed)

    def new_parts(self) -> tuple[str, ...]:
        return ("cls_head.",)

    def _with_its_head(self, placed: dict[str, Tensor]) -> dict[str, Tensor]:
        """The head of text assignment has three classes, that of NLVR2 two: it is then new."""
        last = "cls_head.2.weight"
        if last in placed and placed[last].shape != self.cls_head[2].weight.shape:
            return {key: value for key, value in placed.items() if not key.startswith("cls_head.")}
        return placed


def _pairs(layers: nn.ModuleList, first: int) -> list[tuple[nn.Module, nn.Module]]:
    return [(layers[number], layers[number + 1]) for number in range(first, len(layers), 2)]
