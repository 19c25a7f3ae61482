"""`mafa_openclip`: any OpenCLIP model with MAFA, by ITC alone. Tested in tests/models/test_clip.py."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from lavis.common.registry import registry
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig
from torch import Tensor, nn

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.pairs import SettledPairs
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.models.base import Encoded, MafaForward
from lavis_mafa.models.pretrained import CHECKPOINT_KEYS, load_from_config
from lavis_mafa.models.towers.openclip import TowerName, create_openclip_model
from lavis_mafa.openclip.names import model_config

# with nothing to manage it is open_clip.ClipLoss: gradient through both sides, one-hot targets
CLIP_SETTINGS = {"itc_key_grad": True, "label_smoothing": 0.0}
MAX_LOGIT_SCALE = 4.6052  # ln 100, the bound of CLIP (arXiv 2103.00020, section 2.5)


class ClipTokenizer:
    """open_clip's tokenizer of a model, with what is asked of a tokenizer beside: its vocabulary."""

    def __init__(self, model_name: str) -> None:
        self.tokenize = open_clip.get_tokenizer(model_name)

    def __call__(self, texts: list[str]) -> Tensor:
        """(B, T) token ids."""
        return self.tokenize(texts)

    def get_vocab(self) -> dict[str, int]:
        inner = getattr(self.tokenize, "tokenizer", self.tokenize)
        return inner.get_vocab() if hasattr(inner, "get_vocab") else inner.encoder

    def __len__(self) -> int:
        return len(self.get_vocab())


@registry.register_model("mafa_openclip")
class MafaOpenClip(MafaForward, BaseModel):
    """A dual encoder of open_clip with MAFA's ITC: S-ITC, known positives, and what a judge says of the hardest
    pairs, connected or (`action: drop`) left out.

    `vit_model` names the whole model, as open_clip_image_* processors do: `open_clip:NAME`, `open_clip:NAME/TAG`,
    `open_clip:NAME/FILE`, `open_clip:hf-hub:ORG/NAME`, `open_clip:local-dir:FOLDER`. `image_size` interpolates its
    positions, `load_pretrained` loads a checkpoint of ours.
    """

    PRETRAINED_MODEL_CONFIG_DICT = {
        name: str(CONFIGS / "models" / f"mafa_openclip_{name}.yaml") for name in ("base", "scenes")
    }
    has_itm = False
    tower_is_frozen = False

    config_keys = (*CHECKPOINT_KEYS, "vit_model", "vit_weights", "image_size", "mafa")

    def __init__(self, clip: nn.Module, name: TowerName, mafa: MafaSettings | None = None) -> None:
        super().__init__()
        self.clip: Any = clip
        self.width = int(model_config(name.model, "model.vit_model")["embed_dim"])
        self.tokenizer = ClipTokenizer(name.model)
        self.max_txt_len = getattr(self.tokenizer.tokenize, "context_length", None)
        self.part_files = {"clip": name.source}
        if getattr(clip, "logit_bias", None) is not None:  # SigLIP's: a bias of all logits moves no softmax
            clip.logit_bias.requires_grad_(False)
        self.mafa = mafa or MafaSettings(**CLIP_SETTINGS)
        self.miner = ConnectionMiner(self.mafa)

    @property
    def temp(self) -> Tensor:
        return self.clip.logit_scale.exp().reciprocal()

    @property
    def embed_dim(self) -> int:
        return self.width

    def vision_tokens(self, samples: Batch) -> Tensor:
        """Image features (B, 1, D) before they have unit length: all that a dual encoder keeps of an image."""
        return self.clip.encode_image(samples["image"])[:, None]

    def encode_image(self, tokens_B1D: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens (B, 1, D), image_feat (B, 1, D) of unit length)."""
        return tokens_B1D, F.normalize(tokens_B1D.float(), dim=-1)

    def tokenize(self, texts: list[str]) -> Tensor:
        return self.tokenizer(list(texts)).to(self.device)

    def encode_text(self, tokens_BT: Tensor) -> Tensor:
        """Tokens (B, T) → text_feat (B, D) of unit length."""
        return F.normalize(self.clip.encode_text(tokens_BT).float(), dim=-1)

    def encode(self, samples: Batch) -> Encoded:
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        image_feat = self.encode_image(self.vision_tokens(samples))[1]
        return Encoded(image_feat, self.encode_text(self.tokenize(samples["text_input"])), None)

    def pair_losses(self, encoded: Encoded, pairs: SettledPairs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {}, {}

    @classmethod
    def from_config(cls, cfg: DictConfig) -> MafaOpenClip:
        plain = plain_config(cfg)
        name = TowerName.parse(plain["vit_model"], plain.get("vit_weights"))
        settings = MafaSettings.from_dict({**CLIP_SETTINGS, **(plain.get("mafa") or {})})
        model = cls(create_openclip_model(name, plain.get("image_size")), name, settings)
        load_from_config(model, plain)
        return model
