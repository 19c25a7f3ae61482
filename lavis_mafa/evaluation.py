"""Image-text retrieval over a whole test set: every image against every caption, then ITM over the k best of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from lavis_mafa.core.metrics import recall_at_k

TEXT_BATCH = 256


@dataclass
class Gallery:
    """An encoded test set. `tokens`: tower tokens (N, L, V); `image_feat` (N, Q, D); `text_feat` (C, D)."""

    tokens: Tensor
    image_feat: Tensor
    text_feat: Tensor
    texts: list[str]

    def similarity(self, block: int = 256) -> Tensor:
        """Cosine of image and caption, the maximum over an image's queries (N, C)."""
        rows = [torch.einsum("nqd,cd->ncq", part, self.text_feat).amax(-1) for part in self.image_feat.split(block)]
        return torch.cat(rows)


@torch.no_grad()
def encode_gallery(
    model: Any, dataset: Any, batch_size: int, workers: int, device: torch.device, texts: Sequence[str] | None = None
) -> Gallery:
    """Every image of the data set and every caption, its own or the given (processed) `texts`, encoded once."""
    tokens, features = [], []
    for batch in tqdm(
        DataLoader(dataset, batch_size=batch_size, num_workers=workers), desc="images", unit="batch", leave=False
    ):
        batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        seen = model.vision_tokens(batch)
        tokens.append(seen.cpu())
        features.append(model.encode_image(seen)[1].cpu())
    texts = list(dataset.text if texts is None else texts)
    text_feat = [
        model.encode_text(model.tokenize(texts[start : start + TEXT_BATCH])).cpu()
        for start in tqdm(range(0, len(texts), TEXT_BATCH), desc="captions", unit="batch", leave=False)
    ]
    return Gallery(torch.cat(tokens), torch.cat(features), torch.cat(text_feat), texts)


@torch.no_grad()
def match_scores(
    model: Any, gallery: Gallery, image_P: np.ndarray, text_P: np.ndarray, device: torch.device, chunk: int = 256
) -> np.ndarray:
    """ITM logits (P, 2) of the pairs; sorted by image, whose keys and values are then projected once a chunk."""
    logits = np.empty((len(image_P), 2), dtype=np.float32)
    order = np.argsort(image_P, kind="stable")
    for start in tqdm(range(0, len(order), chunk), desc="ITM pairs", unit="batch", leave=False):
        rows = order[start : start + chunk]
        images, image_of = np.unique(image_P[rows], return_inverse=True)
        text_tokens = model.tokenize([gallery.texts[text] for text in text_P[rows]])
        state = model.pair_state(gallery.tokens[images].float().to(device), text_tokens)
        own = torch.arange(len(rows), device=device)
        logits[rows] = model.match_logits(state, torch.from_numpy(image_of).to(device), own).float().cpu().numpy()
    return logits


def reranked(
    model: Any, gallery: Gallery, sim_NC: np.ndarray, k: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """LAVIS' re-ranking: the k best of a row get ITM logit + similarity, the rest fall behind. (N, C) and (C, N)."""
    images, texts = sim_NC.shape
    best_texts = np.argpartition(-sim_NC, min(k, texts) - 1, axis=1)[:, :k]  # (N, k)
    best_images = np.argpartition(-sim_NC.T, min(k, images) - 1, axis=1)[:, :k]  # (C, k)
    pairs = np.unique(
        np.concatenate(
            [
                np.stack([np.repeat(np.arange(images), best_texts.shape[1]), best_texts.ravel()], 1),
                np.stack([best_images.ravel(), np.repeat(np.arange(texts), best_images.shape[1])], 1),
            ]
        ),
        axis=0,
    )
    logit = match_scores(model, gallery, pairs[:, 0], pairs[:, 1], device)[:, 1]
    scores = np.full_like(sim_NC, -100.0)
    scores[pairs[:, 0], pairs[:, 1]] = logit + sim_NC[pairs[:, 0], pairs[:, 1]]
    i2t, t2i = np.full_like(sim_NC, -100.0), np.full_like(sim_NC.T, -100.0)
    np.put_along_axis(i2t, best_texts, np.take_along_axis(scores, best_texts, 1), 1)
    np.put_along_axis(t2i, best_images, np.take_along_axis(scores.T, best_images, 1), 1)
    return i2t, t2i


def evaluate_retrieval(
    model: Any, dataset: Any, *, batch_size: int, workers: int, device: torch.device, k_test: int
) -> dict[str, Any]:
    """R@1/5/10 in percent, both ways, by ITC and (k_test > 0) re-ranked by ITM; by annotation and, if known, truth."""
    model.eval()
    gallery = encode_gallery(model, dataset, batch_size, workers, device)
    sim_NC = gallery.similarity().numpy()
    positives = {"annotation": annotated(dataset)}
    if dataset.truth is not None:
        positives["truth"] = truth_mask(dataset)
    results = {"itc": {name: _recalls(sim_NC, sim_NC.T, mask) for name, mask in positives.items()}}
    if k_test > 0:
        i2t, t2i = reranked(model, gallery, sim_NC, k_test, device)
        results["itm"] = {name: _recalls(i2t, t2i, mask) for name, mask in positives.items()}
    return results


def annotated(dataset: Any) -> np.ndarray:
    """(N, C): the captions annotated to an image."""
    mask = np.zeros((len(dataset), len(dataset.text)), dtype=bool)
    for text, image in dataset.txt2img.items():
        mask[image, text] = True
    return mask


def truth_mask(dataset: Any) -> np.ndarray:
    """(N, C): the captions that hold of an image."""
    images, texts = np.arange(len(dataset)), np.arange(len(dataset.text))
    return dataset.truth(images[:, None], texts[None, :]) | annotated(dataset)


def _recalls(i2t_NC: np.ndarray, t2i_CN: np.ndarray, positive_NC: np.ndarray) -> Mapping[str, Any]:
    """`text`: captions found for an image (TR); `image`: images found for a caption (IR). Re-ranking gives two."""
    by_image, by_text = recall_at_k(i2t_NC, positive_NC), recall_at_k(t2i_CN.T, positive_NC)
    return {
        way: {f"r{k}": values[f"{name}_r{k}"] for k in (1, 5, 10)}
        for way, name, values in (("image", "img", by_text), ("text", "txt", by_image))
    }
