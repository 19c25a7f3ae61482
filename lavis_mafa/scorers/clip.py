"""A dual encoder of transformers as judge: CLIP, SigLIP, or whatever has image and text features in one space.

    run.con_d: {arch: clip, encoder: google/siglip-base-patch16-224}

SigLIP's P(match) is its own, σ(scale · cosine + bias) (arXiv 2303.15343); of the others the score is the cosine, 0
where that is negative, until `python -m lavis_mafa.calibrate` makes it a probability. A dual encoder in the layout of
sentence-transformers (a folder 0_CLIPModel) is read, too. Tested in tests/scorers/test_clip.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import Batch, rows_of, sent
from lavis_mafa.encoders.frozen import folder_or_name, is_path, load_frozen, named_folder, weights_digest
from lavis_mafa.encoders.text_encoder import load_tokenizer
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest

TEXT_BATCH = 256


@dataclass(frozen=True)
class ClipScorer:
    """PairScorer and Retriever over a frozen dual encoder, in its own preparation."""

    model: Any
    tokenizer: Any
    image_processor: Any

    @cached_property
    def fingerprint(self) -> str:
        words, prepared = sorted(self.tokenizer.get_vocab().items()), self.image_processor.to_dict()
        return f"clip:{digest(weights_digest(self.model), words, sorted(prepared.items(), key=str))}"

    @property
    def gives_cosines(self) -> bool:
        return getattr(self.model, "logit_bias", None) is None

    def view(self, image: Image) -> Tensor:
        """(3, h, w) of an RGB image."""
        pixels: Tensor = self.image_processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    @torch.no_grad()
    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) P(match) by a SigLIP, else the cosine in [0, 1]."""
        images, image_of_K = torch.unique(image_K, return_inverse=True)
        texts, text_of_K = torch.unique(text_K, return_inverse=True)
        image_ID = self.embed_images({"judge_image": rows_of(batch["judge_image"], images)})[:, 0]
        text_TD = self.embed_texts([batch["caption"][row] for row in texts.tolist()])
        rows = sent(image_of_K, image_ID.device), sent(text_of_K, text_TD.device)
        cosine_K = (image_ID[rows[0]] * text_TD[rows[1]]).sum(dim=1)
        if self.gives_cosines:
            return cosine_K.clamp(0, 1)
        logit_K: Tensor = self.model.logit_scale.exp() * cosine_K + self.model.logit_bias
        return logit_K.sigmoid()

    @torch.no_grad()
    def embed_images(self, batch: Batch) -> Tensor:
        """(B, 1, D) of judge_image."""
        pixels = batch["judge_image"]
        assert isinstance(pixels, Tensor)
        with torch.autocast(pixels.device.type, enabled=False):
            return _unit(self.model.get_image_features(pixel_values=pixels.to(self.model.device)))[:, None]

    @torch.no_grad()
    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        parts = [captions[start : start + TEXT_BATCH] for start in range(0, len(captions), TEXT_BATCH)]
        return torch.cat([self._texts(list(part)) for part in parts])

    def _texts(self, captions: list[str]) -> Tensor:
        """SigLIP was trained on texts padded to its full length, without a mask; CLIP's mask leaves padding out."""
        config = self.model.config.text_config
        siglip = not self.gives_cosines
        limits = {"truncation": True, "max_length": config.max_position_embeddings, "return_tensors": "pt"}
        tokens = self.tokenizer(captions, padding="max_length" if siglip else True, **limits).to(self.model.device)
        given = {"input_ids": tokens.input_ids} if siglip else {**tokens}
        with torch.autocast(self.model.device.type, enabled=False):
            return _unit(self.model.get_text_features(**given))


def _unit(features: Any) -> Tensor:
    """Of unit length; transformers 5 wraps the features."""
    return F.normalize(getattr(features, "pooler_output", features).float(), dim=-1)


def build_clip(request: ScorerRequest) -> ClipScorer:
    """Build the judge `clip`.

    Raises:
        ValueError: no encoder named, one without image or text features, or weights that do not fit.
    """
    where, name = f"{request.where}.encoder", request.section.get("encoder")
    if not name:
        raise ValueError(
            f"{request.where}: arch clip needs encoder, a dual encoder's folder or hub name (e.g. "
            "openai/clip-vit-base-patch32 or google/siglip-base-patch16-224)"
        )
    found = str(name)
    if is_path(found) and Path(found, "0_CLIPModel").is_dir():
        found = str(Path(found, "0_CLIPModel"))
    model = load_frozen(AutoModel, found, where, request.device, needs_pooler=True)
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ValueError(f"{where}: {name} is a {type(model).__name__}, which has no image and text features")
    try:
        loaded: Any = AutoImageProcessor
        image_processor = loaded.from_pretrained(folder_or_name(found), trust_remote_code=False)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{where}: no preprocessor_config.json beside {name} ({why})") from error
    return ClipScorer(model, load_tokenizer(found, where), image_processor)


JUDGES.add("clip")(
    Judge(
        build_clip,
        ("encoder",),
        files=lambda section: named_folder(section, "encoder"),
        costs="a dual encoder, weights in 32 bits",
    )
)
