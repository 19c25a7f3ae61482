"""Seeded ITC embeddings of any number of records, as similar to one another as a trained model's are.

A record is a point of a normal distribution whose i-th variance falls as i^-decay; image and text are that point, each
with noise of the same spectrum, off the origin as the embeddings of a contrastive model are. The slower the variances
fall, the fewer near neighbours a record has: `fitted_decay` finds the decay at which batches of exact M = 4800 are as
hard as those of a trained model.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lavis_mafa.core.chain import Chainer
from lavis_mafa.core.embeddings import HEADER_BYTES, EmbeddingRows, Embeddings, EmbeddingStore

BATCH, SPACE, BLOCK = 96, 4800, 20_000
# Flickr8k's `mafa_blip2` after ten epochs (projects/mafa/blip2/pretrain_stage1_flickr8k.yaml), by `hardness_of_run`;
# the noise gives its mean cosine of an image and its own caption, 0.66.
TRAINED, NOISE, MEAN = 0.7208, 0.75, 0.5


def embeddings(records: int, dim: int, decay: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows (N, D), float32, of images and of texts."""
    rng = np.random.default_rng((0, seed))
    scale_D = np.arange(1, dim + 1, dtype=np.float32) ** (-decay / 2)
    scale_D /= np.linalg.norm(scale_D)
    center_ND = rng.standard_normal((records, dim), dtype=np.float32) * scale_D + np.float32(MEAN / dim**0.5)
    noisy = [center_ND + NOISE * scale_D * rng.standard_normal((records, dim), dtype=np.float32) for _ in range(2)]
    image_ND, text_ND = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in noisy)
    return image_ND, text_ND


def stored(folder: Path, records: int, dim: int, decay: float) -> Embeddings:
    """The embeddings of `records` records as a run leaves them on disk."""
    store = EmbeddingStore(folder, records, dim, "synthetic")
    store.begin_epoch(0, records)
    for low in range(0, records, BLOCK):
        index = np.arange(low, min(low + BLOCK, records))
        store.write(index, *embeddings(len(index), dim, decay, seed=low))
    store.commit()
    store.close()
    return store.gather(0)


def hardness(found: Embeddings, order: np.ndarray, batch: int = BATCH) -> float:
    """The mean similarity of an image to the hardest other text of its batch."""
    batches_KB = order[: len(order) // batch * batch].reshape(-1, batch)
    hardest = []
    for records in batches_KB:
        sim_BB = found.image(records).astype(np.float32) @ found.text(records).astype(np.float32).T
        np.fill_diagonal(sim_BB, -np.inf)
        hardest.append(sim_BB.max(1).mean())
    return float(np.mean(hardest))


def exact_hardness(found: Embeddings, space: int, spaces: int = 1) -> float:
    """Hardness of exact chains through disjoint random search spaces of M records; through all if M is beyond."""
    shuffled = np.random.default_rng(2).permutation(found.index)
    values = []
    for low in range(0, min(spaces * space, len(shuffled)), space):
        records = np.sort(shuffled[low : low + space])
        image, text = EmbeddingRows(found.image, records), EmbeddingRows(found.text, records)
        values.append(hardness(found, records[Chainer(options={"backend": "flat"}).chain(image, text, 0)]))
    return float(np.mean(values))


def hardness_of_run(folder: Path) -> float:
    """Hardness of an exact chain through 4800 records by the embeddings of a run's last odd epoch."""
    path = folder / "embeddings" / "embeddings_odd_rank0.bin"
    about = json.loads(path.read_bytes()[:HEADER_BYTES])
    names = ("n_records", "dim", "fingerprint")
    store = EmbeddingStore(path.parent, *(about[name] for name in names), world=about["world"])
    return exact_hardness(store.gather(about["epoch"]), SPACE)


def fitted_decay(target: float, dim: int, folder: Path) -> float:
    """The decay at which exact M = 4800 has this hardness, to 0.01, by halving."""
    low, high = 0.25, 3.0
    while high - low > 0.01:
        decay = (low + high) / 2
        is_harder = exact_hardness(stored(folder, SPACE, dim, decay), SPACE) > target
        low, high = (low, decay) if is_harder else (decay, high)
    return (low + high) / 2
