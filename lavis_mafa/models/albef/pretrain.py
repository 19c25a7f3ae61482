"""`mafa_albef`: ALBEF pre-training with MAFA; LAVIS' `albef_pretrain` less its momentum copies and queue."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lavis.common.registry import registry
from lavis.models.albef_models.albef_pretrain import AlbefPretrain
from lavis.models.base_model import BaseModel
from lavis.models.blip2_models.blip2 import disabled_train
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedTokenizerBase

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.core.batch import Batch, sent
from lavis_mafa.core.losses import token_loss
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.models.albef.parts import (
    ALBEF_KEYS,
    adapt_albef,
    build_text_encoder,
    build_visual_encoder,
    files_of_parts,
)
from lavis_mafa.models.attention import fuse_attention, images_of_pairs
from lavis_mafa.models.base import Encoded, MafaForward
from lavis_mafa.models.pretrained import load_from_config
from lavis_mafa.models.text import load_tokenizer, tokenize

# ITC on the rank's own batch, one-hot where S-ITC is off
ALBEF_SETTINGS = {"itc_gather": False, "label_smoothing": 0.0}


@dataclass
class AlbefState:
    """What ITM and MLM need of an encoded batch."""

    image_embeds: Tensor  # (B, L, V)
    text_embeds: Tensor  # (B, T, E), after the text half of BERT
    tokens: BatchEncoding  # input_ids, attention_mask (B, T)


class AlbefEncoding:
    """Mixin over LAVIS' ALBEF models: encoders as `mafa_albef`'s forward and the retrieval evaluation call them"""

    tower_is_frozen = False
    has_itm = True

    def freeze_tower(self) -> None:
        self.tower_is_frozen = True
        self.visual_encoder.requires_grad_(False).eval()
        self.visual_encoder.train = disabled_train.__get__(self.visual_encoder)

    @property
    def bert(self) -> nn.Module:
        """A pre-trained ALBEF holds BERT below its MLM head, a fine-tuned one has no such head."""
        return getattr(self.text_encoder, "bert", self.text_encoder)

    def vision_tokens(self, samples: Batch) -> Tensor:
        """Tower tokens (B, L, V), the sample's cached ones or computed; without gradient where the tower is frozen."""
        if "image_tokens" in samples:
            return samples["image_tokens"].float()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.tower_is_frozen):
            return self.visual_encoder(samples["image"])

    def encode_image(self, tokens_BLV: Tensor) -> tuple[Tensor, Tensor]:
        """Tower tokens → (image_embeds (B, L, V), image_feat (B, 1, D) of unit length: class token or mean)."""
        net = getattr(self.visual_encoder, "net", self.visual_encoder)
        has_class_token = hasattr(net, "cls_token") or hasattr(net, "class_token")
        summary_BV = tokens_BLV[:, 0] if has_class_token else tokens_BLV.mean(dim=1)
        return tokens_BLV, F.normalize(self.vision_proj(summary_BV).float(), dim=-1)[:, None]

    def text_embeds(self, tokens: BatchEncoding) -> Tensor:
        """Tokens (B, T) → states (B, T, E) after the text half of BERT."""
        mask = tokens.attention_mask
        return self.bert(tokens.input_ids, mask, return_dict=True, mode="text").last_hidden_state

    def text_feat(self, text_embeds: Tensor) -> Tensor:
        return F.normalize(self.text_proj(text_embeds[:, 0]).float(), dim=-1)

    def encode_text(self, tokens: BatchEncoding) -> Tensor:
        """Tokens (B, T) → text_feat (B, D) of unit length."""
        return self.text_feat(self.text_embeds(tokens))

    def tokenize(self, texts: list[str]) -> BatchEncoding:
        return tokenize(self.tokenizer, list(texts), self.max_txt_len, self.device)

    def pair_state(self, tokens_NLV: Tensor, tokens: BatchEncoding) -> AlbefState:
        """What `match_logits` needs of images, given as tower tokens (N, L, V), and texts, given as tokens (C, T)."""
        return AlbefState(tokens_NLV, self.text_embeds(tokens), tokens)

    def match_logits(self, state: AlbefState, image_K: Tensor, text_K: Tensor) -> Tensor:
        """ITM head on the fusion half's [CLS] (ALBEF, section 3.2), (K, 2)."""
        return self.itm_head(self.fused(state, image_K, text_K)[:, 0]).float()

    def fused(self, state: AlbefState, image_K: Tensor, text_K: Tensor) -> Tensor:
        """States (K, T, E) of the pairs' words after the fusion half; the text half is run once a text."""
        with images_of_pairs(self.text_encoder, image_K):
            output = self.bert(
                encoder_embeds=state.text_embeds.index_select(0, text_K),
                attention_mask=state.tokens.attention_mask[text_K],
                encoder_hidden_states=state.image_embeds,
                return_dict=True,
                mode="fusion",
            )
        return output.last_hidden_state


@registry.register_model("mafa_albef")
class MafaAlbef(AlbefEncoding, MafaForward, AlbefPretrain):
    """ALBEF with MAFA in its losses: ITC on the local batch, ITM and MLM; no momentum encoder, no queue.

    Beyond LAVIS' keys the model config takes `vocab`, `bert`, `text_encoder` (widths), `vit_model` (any tower of
    models/towers/), `vit_weights`, `freeze_vit`, `load_pretrained` and `mafa` (core/settings.py).
    """

    PRETRAINED_MODEL_CONFIG_DICT = {
        name: str(CONFIGS / "models" / f"mafa_albef_{name}.yaml") for name in ("base", "scenes", "scenes_con_d")
    }
    config_keys = (*ALBEF_KEYS, "bert", "mafa", "embed_dim", "mlm_mask_prob", "temp", "max_txt_len")

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mafa: MafaSettings | None = None,
        freeze_vit: bool = False,
        embed_dim: int = 256,
        mlm_mask_prob: float = 0.5,
        temp: float = 0.07,
        max_txt_len: int = 25,
    ) -> None:
        BaseModel.__init__(self)  # AlbefPretrain's own would make the momentum copies and the queue
        self.tokenizer, self.max_txt_len, self.mlm_probability = tokenizer, max_txt_len, mlm_mask_prob
        self.visual_encoder, self.text_encoder = image_encoder, text_encoder
        self.vision_proj = nn.Linear(image_encoder.num_features, embed_dim)
        self.text_proj = nn.Linear(text_encoder.config.hidden_size, embed_dim)
        self.itm_head = nn.Linear(text_encoder.config.hidden_size, 2)
        self.temp = nn.Parameter(temp * torch.ones([]))
        fuse_attention(self.text_encoder)
        self.mafa = mafa or MafaSettings(**ALBEF_SETTINGS)
        self.miner = ConnectionMiner(self.mafa)
        self.tower_has_weights = False
        if freeze_vit:
            self.freeze_tower()

    def encode(self, samples: Batch) -> Encoded:
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        image_embeds, image_feat = self.encode_image(self.vision_tokens(samples))
        if self.tower_is_frozen and isinstance(samples, dict):
            samples.setdefault("image_tokens", image_embeds.detach())  # a Con-D on the same frozen tower reads them
        state = self.pair_state(image_embeds, self.tokenize(samples["text_input"]))
        return Encoded(image_feat, self.text_feat(state.text_embeds), state)

    def text_loss(self, encoded: Encoded, image_K: Tensor, text_K: Tensor) -> dict[str, Tensor]:
        """Masked language modelling (ALBEF, eq. 3), every pair under its own mask; with a lesson distilled (eq. 7)."""
        state: AlbefState = encoded.state
        ids = state.tokens.host_ids[text_K]  # LAVIS draws its masks on the CPU
        chances = torch.full(ids.shape, self.mlm_probability)
        ids, labels = self.mask(
            ids, self.text_encoder.config.vocab_size, ids.device, targets=ids.clone(), probability_matrix=chances
        )
        at_M = (labels != -100).flatten().nonzero()[:, 0]
        given = [sent(rows, self.device) for rows in (ids, at_M, image_K, text_K)]
        label_M, lesson = sent(labels.flatten()[at_M], self.device), encoded.lesson
        logits = self.word_logits(state, *given)
        if lesson is None:
            return {"loss_mlm": token_loss(logits, label_M)}
        with torch.no_grad():
            teacher_logits = lesson.model.word_logits(lesson.encoded.state, *given)
        return {"loss_mlm": token_loss(logits, label_M, teacher_logits, lesson.alpha)}

    def word_logits(self, state: AlbefState, ids_KT: Tensor, at_M: Tensor, image_K: Tensor, text_K: Tensor) -> Tensor:
        """Logits over the vocabulary (M, V) at M tokens, places in K x T laid end to end; the head sees these alone."""
        with images_of_pairs(self.text_encoder, image_K):
            hidden = self.text_encoder.bert(
                ids_KT,
                attention_mask=state.tokens.attention_mask[text_K],
                encoder_hidden_states=state.image_embeds,
                return_dict=True,
            ).last_hidden_state
        return self.text_encoder.cls(hidden.flatten(0, 1).index_select(0, at_M))

    @classmethod
    def from_config(cls, cfg: DictConfig, may_miss: tuple[str, ...] = ()) -> MafaAlbef:
        """Build and load. `may_miss`: prefixes that the checkpoint may lack (Con-D needs no MLM head)."""
        plain = plain_config(cfg)
        frozen = bool(plain.get("freeze_vit", False))
        vit_weights, bert = files_of_parts(plain)
        tower = build_visual_encoder(plain, vit_weights)
        tokenizer = load_tokenizer(plain.get("vocab", "bert-base-uncased"))
        model = cls(
            tower,
            build_text_encoder(plain, tower.num_features, len(tokenizer), bert),
            tokenizer,
            mafa=MafaSettings.from_dict({**ALBEF_SETTINGS, **(plain.get("mafa") or {})}),
            freeze_vit=frozen,
            embed_dim=plain.get("embed_dim", 256),
            mlm_mask_prob=plain.get("mlm_mask_prob", 0.5),
            temp=plain.get("temp", 0.07),
            max_txt_len=plain.get("max_txt_len", 25),
        )
        model.tower_has_weights = frozen and vit_weights is not None
        model.part_files = {"visual_encoder": vit_weights, "text_encoder": bert}
        load_from_config(model, plain, adapt=adapt_albef, may_miss=may_miss)
        return model
