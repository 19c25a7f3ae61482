"""Retrieval as LAVIS evaluates it: its compute_sim_matrix and RetrievalTask._report_metrics beside ours."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig

from lavis_mafa.evaluation import relevance
from lavis_mafa.evaluation import retrieval as evaluation
from lavis_mafa.scorers import pair_blocks
from tests.models.tiny import CAPTIONS, MED_ALBEF, VOCAB, lavis_blip2, loud, tiny_blip2
from tests.models.tiny_albef import tiny_vit
from tests.ranks import on_ranks

N, PER_IMAGE, K_TEST = 14, 2, 11
COLOURS = ["red", "green", "blue", "yellow", "pink", "cyan", "dark"]


class HandMade(Dataset[dict[str, Any]]):
    """n random images with two captions each, named as LAVIS' retrieval task reads them."""

    truth: Any = None

    def __init__(self, n: int = N) -> None:
        self.images = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(2))
        self.image = [f"{number}.jpg" for number in range(n)]
        self.text = [f"{COLOURS[row % 7]} {CAPTIONS[row % 5]} {COLOURS[row // 7]}" for row in range(n * PER_IMAGE)]
        self.txt2img = {row: row // PER_IMAGE for row in range(len(self.text))}
        self.img2txt = {number: [PER_IMAGE * number, PER_IMAGE * number + 1] for number in range(n)}

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"image": self.images[number], "index": number}


@pytest.fixture(scope="module")
def model() -> Any:
    return loud(tiny_blip2())


@torch.no_grad()
def lavis_scores(theirs: Any, k_test: int) -> tuple[Any, Any]:
    i2t, t2i = theirs.compute_sim_matrix(DataLoader(HandMade(), batch_size=5), SimpleNamespace(k_test=k_test))
    return i2t, t2i


def lavis_recalls(i2t: Any, t2i: Any, folder: Path) -> dict[str, float]:
    from lavis.common.registry import registry
    from lavis.tasks.retrieval import RetrievalTask

    data = HandMade()
    with mock.patch.dict(registry.mapping["paths"], output_dir=str(folder)):  # it leaves evaluate.txt there
        found: dict[str, float] = RetrievalTask._report_metrics(i2t, t2i, data.txt2img, data.img2txt)
    return found


def albef_and_lavis_own() -> tuple[Any, Any]:
    """`mafa_albef_retrieval`, and LAVIS' own `albef_retrieval` with its weights."""
    from lavis.models.albef_models.albef_retrieval import AlbefRetrieval
    from lavis.models.med import XBertEncoder

    from lavis_mafa.models.albef.tasks import MafaAlbefRetrieval
    from lavis_mafa.models.text import load_tokenizer

    tokenizer, sizes = load_tokenizer(str(VOCAB)), {"queue_size": 8, "embed_dim": 16}
    towers = [tiny_vit(), tiny_vit()]
    texts = [XBertEncoder(BertConfig(**MED_ALBEF), add_pooling_layer=False) for _ in towers]
    # LAVIS cuts a caption to 35 tokens in an evaluation
    ours = MafaAlbefRetrieval(tokenizer, image_encoder=towers[0], text_encoder=texts[0], max_txt_len=35, **sizes)
    with mock.patch.object(AlbefRetrieval, "init_tokenizer", lambda self: tokenizer):
        theirs = AlbefRetrieval(towers[1], texts[1], **sizes)
    theirs.load_state_dict(loud(ours).state_dict(), strict=True)
    return ours, theirs.eval()


def evaluated(model: Any, data: Any, k_test: int = 0, batch_size: int = 4) -> dict[str, Any]:
    return evaluation.evaluate_retrieval(
        model, data, batch_size=batch_size, workers=0, device=torch.device("cpu"), k_test=k_test
    )


def in_lavis_names(found: dict[str, Any]) -> dict[str, float]:
    short = {"image": "img", "text": "txt"}
    return {f"{short[way]}_{name}": value for way, values in found.items() for name, value in values.items()}


def gallery_of(model: Any) -> evaluation.Gallery:
    return evaluation.encode_gallery(model, HandMade(), 4, 0, torch.device("cpu"))


def dense(lists: Any) -> list[np.ndarray]:
    return [found.of(range(len(found.item))) for found in lists]


def test_similarities_are_lavis_similarities(model: Any) -> None:
    """Asked for all candidates and with no ITM, LAVIS' matrix is that of the similarities."""
    theirs = lavis_blip2(model).eval()
    theirs.compute_itm = lambda image_inputs, text_ids, text_atts: torch.zeros(1)
    expected_i2t, _ = lavis_scores(theirs, N)
    every, _ = lavis_scores(theirs, N)
    found = gallery_of(model).similarity().numpy()
    asked = expected_i2t > -100
    assert asked.sum() == N * N
    np.testing.assert_allclose(found[asked], every[asked], atol=1e-5)
    assert found.std() > 0.05
    np.testing.assert_allclose(gallery_of(model).similarity(block=3).numpy(), found, atol=1e-6)


@pytest.mark.parametrize("k_test", [1, 5, K_TEST])
def test_reranked_scores_are_lavis_scores(k_test: int, model: Any) -> None:
    expected_i2t, expected_t2i = lavis_scores(lavis_blip2(model).eval(), k_test)
    i2t, t2i = dense(evaluation.reranked(model, gallery_of(model), k_test, torch.device("cpu")))
    np.testing.assert_allclose(i2t, expected_i2t, atol=1e-4)
    np.testing.assert_allclose(t2i, expected_t2i, atol=1e-4)
    assert (i2t > -100).sum() == N * k_test and (t2i > -100).sum() == N * PER_IMAGE * k_test


@pytest.mark.parametrize("k_test", [1, 5, K_TEST])
def test_albef_is_reranked_as_lavis_does(k_test: int) -> None:
    ours, theirs = albef_and_lavis_own()
    expected = lavis_scores(theirs, k_test)
    gallery = gallery_of(ours)
    found = dense(evaluation.reranked(ours, gallery, k_test, torch.device("cpu")))
    for scores, theirs_scores, rows in zip(found, expected, (N, N * PER_IMAGE), strict=True):
        np.testing.assert_allclose(scores, theirs_scores, atol=1e-4)
        assert (scores > -100).sum() == rows * k_test
    itm = found[0] - gallery.similarity().numpy()
    assert itm[found[0] > -100].std() > 0.01  # the head tells pairs apart


@torch.no_grad()
def test_scores_of_pairs_in_any_order_are_those_of_each_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, gallery, device = HandMade(), gallery_of(model), torch.device("cpu")
    image_P, text_P = (np.random.default_rng(0).integers(0, n, 60) for n in (N, N * PER_IMAGE))
    alone, first = [], torch.tensor([0])
    for image, text in zip(image_P, text_P, strict=True):
        state = model.pair_state(gallery.tokens[image : image + 1], model.tokenize([data.text[text]]))
        alone.append(model.match_logits(state, first, first))
    expected = torch.cat(alone).numpy()
    assert expected.std() > 0.01
    for window, chunk in ((1024, 256), (16, 5), (1, 1)):
        monkeypatch.setattr(pair_blocks, "WINDOW", window)
        found = evaluation.match_scores(model, gallery, image_P, text_P, device, chunk)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_recalls_are_lavis_recalls(model: Any, tmp_path: Path) -> None:
    theirs = lavis_blip2(model).eval()
    found = evaluated(model, HandMade(), K_TEST)
    for stage, scores in (("itm", lavis_scores(theirs, K_TEST)), ("itc", None)):
        sim_NC = gallery_of(model).similarity().numpy()
        expected = lavis_recalls(*(scores or (sim_NC, sim_NC.T)), tmp_path)
        recalls = in_lavis_names(found[stage]["annotation"])
        assert recalls == pytest.approx({name: expected[name] for name in recalls}), stage
        assert recalls["txt_r10"] > 0 and recalls["txt_r1"] < 100
    assert set(recalls) == {f"{way}_r{k}" for way in ("img", "txt") for k in (1, 5, 10)}


def test_batches_do_not_matter(model: Any) -> None:
    assert evaluated(model, HandMade(), 3, batch_size=1) == evaluated(model, HandMade(), 3, batch_size=N)


def test_candidates_beyond_the_set_are_all_of_it(model: Any) -> None:
    assert evaluated(model, HandMade(), 10_000) == evaluated(model, HandMade(), N * PER_IMAGE)


def test_truth_counts_what_holds_beside_what_is_annotated(model: Any) -> None:
    data = HandMade()
    data.truth = lambda images, texts: (images + texts) % 2 == 0
    found = evaluated(model, data)["itc"]
    sim_NC = gallery_of(model).similarity().numpy()
    holds = np.array([[(i + t) % 2 == 0 or t // PER_IMAGE == i for t in range(N * PER_IMAGE)] for i in range(N)])
    first = [holds[i, sim_NC[i].argmax()] for i in range(N)], [holds[sim_NC[:, t].argmax(), t] for t in range(2 * N)]
    assert found["truth"]["text"]["r1"] == pytest.approx(100 * np.mean(first[0]))
    assert found["truth"]["image"]["r1"] == pytest.approx(100 * np.mean(first[1]))
    assert found["truth"]["text"]["r1"] > found["annotation"]["text"]["r1"]
    assert "itm" not in evaluated(model, data)


@pytest.mark.parametrize("change", [{"BLOCK": 3}, {"TOKEN_BYTES": 0}])
def test_neither_blocks_nor_what_is_kept_changes_a_figure(
    change: dict[str, int], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no memory for tower tokens the images that ITM asks for are read and encoded again."""
    expected = evaluated(model, HandMade(), K_TEST)
    for name, value in change.items():
        for module in (evaluation, relevance):
            monkeypatch.setattr(module, name, value, raising=False)
    assert evaluated(model, HandMade(), K_TEST) == expected


def test_by_itc_alone_no_tower_tokens_are_kept(model: Any) -> None:
    gallery = evaluation.encode_gallery(model, HandMade(), 4, 0, torch.device("cpu"), token_bytes=0)
    assert isinstance(gallery.tokens, evaluation.TokensAgain)
    torch.testing.assert_close(gallery.tokens[np.array([3, 0])], gallery_of(model).tokens[[3, 0]])


def test_captions_of_an_image_count_towards_r_precision(model: Any) -> None:
    """Two captions an image: what share of an image's two best are its own; a caption has one image alone."""
    found = evaluated(model, HandMade(), 3)
    best = np.argsort(-gallery_of(model).similarity().numpy(), axis=1)[:, :2]
    own = best // PER_IMAGE == np.arange(N)[:, None]
    figures = found["at_r"]["itc"]["annotation"]
    assert set(figures) == {"text"} and set(found["at_r"]) == {"itc", "itm"}
    assert figures["text"]["r_precision"] == pytest.approx(100 * own.mean())
    assert figures["text"]["map_at_r"] == pytest.approx(100 * (own[:, 0] + own[:, 1] * own.sum(1) / 2).mean() / 2)


def test_tower_in_half_precision_is_evaluated_too(batch: dict[str, Any]) -> None:
    """vit_precision: fp16 keeps the frozen tower in half: here bf16, which a CPU computes."""
    exact, rough = (loud(tiny_blip2(vit={"freeze_vit": True})) for _ in range(2))
    rough.visual_encoder.to(torch.bfloat16)
    similarity = [gallery_of(model).similarity() for model in (exact, rough)]
    torch.testing.assert_close(*similarity, atol=0.1, rtol=0)
    assert evaluated(rough, HandMade(), 3)["itm"]
    assert rough({**batch}).loss.item() == pytest.approx(exact({**batch}).loss.item(), rel=0.2)


# ---- several processes


def share(rank: int, world: int, images: int) -> dict[str, Any]:
    """What one rank makes of an evaluation, and what it put through the model for it."""
    model, data, seen = loud(tiny_blip2()), HandMade(images), {"images": [], "texts": [], "pairs": 0}
    recalls = evaluated(model, data, 5)
    tokenize, match, vision = model.tokenize, model.match_logits, model.vision_tokens

    def tokenized(texts: list[str]) -> Any:
        seen["texts"] += texts
        return tokenize(texts)

    def tokens(batch: dict[str, Any]) -> Any:
        seen["images"] += batch["index"].tolist()
        return vision(batch)

    def matched(state: Any, image_K: Any, text_K: Any) -> Any:
        seen["pairs"] += len(image_K)
        return match(state, image_K, text_K)

    model.vision_tokens, model.tokenize = tokens, tokenized
    gallery = evaluation.encode_gallery(model, data, 4, 0, torch.device("cpu"))
    model.match_logits = matched  # tokenize stays: what is matched has its tokens
    sim_NC = gallery.similarity().numpy()
    i2t, t2i = dense(evaluation.reranked(model, gallery, 5, torch.device("cpu")))
    return {"scores": (sim_NC, i2t, t2i), "recalls": recalls, **seen}


@pytest.mark.parametrize(("world", "images"), [(2, 13), (3, 8), (2, 1)])
def test_ranks_share_an_evaluation(world: int, images: int, tmp_path: Path) -> None:
    """Every sample is encoded and every pair matched once; all ranks end with the figures of one process."""
    alone, found = share(0, 1, images), on_ranks(world, tmp_path, share, images)
    for rank in found:
        for scores, expected in zip(rank["scores"], alone["scores"], strict=True):
            np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert rank["recalls"] == alone["recalls"]
    for part in ("images", "texts"):
        assert [each for rank in found for each in rank[part]] == alone[part], part
    assert sum(rank["pairs"] for rank in found) == alone["pairs"]
    assert max(len(rank["texts"]) for rank in found) == -(-len(alone["texts"]) // world)
