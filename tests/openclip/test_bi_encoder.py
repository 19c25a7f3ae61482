import pytest
import torch

from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.openclip import BiEncoderJudge, BiEncoderScorer, OpenClipEncoder, PairJudge

from .tiny import tiny_clip

# Features by hand: text 1 fits image 0 (0.8) better than image 0's own text 0 does (0.6); the rest is apart.
IMAGE = torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
TEXT = torch.eye(3)


def test_a_pair_above_the_own_pair_by_the_margin_is_found_in_its_anchors_row():
    masks = BiEncoderJudge(margin=0.1, action="drop").masks(5 * IMAGE, 2 * TEXT)
    assert masks.dropped_2BB.nonzero().tolist() == [[0, 0, 1]]
    assert not masks.connected_2BB.any()


def test_a_larger_margin_finds_less_and_a_negative_one_more():
    assert not BiEncoderJudge(margin=0.3).masks(IMAGE, TEXT).dropped_2BB.any()
    strict = BiEncoderJudge(margin=-0.21, action="connect").masks(IMAGE, TEXT)
    # text 1's own image scores 1, image 0 scores 0.8 with it: found as well; own pairs never are
    assert strict.connected_2BB.nonzero().tolist() == [[0, 0, 1], [1, 1, 0]]
    assert not strict.dropped_2BB.any()


def test_verdicts_do_not_hang_on_the_precision_of_the_training():
    image, text = torch.nn.functional.normalize(
        torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0)), dim=2
    )
    judge = BiEncoderJudge(margin=0.01)
    own = (image * text).sum(dim=1)
    exact = judge.exceeds(image, text, own), PairJudge(score_by_order)({}, image, text).connected_2BB
    with torch.autocast("cpu", torch.bfloat16):
        mixed = judge.exceeds(image, text, own), PairJudge(score_by_order)({}, image, text).connected_2BB
    assert all(one.equal(other) for one, other in zip(exact, mixed, strict=True))


def score_by_order(batch, image_K, text_K):
    return torch.ones(len(image_K))


@pytest.mark.parametrize(("keywords", "message"), [({"action": "keep"}, "drop or connect"), ({"margin": 3}, "cosines")])
def test_wrong_settings_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        BiEncoderJudge(**keywords)


# ITM scores by hand. Hardest text of image 0 is text 1 and so on; P(match) below.
P = torch.tensor([[0.99, 0.9, 0.1], [0.2, 0.99, 0.6], [0.3, 0.3, 0.99]])
SIM = torch.tensor([[1.0, 0.9, 0.0], [0.1, 1.0, 0.8], [0.7, 0.2, 1.0]])


def score(batch, image_K, text_K):
    return P[image_K, text_K]


class Scorer:
    fingerprint = "by hand"
    score = staticmethod(score)


@pytest.mark.parametrize("scorer", [Scorer(), score])
def test_an_itm_network_or_a_function_says_which_hard_pairs_connect(scorer):
    masks = PairJudge(scorer)({}, SIM, torch.eye(3))
    # image 0 → text 1 (0.9) connects; text 1 → image 0 is text 1's hardest image too; 0.6 is ambiguous
    assert masks.connected_2BB.nonzero().tolist() == [[0, 0, 1], [1, 1, 0]]
    assert not masks.dropped_2BB.any()


def test_action_drop_leaves_the_same_pairs_out():
    masks = PairJudge(score, MafaSettings(action="drop"))({}, SIM, torch.eye(3))
    assert masks.dropped_2BB.nonzero().tolist() == [[0, 0, 1], [1, 1, 0]]
    assert not masks.connected_2BB.any()


def test_siblings_are_no_candidates():
    batch = {"image_id": torch.tensor([4, 4, 5]), "text_id": torch.tensor([1, 2, 3])}
    masks = PairJudge(score)(batch, SIM, torch.eye(3))
    assert not masks.connected_2BB.any()


def test_a_store_belongs_to_a_scorer_with_a_fingerprint():
    with pytest.raises(ValueError, match="fingerprint"):
        PairJudge(score, store=ConnectionStore(None, "any"))
    with pytest.raises(ValueError, match="hardest"):
        PairJudge(score, MafaSettings(negatives="multinomial"))


def test_an_open_clip_model_gives_judge_features():
    model = tiny_clip()
    features = OpenClipEncoder(model)(torch.randn(3, 3, 32, 32), torch.randint(1, 40, (3, 77)))
    assert set(features) == {"judge_image_features", "judge_text_features"}
    assert all(torch.allclose(feature.norm(dim=1), torch.ones(3), atol=1e-5) for feature in features.values())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


class Features:
    """A bi-encoder whose features are given: an image is its own feature, a text too."""

    logit_scale = torch.tensor(10.0).log()

    def eval(self):
        return self

    def requires_grad_(self, on):
        return self

    def encode_image(self, images, normalize):
        return images

    def encode_text(self, texts, normalize):
        return texts


def test_a_bi_encoder_tells_how_surely_it_prefers_an_image_to_the_texts_own():
    scorer = BiEncoderScorer(Features(), lambda captions: TEXT[[int(one) for one in captions]], None, "by hand")
    batch = {"judge_image": IMAGE, "caption": ["0", "1", "2"]}
    # text 0: its own image has 0.6, image 1 has 0; text 1: its own has 1, image 0 has 0.8; a pair twice
    p_K = scorer.score(batch, torch.tensor([1, 0, 1]), torch.tensor([0, 1, 0]))
    expected = torch.tensor([-6.0, -2.0, -6.0]).sigmoid()
    assert torch.allclose(p_K, expected)
    clean = scorer.score({**batch, "judge_image": IMAGE.flip(0)}, torch.tensor([0]), torch.tensor([2]))
    assert torch.allclose(clean, torch.tensor([10.0 - 0.0]).sigmoid())  # image 2 stands first, text 2's own last
