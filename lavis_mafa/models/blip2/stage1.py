"""`mafa_blip2`: BLIP-2 stage 1 (Q-Former) with MAFA, LAVIS' Blip2Qformer with the same state_dict keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lavis.common.registry import registry
from lavis.models.blip2_models.blip2_qformer import Blip2Qformer
from omegaconf import DictConfig
from torch import Tensor
from transformers import BatchEncoding

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.core.batch import Batch, sent
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.models.attention import fuse_attention, images_of_pairs
from lavis_mafa.models.base import Encoded, MafaForward
from lavis_mafa.models.blip2.parts import QFORMER_KEYS, QformerParts
from lavis_mafa.models.pretrained import CHECKPOINT_KEYS, load_from_config
from lavis_mafa.models.text import tokenize


@dataclass
class QformerState:
    """What ITM and LM need of an encoded batch."""

    image_embeds: Tensor  # (B, L, V)
    query_cache: Any  # per layer the keys and values (B, heads, Q, ·) of the image pass
    tokens: BatchEncoding  # input_ids, attention_mask (B, T)


@registry.register_model("mafa_blip2")
class MafaBlip2(MafaForward, QformerParts, Blip2Qformer):
    """LAVIS' `blip2` with MAFA in its losses.

    Beyond LAVIS' keys the model config takes `vocab`, `bert` or `qformer` (widths of a small Q-Former), `vit_weights`,
    `embed_dim`, `load_pretrained` and `mafa` (core/settings.py).
    """

    PRETRAINED_MODEL_CONFIG_DICT = {
        name: str(CONFIGS / "models" / f"mafa_blip2_{name}.yaml")
        for name in ("pretrain", "pretrain_vitL", "coco", "scenes", "small")
    }

    config_keys = (*CHECKPOINT_KEYS, *QFORMER_KEYS, "mafa", "cross_attention_freq", "embed_dim")

    def __init__(
        self,
        *,
        mafa: MafaSettings | None = None,
        vocab: str = "bert-base-uncased",
        bert: str = "bert-base-uncased",
        qformer: Mapping[str, Any] | None = None,
        vit_weights: str | None = None,
        **lavis: object,
    ) -> None:
        self._vocab, self._bert, self._qformer, self._vit_weights = vocab, bert, qformer, vit_weights
        super().__init__(**lavis)
        fuse_attention(self.Qformer)
        self.set_part_files(lavis.get("vit_model", "eva_clip_g"))
        self.mafa = mafa or MafaSettings()
        self.miner = ConnectionMiner(self.mafa)

    def encode_image(self, tokens_BLV: Tensor, use_cache: bool = False) -> tuple[Tensor, Tensor, Any]:
        """Tower tokens → (image_embeds (B, L, V), image_feat (B, Q, D) of unit length, the Q-Former's output)."""
        image_embeds = self.ln_vision(tokens_BLV.float())  # a tower in half precision feeds a Q-Former in float32
        output = self.Qformer.bert(
            query_embeds=self.query_tokens.expand(len(image_embeds), -1, -1),
            encoder_hidden_states=image_embeds,
            use_cache=use_cache,
            return_dict=True,
        )
        return image_embeds, F.normalize(self.vision_proj(output.last_hidden_state).float(), dim=-1), output

    def encode_text(self, tokens: BatchEncoding) -> Tensor:
        """Tokens (B, T) → text_feat (B, D) of unit length."""
        return F.normalize(self.text_proj(self.forward_text(tokens)).float(), dim=-1)

    def tokenize(self, texts: list[str]) -> BatchEncoding:
        return tokenize(self.tokenizer, list(texts), self.max_txt_len, self.device)

    def encode(self, samples: Batch) -> Encoded:
        vision_tokens = self.vision_tokens(samples)
        if self.tower_is_frozen and isinstance(samples, dict):
            samples.setdefault("image_tokens", vision_tokens.detach())  # a Con-D on the same frozen tower reads them
        image_embeds, image_feat, output = self.encode_image(vision_tokens, use_cache=True)
        tokens = self.tokenize(samples["text_input"])
        return Encoded(image_feat, self.encode_text(tokens), QformerState(image_embeds, output.past_key_values, tokens))

    def pair_state(self, tokens_NLV: Tensor, tokens: BatchEncoding) -> QformerState:
        """What `match_logits` needs of images, as tower tokens (N, L, V), and texts, as tokens (C, T)."""
        return QformerState(self.ln_vision(tokens_NLV), None, tokens)

    def match_logits(self, state: QformerState, image_K: Tensor, text_K: Tensor) -> Tensor:
        """Mean over the queries of the ITM head (BLIP-2, section 3.1), (K, 2)."""
        queries = self.query_tokens.expand(len(image_K), -1, -1)
        mask = state.tokens.attention_mask[text_K]
        with images_of_pairs(self.Qformer, image_K):
            output = self.Qformer.bert(
                state.tokens.input_ids[text_K],
                query_embeds=queries,
                attention_mask=torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1),
                encoder_hidden_states=state.image_embeds,
                return_dict=True,
            )
        return self.itm_head(output.last_hidden_state[:, : queries.shape[1]]).mean(dim=1).float()

    def text_loss(self, encoded: Encoded, image_K: Tensor, text_K: Tensor) -> dict[str, Tensor]:
        """Captioning from the queries' cache, labels smoothed by 0.1 as in LAVIS; the head sees real tokens only."""
        state: QformerState = encoded.state
        word_N = _words_after(state.tokens.host_mask[text_K])
        image_K, text_K, word_N = (sent(rows, self.device) for rows in (image_K, text_K, word_N))
        mask = state.tokens.attention_mask[text_K]  # (K, T)
        ids = state.tokens.input_ids[text_K].clone()
        ids[:, 0] = self.tokenizer.bos_token_id
        cache = [(key.index_select(0, image_K), value.index_select(0, image_K)) for key, value in state.query_cache]
        hidden = self.Qformer.bert(
            ids,
            attention_mask=torch.cat([mask.new_ones(len(mask), self.query_tokens.shape[1]), mask], dim=1),
            past_key_values=cache,
            is_decoder=True,
            use_cache=False,
            return_dict=True,
        ).last_hidden_state
        logits = self.Qformer.cls(hidden.flatten(0, 1).index_select(0, word_N))
        labels = ids.flatten().index_select(0, word_N + 1)  # token t+1 is predicted from the state at t
        return {"loss_lm": F.cross_entropy(logits.float(), labels, label_smoothing=0.1)}

    @classmethod
    def from_config(cls, cfg: DictConfig) -> MafaBlip2:
        plain = plain_config(cfg)
        model = cls(
            mafa=MafaSettings.from_dict(plain.get("mafa") or {}),
            vocab=plain.get("vocab", "bert-base-uncased"),
            bert=plain.get("bert", "bert-base-uncased"),
            qformer=plain.get("qformer"),
            vit_weights=plain.get("vit_weights"),
            vit_model=plain.get("vit_model", "eva_clip_g"),
            img_size=plain["image_size"],
            drop_path_rate=plain.get("drop_path_rate", 0),
            use_grad_checkpoint=plain.get("use_grad_checkpoint", False),
            vit_precision=plain.get("vit_precision", "fp16"),
            freeze_vit=plain.get("freeze_vit", True),
            num_query_token=plain["num_query_token"],
            cross_attention_freq=plain.get("cross_attention_freq", 2),
            embed_dim=plain.get("embed_dim", 256),
            max_txt_len=plain.get("max_txt_len", 32),
        )
        load_from_config(model, plain)
        return model


def _words_after(mask_KT: Tensor) -> Tensor:
    """(N,) places in K x T, laid end to end, that another token follows."""
    return F.pad(mask_KT[:, 1:], (0, 1)).flatten().nonzero()[:, 0]
