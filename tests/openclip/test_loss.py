from dataclasses import replace
from inspect import signature

import open_clip
import pytest
import torch
from open_clip.loss import SigLipLoss

from lavis_mafa.core.pairs import SettledPairs
from lavis_mafa.openclip import BiEncoderJudge, MafaClipLoss, MafaSigLipLoss, PairMasks

from .batches import SCALE, features, itc_by_hand, siglip_by_hand

B = 5
OWN = [{row} for row in range(B)]
NONE = [set() for _ in range(B)]
PLAIN = [{} for _ in range(B)]


def scale():
    return torch.tensor(SCALE, requires_grad=True)


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def settled(*rows):
    image, text, label, from_text = torch.tensor(rows).T
    return SettledPairs(image, text, label, from_text.bool())


def run(loss, image, text, factor, *rest, **keywords):
    value = loss(image, text, factor, *rest, **keywords)
    return value, torch.autograd.grad(value, [image, text, factor])


@pytest.mark.parametrize("bias", [None, torch.tensor(-3.0)])
def test_with_nothing_to_manage_it_is_clip_loss_to_the_bit(bias):
    image, text = features(B)
    factor = scale()
    ours, ours_grad = run(MafaClipLoss(), image, text, factor, bias)
    theirs, theirs_grad = run(open_clip.ClipLoss(), image, text, factor, bias)
    assert ours.equal(theirs)
    assert all(one.equal(other) for one, other in zip(ours_grad, theirs_grad, strict=True))
    assert MafaClipLoss()(image, text, factor, bias, output_dict=True) == {"contrastive_loss": theirs}


def test_it_takes_clip_losss_own_arguments_in_their_order():
    loss = MafaClipLoss(True, True, True, 1, 2, alpha=0.5)
    assert loss.local_loss and loss.gather_with_grad and loss.cache_labels
    assert (loss.rank, loss.world_size) == (1, 2)
    assert loss.alpha == 0.5
    assert isinstance(loss, open_clip.ClipLoss)


def test_ids_that_are_all_different_change_nothing():
    image, text = features(B)
    factor = scale()
    ours, ours_grad = run(MafaClipLoss(), image, text, factor, image_id=ids(*range(B)), text_id=ids(*range(B)))
    theirs, theirs_grad = run(open_clip.ClipLoss(), image, text, factor)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=0)
    for one, other in zip(ours_grad, theirs_grad, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_equal_images_and_equal_captions_are_positives():
    image, text = features(B)
    image_id, text_id = ids(7, 8, 7, 9, 10), ids(1, 2, 3, 2, 5)  # 0 and 2 share an image, 1 and 3 a caption
    ours = MafaClipLoss()(image, text, SCALE, image_id=image_id, text_id=text_id)
    known = [{0, 2}, {1, 3}, {0, 2}, {1, 3}, {4}]
    logits = SCALE * image @ text.T
    expected = (itc_by_hand(logits, known, NONE, PLAIN) + itc_by_hand(logits.T, known, NONE, PLAIN)) / 2
    assert torch.allclose(ours, expected, rtol=1e-5)


def test_s_itc_smooths_all_columns_of_one_rank():
    image, text = features(B)
    smooth = [{-1: 0.4, **dict.fromkeys(range(B), 0.4 / B)} for _ in range(B)]
    logits = SCALE * image @ text.T
    expected = (itc_by_hand(logits, OWN, NONE, smooth) + itc_by_hand(logits.T, OWN, NONE, smooth)) / 2
    assert torch.allclose(MafaClipLoss(alpha=0.4)(image, text, SCALE), expected, rtol=1e-5)


def test_a_connection_of_a_miner_counts_in_its_anchors_row_and_direction_alone():
    image, text = features(B)
    found = settled((3, 1, 1, 1), (2, 4, 1, 0), (0, 1, 0, 0))  # text 1 → image 3, image 2 → text 4, and a negative
    ours = MafaClipLoss()(image, text, SCALE, pairs=PairMasks.of_settled(found, B))
    i2t, t2i = [*OWN], [*OWN]
    i2t[2], t2i[1] = {2, 4}, {1, 3}
    logits = SCALE * image @ text.T
    expected = (itc_by_hand(logits, i2t, NONE, PLAIN) + itc_by_hand(logits.T, t2i, NONE, PLAIN)) / 2
    assert torch.allclose(ours, expected, rtol=1e-5)


def test_a_listed_connection_is_a_positive_of_both_its_ends():
    image, text = features(B)
    listed = torch.tensor([[12, 21], [14, 99], [13, 23]])  # image 2 with text 1; a text that is not here; an own pair
    loss = MafaClipLoss(connections=listed)
    ours = loss(image, text, SCALE, image_id=ids(10, 11, 12, 13, 14), text_id=ids(20, 21, 22, 23, 24))
    i2t, t2i = [*OWN], [*OWN]
    i2t[2], t2i[1] = {2, 1}, {1, 2}
    logits = SCALE * image @ text.T
    expected = (itc_by_hand(logits, i2t, NONE, PLAIN) + itc_by_hand(logits.T, t2i, NONE, PLAIN)) / 2
    assert torch.allclose(ours, expected, rtol=1e-5)


def test_a_listed_connection_weighs_what_its_weight_says():
    image, text = features(B)
    listed, weight = torch.tensor([[12, 21], [14, 99], [13, 23]]), torch.tensor([0.25, 0.9, 0.5])
    loss = MafaClipLoss(connections=listed, connection_weight=weight)
    known = {"image_id": ids(10, 11, 12, 13, 14), "text_id": ids(20, 21, 22, 23, 24)}
    logits = SCALE * image @ text.T
    i2t, t2i = torch.eye(B), torch.eye(B)  # the third is an own pair, which weighs 1
    i2t[2], t2i[1] = torch.tensor([0, 0.2, 0.8, 0, 0]), torch.tensor([0, 0.8, 0.2, 0, 0])
    expected = -(i2t * logits.log_softmax(1) + t2i * logits.T.log_softmax(1)).sum(1).mean() / 2
    assert torch.allclose(loss(image, text, SCALE, **known), expected, rtol=1e-5)


def test_a_connection_of_a_miner_weighs_what_it_carries():
    image, text = features(B)
    found = replace(settled((3, 1, 1, 1), (2, 4, 1, 0), (0, 1, 0, 0)), weight_K=torch.tensor([0.6, 0.25, 0.4]))
    masks = PairMasks.of_settled(found, B)
    logits = SCALE * image @ text.T
    i2t, t2i = torch.eye(B), torch.eye(B)
    i2t[2], t2i[1] = torch.tensor([0, 0, 0.8, 0, 0.2]), torch.tensor([0, 1 / 1.6, 0, 0.6 / 1.6, 0])
    expected = -(i2t * logits.log_softmax(1) + t2i * logits.T.log_softmax(1)).sum(1).mean() / 2
    assert torch.allclose(MafaClipLoss()(image, text, SCALE, pairs=masks), expected, rtol=1e-5)
    ours = MafaSigLipLoss()(image, text, SCALE, torch.tensor(-3.0), pairs=masks)
    targets = {**{(row, row): 1.0 for row in range(B)}, (3, 1): 0.6, (2, 4): 0.25}
    assert ours.item() == pytest.approx(siglip_by_hand(SCALE * image @ text.T - 3, targets, set()), rel=1e-5)


@pytest.mark.parametrize(
    ("weight", "listed", "message"),
    [
        ([0.5], [[1, 2], [3, 4]], "one weight for each"),
        ([0.5, 1.5], [[1, 2], [3, 4]], r"numbers in \[0, 1\]"),
        ([0.5, float("nan")], [[1, 2], [3, 4]], r"numbers in \[0, 1\]"),
        ([0.5, 0.6], [[1, 2], [1, 2]], "lists a pair twice"),
        ([0.5], None, "needs connections"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(weight, listed, message):
    with pytest.raises(ValueError, match=message):
        MafaClipLoss(connections=listed and torch.tensor(listed), connection_weight=torch.tensor(weight))


def judge_features():
    """Image 0 finds text 1 closer than its own, 2 finds 4, 3 finds 2; text 2 finds image 3, text 3 finds image 1."""
    image = torch.zeros(B, B)
    text = torch.eye(B)
    image[0, 0], image[0, 1] = 0.6, 0.8
    image[1, 1], image[1, 3] = 0.9, 0.436
    image[4, 4] = 1.0
    image[2, 2], image[2, 4] = 0.6, 0.8
    image[3, 3], image[3, 2] = 0.28, 0.96
    return image, text


@pytest.mark.parametrize("action", ["drop", "connect"])
def test_what_a_judge_finds_is_dropped_or_connected(action):
    image, text = features(B)
    judge_image, judge_text = judge_features()
    loss = MafaClipLoss(judge=BiEncoderJudge(action=action))
    ours = loss(image, text, SCALE, judge_image_features=3 * judge_image, judge_text_features=judge_text)
    found_i2t, found_t2i = [{1}, set(), {4}, {2}, set()], [set(), set(), {3}, {1}, set()]
    logits, parts = SCALE * image @ text.T, []
    for found, side in ((found_i2t, logits), (found_t2i, logits.T)):
        if action == "drop":
            parts.append(itc_by_hand(side, OWN, found, PLAIN))
        else:
            parts.append(itc_by_hand(side, [own | more for own, more in zip(OWN, found, strict=True)], NONE, PLAIN))
    assert torch.allclose(ours, sum(parts) / 2, rtol=1e-5)


def test_smoothing_gives_nothing_to_a_dropped_pair():
    image, text = features(B)
    judge_image, judge_text = judge_features()
    loss = MafaClipLoss(judge=BiEncoderJudge(), alpha=0.5)
    ours = loss(image, text, SCALE, judge_image_features=judge_image, judge_text_features=judge_text)
    smooth = [{-1: 0.5, **dict.fromkeys(range(B), 0.5 / B)} for _ in range(B)]
    logits = SCALE * image @ text.T
    i2t = itc_by_hand(logits, OWN, [{1}, set(), {4}, {2}, set()], smooth)
    t2i = itc_by_hand(logits.T, OWN, [set(), set(), {3}, {1}, set()], smooth)
    assert torch.allclose(ours, (i2t + t2i) / 2, rtol=1e-5)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(ours, [image, text]))


def test_a_dropped_pair_that_is_known_stays_a_positive():
    image, text = features(B)
    everything = torch.ones(2, B, B, dtype=torch.bool)
    masks = PairMasks(torch.zeros_like(everything), everything)
    ours = MafaClipLoss()(image, text, SCALE, pairs=masks, image_id=ids(0, 0, 2, 3, 4), text_id=ids(*range(B)))
    logits = SCALE * image @ text.T
    known = [{0, 1}, {0, 1}, {2}, {3}, {4}]
    dropped = [set(range(B)) - kept for kept in known]
    expected = (itc_by_hand(logits, known, dropped, PLAIN) + itc_by_hand(logits.T, known, dropped, PLAIN)) / 2
    assert torch.allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [MafaClipLoss(alpha=0.5), MafaSigLipLoss(alpha=0.5)])
def test_a_batch_of_one_has_a_loss_and_gradients(loss):
    image, text = features(1)
    value = loss(image, text, scale(), torch.tensor(-1.0), image_id=ids(3), text_id=ids(4))
    assert value.isfinite()
    assert torch.autograd.grad(value, image)[0].isfinite().all()


def test_half_precision_features_give_a_float32_loss():
    image, text = (feature.detach().bfloat16() for feature in features(B))
    value = MafaClipLoss(alpha=0.5)(image, text, torch.tensor(SCALE).bfloat16())
    assert value.dtype == torch.float32


def test_the_output_dictionary_of_a_model_may_carry_the_ids():
    image, text = features(B)
    out = {"image_features": image, "text_features": text, "logit_scale": scale()}
    out |= {"image_id": ids(7, 8, 7, 9, 10), "text_id": ids(1, 2, 3, 4, 5)}
    losses = MafaClipLoss()(**out, output_dict=True)
    plain = open_clip.ClipLoss()(image, text, SCALE)
    assert list(losses) == ["contrastive_loss"]
    assert not torch.allclose(losses["contrastive_loss"], plain)


HOROVOD = [{"use_horovod": True}] if "use_horovod" in signature(open_clip.ClipLoss).parameters else []  # of 3


@pytest.mark.parametrize("keywords", [{"alpha": 1.5}, {"connections": torch.zeros(3)}, *HOROVOD])
def test_wrong_settings_are_reported(keywords):
    with pytest.raises(ValueError, match=r"must be|leave out"):
        MafaClipLoss(**keywords)


def test_missing_ids_and_judge_features_are_told():
    image, text = features(B)
    with pytest.raises(ValueError, match="pass image_id"):
        MafaClipLoss(connections=torch.zeros(1, 2, dtype=torch.int64))(image, text, SCALE)
    with pytest.raises(ValueError, match="judge_image_features"):
        MafaClipLoss(judge=BiEncoderJudge())(image, text, SCALE)
    with pytest.raises(ValueError, match="belong together"):
        MafaSigLipLoss()(image, text, SCALE, None, image_id=ids(*range(B)))


def test_with_nothing_to_manage_it_is_siglip_loss_to_the_bit():
    image, text = features(B)
    factor, bias = scale(), torch.tensor(-3.0)
    ours, ours_grad = run(MafaSigLipLoss(), image, text, factor, bias)
    theirs, theirs_grad = run(SigLipLoss(), image, text, factor, bias)
    assert ours.equal(theirs)
    assert all(one.equal(other) for one, other in zip(ours_grad, theirs_grad, strict=True))


def test_siglip_with_ids_that_are_all_different_is_siglip_loss():
    image, text = features(B)
    factor, bias = scale(), torch.tensor(-3.0)
    ours, ours_grad = run(MafaSigLipLoss(), image, text, factor, bias, image_id=ids(*range(B)), text_id=ids(*range(B)))
    theirs, theirs_grad = run(SigLipLoss(), image, text, factor, bias)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=0)
    for one, other in zip(ours_grad, theirs_grad, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_siglip_takes_connections_as_plus_one_whichever_end_is_the_anchor():
    image, text = features(B)
    found = settled((3, 1, 1, 1), (2, 4, 1, 0))
    ours = MafaSigLipLoss()(image, text, SCALE, torch.tensor(-3.0), pairs=PairMasks.of_settled(found, B))
    targets = {**{(row, row): 1.0 for row in range(B)}, (3, 1): 1.0, (2, 4): 1.0}
    assert ours.item() == pytest.approx(siglip_by_hand(SCALE * image @ text.T - 3, targets, set()), rel=1e-5)


def test_siglip_mixes_alpha_into_every_pair_and_masks_dropped_ones():
    image, text = features(B)
    judge_image, judge_text = judge_features()
    loss = MafaSigLipLoss(alpha=0.2, judge=BiEncoderJudge())
    bias = torch.tensor(-3.0)
    seen = {"judge_image_features": judge_image, "judge_text_features": judge_text}
    ours = loss(image, text, SCALE, bias, **seen, output_dict=True)
    targets = {(i, t): 0.8 * (i == t) + 0.2 / B for i in range(B) for t in range(B)}
    expected = siglip_by_hand(SCALE * image @ text.T - 3, targets, {(0, 1), (2, 4), (3, 2), (1, 3)})
    assert ours["contrastive_loss"].item() == pytest.approx(expected, rel=1e-5)
