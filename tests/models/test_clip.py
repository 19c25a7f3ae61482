"""`mafa_openclip`: open_clip's own loss where nothing is managed, MafaClipLoss where something is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from omegaconf import OmegaConf

from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.evaluation.retrieval import evaluate_retrieval
from lavis_mafa.models.meta import build_on_meta
from lavis_mafa.models.openclip import MafaOpenClip
from lavis_mafa.openclip import MafaClipLoss, PairMasks
from lavis_mafa.scorers.embedders import embed_images, embed_texts
from tests.models.test_evaluation import HandMade
from tests.models.tiny import CAPTIONS
from tests.openclip.tiny import register_tiny

B = 6
PLAIN = {"action": "keep", "alpha": 0.0, "known_positives": False}


@pytest.fixture(scope="module", autouse=True)
def name(tmp_path_factory: Any) -> str:
    folder = tmp_path_factory.mktemp("clip")
    register_tiny(folder, "tiny-mafa", image_size=16, patch_size=8)
    torch.manual_seed(1)
    torch.save(open_clip.create_model("tiny-mafa").state_dict(), folder / "tiny.pt")
    return f"open_clip:tiny-mafa/{folder / 'tiny.pt'}"


def built(name: str, **mafa: Any) -> Any:
    return MafaOpenClip.from_config({"vit_model": name, "mafa": mafa, "load_pretrained": False})


@pytest.fixture
def batch() -> dict[str, Any]:
    images = torch.randn(B, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([3, 4, 3, 5, 6, 7]), torch.tensor([1, 2, 3, 4, 5, 2])
    return {"image": images, "text_input": CAPTIONS, "image_id": ids[0], "text_id": ids[1], "epoch": 1}


def features(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What open_clip's own loop would hand to its loss."""
    return {
        "image_features": model.clip.encode_image(batch["image"], normalize=True),
        "text_features": model.clip.encode_text(model.tokenize(batch["text_input"]), normalize=True),
        "logit_scale": model.clip.logit_scale.exp(),
    }


def gradients(loss: torch.Tensor, model: Any) -> list[torch.Tensor]:
    weights = [model.clip.visual.conv1.weight, model.clip.token_embedding.weight, model.clip.logit_scale]
    return list(torch.autograd.grad(loss, weights))


def assert_same(ours: Any, expected: torch.Tensor, model: Any) -> None:
    torch.testing.assert_close(ours.loss, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(ours.loss, model), gradients(expected, model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_with_nothing_to_manage_it_has_open_clips_loss(name: str, batch: dict[str, Any]) -> None:
    model = built(name, **PLAIN)
    ours = model({**batch})
    assert set(ours.losses) == {"loss_itc"}
    assert_same(ours, open_clip.ClipLoss()(**features(model, batch)), model)
    assert ours.image_embed.shape == ours.text_embed.shape == (B, model.embed_dim)


def verdict_of(image: int, text: int) -> Any:
    """A scorer that finds one pair to match."""

    class GivenVerdicts:
        fingerprint = "given"

        def score(self, batch: Any, image_K: torch.Tensor, text_K: torch.Tensor) -> torch.Tensor:
            return torch.where((image_K == image) & (text_K == text), 0.9, 0.1)

    return GivenVerdicts()


@pytest.mark.parametrize("action", ["connect", "drop"])
def test_what_con_d_says_enters_as_in_mafa_clip_loss(name: str, batch: dict[str, Any], action: str) -> None:
    model = built(name, action=action)
    first = model({**batch}).mined.candidates  # the hardest pairs, whatever their verdicts
    image, text, from_text = int(first.image_C[0]), int(first.text_C[0]), bool(first.from_text_C[0])
    model.miner = ConnectionMiner(model.mafa, verdict_of(image, text))
    marks = torch.zeros(2, B, B, dtype=torch.bool)
    anchored = zip(first.image_C.tolist(), first.text_C.tolist(), first.from_text_C.tolist(), strict=True)
    for anchored_image, anchored_text, by_text in anchored:
        if (anchored_image, anchored_text) == (image, text):
            marks[(1, text, image) if by_text else (0, image, text)] = True
    assert marks[int(from_text)].any()
    pairs = PairMasks(marks, ~marks & marks) if action == "connect" else PairMasks(~marks & marks, marks)
    ids = {"image_id": batch["image_id"], "text_id": batch["text_id"]}
    expected = MafaClipLoss(alpha=0.5)(**features(model, batch), **ids, pairs=pairs)
    assert_same(model({**batch}), expected, model)
    plain = MafaClipLoss(alpha=0.5)(**features(model, batch), **ids)
    assert abs(plain - expected) > 1e-4


def test_it_embeds_and_retrieves_as_open_clip_does(name: str, batch: dict[str, Any]) -> None:
    model = built(name).eval()
    with torch.no_grad():
        seen = features(model, batch)
    torch.testing.assert_close(embed_images(model, batch)[:, 0], seen["image_features"])
    torch.testing.assert_close(embed_texts(model, CAPTIONS), seen["text_features"])
    data = HandMade(8)
    found = evaluate_retrieval(model, data, batch_size=3, workers=0, device=torch.device("cpu"), k_test=0)
    with torch.no_grad():
        image = model.clip.encode_image(data.images, normalize=True)
        text = model.clip.encode_text(model.tokenize(data.text), normalize=True)
    best_image = (text @ image.T).argmax(1)
    share = sum(int(best_image[row]) == data.txt2img[row] for row in range(len(data.text))) / len(data.text)
    assert found["itc"]["annotation"]["image"]["r1"] == pytest.approx(100 * share)


def test_the_temperature_stays_in_clips_bounds(name: str, batch: dict[str, Any]) -> None:
    model = built(name, **PLAIN)
    with torch.no_grad():
        model.clip.logit_scale.fill_(9.0)
    model({**batch})
    assert model.temp.item() == pytest.approx(0.01, rel=1e-3)


def test_a_checkpoint_of_ours_is_loaded_key_by_key(name: str, tmp_path: Path) -> None:
    model = built(name)
    torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
    again = {"vit_model": "open_clip:tiny-mafa", "load_pretrained": True, "pretrained": str(tmp_path / "ours.pth")}
    loaded = MafaOpenClip.from_config(again)
    assert loaded.clip.visual.conv1.weight.equal(model.clip.visual.conv1.weight)
    assert "ours.pth" in loaded.origin["clip"]
    assert built(name).origin["clip"].endswith("tiny.pt")


def test_what_is_not_there_is_reported() -> None:
    with pytest.raises(ValueError, match="did you mean ViT-B-32"):
        built("open_clip:ViT-B-33")
    with pytest.raises(ValueError, match="neither a local file nor a tag"):
        built("open_clip:tiny-mafa/none.pt")


def test_the_vocabulary_of_the_tokenizer_is_open_clips(name: str) -> None:
    tokenizer = built(name).tokenizer
    assert len(tokenizer) == 49408
    assert tokenizer(["a dog"])[0, 1] == tokenizer.get_vocab()["a</w>"]


def test_a_full_size_model_is_described_without_its_weights() -> None:
    config = OmegaConf.to_container(OmegaConf.load(MafaOpenClip.default_config_path("base")).model)
    model = build_on_meta(MafaOpenClip, config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_277_313  # OpenAI's ViT-B/32
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.embed_dim == 512
