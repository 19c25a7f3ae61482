"""`mafa_dual`: two small heads on a frozen vision tower and a frozen sentence encoder, by ITC alone.

LiT (arXiv 2111.07991) froze the one side, SAIL (arXiv 2412.04616) both. With features kept on disk an epoch costs two
matrix products a pair. Tested in tests/models/test_dual.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lavis.common.registry import registry
from lavis.models.base_model import BaseModel
from lavis.models.blip2_models.blip2 import disabled_train
from omegaconf import DictConfig
from torch import Tensor, nn

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.pairs import SettledPairs
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.encoders.text_encoder import TextEncoder, load_text_encoder
from lavis_mafa.models.base import Encoded, MafaForward
from lavis_mafa.models.pretrained import CHECKPOINT_KEYS, load_from_config
from lavis_mafa.models.towers.build import LAVIS_TOWERS, build_tower

# with nothing to manage it is a plain contrastive loss: gradient through both sides, one-hot targets
DUAL_SETTINGS = {"itc_key_grad": True, "label_smoothing": 0.0}
LEAST_TEMP, MOST_TEMP = 0.01, 0.5  # bounds of CLIP (arXiv 2103.00020, section 2.5) and of ALBEF's code


class PooledTower(nn.Module):
    """A frozen tower and the mean of its tokens: image (B, 3, H, W) → (B, 1, V)."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.num_features = int(tower.num_features)

    def forward(self, image: Tensor) -> Tensor:
        return self.tower(image).mean(dim=1, keepdim=True)


class Head(nn.Module):
    """A linear map and a network of one hidden layer beside it: (…, V) → (…, D)."""

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.straight = nn.Linear(width, dim)
        self.bent = nn.Sequential(nn.Linear(width, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim))
        self.dropout = nn.Dropout(dropout)
        self.out_features = dim

    def forward(self, features: Tensor) -> Tensor:
        seen = self.dropout(self.norm(features))
        return self.straight(seen) + self.bent(seen)


@registry.register_model("mafa_dual")
class MafaDual(MafaForward, BaseModel):
    """A dual encoder whose heads alone are trained, with MAFA's ITC.

    `vit_model` names the tower as for `mafa_blip2`, `text_model` the sentence encoder: a folder or hub name of a text
    model of transformers or sentence-transformers. A checkpoint holds the heads and the temperature.
    """

    PRETRAINED_MODEL_CONFIG_DICT = {"small": str(CONFIGS / "models" / "mafa_dual_small.yaml")}
    has_itm = False
    tower_is_frozen = True
    parts_of_own_files = ("text_encoder.",)

    config_keys = (
        *(*CHECKPOINT_KEYS, "vit_model", "vit_weights", "image_size", "text_model", "max_txt_len"),
        *("embed_dim", "dropout", "mafa"),
    )

    def __init__(
        self,
        tower: nn.Module,
        read: TextEncoder,
        *,
        mafa: MafaSettings | None = None,
        embed_dim: int = 256,
        dropout: float = 0.4,
        has_weights: bool = True,
    ) -> None:
        super().__init__()
        self.visual_encoder = PooledTower(tower).requires_grad_(False).eval()
        self.visual_encoder.train = disabled_train.__get__(self.visual_encoder)
        self.read, self.text_encoder = read, read.model
        self.text_encoder.train = disabled_train.__get__(self.text_encoder)
        self.vision_proj = Head(self.visual_encoder.num_features, embed_dim, dropout)
        self.text_proj = Head(read.model.config.hidden_size, embed_dim, dropout)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.tokenizer, self.max_txt_len = read.tokenizer, read.max_length
        self.tower_has_weights = has_weights
        self.mafa = mafa or MafaSettings(**DUAL_SETTINGS)
        self.miner = ConnectionMiner(self.mafa)

    def vision_tokens(self, samples: Batch) -> Tensor:
        """The mean of the tower's tokens (B, 1, V): the batch's cached ones, or computed."""
        if "image_tokens" in samples:
            return samples["image_tokens"].float()
        with torch.no_grad():
            return self.visual_encoder(samples["image"])

    def encode_image(self, tokens_B1V: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens (B, 1, V), image_feat (B, 1, D) of unit length)."""
        return tokens_B1V, F.normalize(self.vision_proj(tokens_B1V).float(), dim=-1)

    def tokenize(self, texts: list[str]) -> Tensor:
        """What the sentence encoder says of the texts, (B, H): all that the model reads of them."""
        return self.read(texts)

    def encode_text(self, tokens_BH: Tensor) -> Tensor:
        """(B, H) → text_feat (B, D) of unit length."""
        return F.normalize(self.text_proj(tokens_BH).float(), dim=-1)

    def encode(self, samples: Batch) -> Encoded:
        with torch.no_grad():
            self.temp.clamp_(LEAST_TEMP, MOST_TEMP)
        image_feat = self.encode_image(self.vision_tokens(samples))[1]
        return Encoded(image_feat, self.encode_text(self.tokenize(list(samples["text_input"]))), None)

    def pair_losses(self, encoded: Encoded, pairs: SettledPairs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {}, {}

    @classmethod
    def from_config(cls, cfg: DictConfig) -> MafaDual:
        plain = plain_config(cfg)
        vit_model, weights, text_model = (plain.get(key) for key in ("vit_model", "vit_weights", "text_model"))
        if vit_model in LAVIS_TOWERS:
            raise ValueError(f"model.vit_model: mafa_dual reads no {vit_model}; choose a tower of lavis_mafa")
        if not text_model:
            raise ValueError(
                "model.text_model: mafa_dual needs a sentence encoder's folder or hub name (e.g. "
                "sentence-transformers/all-MiniLM-L6-v2)"
            )
        limits = {"max_length": plain.get("max_txt_len")}
        read = load_text_encoder(str(text_model), "model.text_model", torch.device("cpu"), limits)
        tower = build_tower(vit_model, plain["image_size"], weights)
        source = weights or getattr(tower, "source", None)
        model = cls(
            tower,
            read,
            mafa=MafaSettings.from_dict({**DUAL_SETTINGS, **(plain.get("mafa") or {})}),
            embed_dim=plain.get("embed_dim", 256),
            dropout=plain.get("dropout", 0.4),
            has_weights=source is not None,
        )
        model.part_files = {"visual_encoder": source, "text_encoder": str(text_model)}
        load_from_config(model, plain, may_miss=cls.parts_of_own_files)
        return model
