"""The engine on an OpenCLIP model, as plain callables: what a user without LAVIS writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import torch
from PIL import Image

import lavis_mafa.openclip  # noqa: F401  open_clip knows mafa-scenes
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Networks, Retriever, mine

N = 9


def networks(table: RecordTable, folder: Path) -> Networks:
    """A CLIP model embeds; it judges too: P(match) grows with its cosine."""
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("mafa-scenes")
    model, tokenizer = model.eval(), open_clip.get_tokenizer("mafa-scenes")

    @torch.no_grad()
    def images(records: np.ndarray) -> np.ndarray:
        batch = torch.stack([preprocess(Image.open(folder / table.image(int(record)))) for record in records])
        return model.encode_image(batch, normalize=True)[:, None].numpy()

    @torch.no_grad()
    def texts(captions: list[str]) -> np.ndarray:
        return model.encode_text(tokenizer(list(captions)), normalize=True).numpy()

    def score(record_K: np.ndarray, row_K: np.ndarray) -> np.ndarray:
        cosine_K = (images(record_K)[:, 0] * texts([table.caption(int(row)) for row in row_K])).sum(axis=1)
        return (cosine_K + 1) / 2

    return Networks((Retriever(images, texts, "mafa-scenes"),), score, "mafa-scenes")


def test_an_open_clip_model_mines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(N):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    columns = {"image": [f"{n}.png" for n in range(N)], "caption": [[f"picture {n}", f"number {n}"] for n in range(N)]}
    table = RecordTable.from_rows(pa.table(columns), dataset="test")
    found = networks(table, tmp_path)
    search = SearchSettings(range_max=4, index="flat")
    mined = mine(Corpus.of(table), found, search, MafaSettings(), tmp_path / "cache", "files")
    (retriever,) = found.retrievers
    cosine_NC = retriever.embed_images(np.arange(N))[:, 0] @ retriever.embed_texts(columns_of(table)).T
    pairs = mined.candidates
    expected_K = (cosine_NC[pairs.record_K, pairs.text_K] + 1) / 2
    assert len(pairs.record_K) > N
    np.testing.assert_allclose(mined.p_K, expected_K, atol=1e-5)
    own = [set(table.caption_rows(record)) for record in range(N)]
    assert not any(text in own[record] for record, text in zip(pairs.record_K, pairs.text_K, strict=True))
    for record in range(N):  # the best foreign caption of every image is among its candidates
        foreign = np.setdiff1d(np.arange(2 * N), list(own[record]))
        best = foreign[cosine_NC[record, foreign].argmax()]
        assert best in pairs.text_K[pairs.record_K == record]


def columns_of(table: RecordTable) -> list[str]:
    return [table.caption(row) for row in range(2 * N)]
