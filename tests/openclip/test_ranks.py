"""The losses on 2 and 4 ranks (gloo) against open_clip's, and against one process that holds the whole batch."""

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from open_clip.loss import SigLipLoss
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.pairs import SettledPairs
from lavis_mafa.core.plan import Plan
from lavis_mafa.openclip import BiEncoderJudge, MafaClipLoss, MafaSigLipLoss, PairMasks
from lavis_mafa.openclip_train.batches import parts
from lavis_mafa.openclip_train.csv_feed import Feed, pair_ids
from tests.ranks import as_torchrun, on_ranks

from . import launch
from .batches import SCALE, features
from .tiny import register_tiny

B = 3
MODES = [(False, False), (False, True), (True, False), (True, True)]  # local_loss, gather_with_grad
SIGLIP_MODES = ["bidir", "shift", "reduce", "gather"]
MANAGED = ["ids", "listed", "judge_drop", "judge_connect", "pairs"]


def whole_batch(world):
    """Ids with siblings on other ranks, and a judge's features of the whole batch."""
    W = B * world
    generator = torch.Generator().manual_seed(5)
    return {
        "image_id": torch.arange(W) // 2,  # pairs of rows share an image, some of them across ranks
        "text_id": torch.arange(W) % (W - 1),
        "judge": torch.randn(2, W, 4, generator=generator),
    }


def keywords(case, rows, world):
    """Of a call on these rows of the whole batch, and of the constructor."""
    batch = whole_batch(world)
    ids = {name: batch[name][rows] for name in ("image_id", "text_id")}
    features = dict(zip(("judge_image_features", "judge_text_features"), batch["judge"][:, rows], strict=True))
    if case == "ids":
        return ids, {}
    if case == "listed":
        listed = torch.tensor([[0, B * world - 2], [1, 0]])
        return ids, {"connections": listed}
    if case == "pairs":  # in each rank's batch: text 0 → image 2, and image 0 → text 1 on the first rank alone
        shifts = range(0, len(rows), B)
        found = [(low + 2, low + 0, 1, 1) for low in shifts] + ([(0, 1, 1, 0)] if rows[0] == 0 else [])
        image, text, label, from_text = torch.tensor(found).T
        return {"pairs": PairMasks.of_settled(SettledPairs(image, text, label, from_text.bool()), len(rows))}, {}
    return features, {"judge": BiEncoderJudge(margin=0.1, action=case.removeprefix("judge_"))}


def own_rows(rank, world):
    image, text = (feature.detach() for feature in features(B * world, seed=1))
    rows = list(range(rank * B, rank * B + B))
    return rows, image[rows].requires_grad_(), text[rows].requires_grad_()


def value_and_gradients(loss, image, text, *rest, **more):
    factor = torch.tensor(SCALE, requires_grad=True)
    value = loss(image, text, factor, *rest, **more)
    grads = torch.autograd.grad(value, [image, text, factor])
    return [value.item(), *(grad.numpy() for grad in grads)]  # arrays cross processes without shared memory


def plain(rank, world):
    """Ours and open_clip's in every mode, with nothing to manage."""
    _, image, text = own_rows(rank, world)
    both = []
    for mode in MODES:
        for kind in (MafaClipLoss, open_clip.ClipLoss):
            both.append(value_and_gradients(kind(*mode, rank=rank, world_size=world), image, text))
    for mode in SIGLIP_MODES:
        for kind in (MafaSigLipLoss, SigLipLoss):
            loss = kind(rank=rank, world_size=world, dist_impl=mode)
            both.append(value_and_gradients(loss, image, text, torch.tensor(-2.0)))
    return both


def managed(rank, world):
    """Every managed case in every mode: {(case, mode): value and gradients}."""
    rows, image, text = own_rows(rank, world)
    found = {}
    for case in MANAGED:
        call, settings = keywords(case, rows, world)
        for mode in MODES:
            loss = MafaClipLoss(*mode, rank=rank, world_size=world, **settings)
            found[case, mode] = value_and_gradients(loss, image, text, **call)
        loss = MafaSigLipLoss(rank=rank, world_size=world, **settings)
        found[case, "siglip"] = value_and_gradients(loss, image, text, torch.tensor(-2.0), **call)
    loss = MafaClipLoss(True, rank=rank, world_size=world, alpha=0.5)
    found["smooth", MODES[2]] = value_and_gradients(loss, image, text)
    loss = MafaClipLoss(False, rank=rank, world_size=world, alpha=0.5)
    found["smooth", MODES[0]] = value_and_gradients(loss, image, text)
    return found


@pytest.fixture(scope="module", params=[2, 4])
def world(request):
    return request.param


@pytest.fixture(scope="module")
def outcome(world, tmp_path_factory):
    return on_ranks(world, tmp_path_factory.mktemp("ranks"), managed)


def in_one_process(case, world, kind, *rest):
    image, text = features(B * world, seed=1)
    call, settings = keywords(case, list(range(B * world)), world)
    return value_and_gradients(kind(**settings), image, text, *rest, **call)


def test_with_nothing_to_manage_every_rank_has_open_clips_loss_to_the_bit(world, tmp_path):
    for both in on_ranks(world, tmp_path, plain):
        assert len(both) == 2 * (len(MODES) + len(SIGLIP_MODES))
        for ours, theirs in zip(both[::2], both[1::2], strict=True):
            assert ours[0] == theirs[0]
            assert all((one == other).all() for one, other in zip(ours[1:], theirs[1:], strict=True))


@pytest.mark.parametrize("case", MANAGED)
def test_a_managed_loss_does_not_depend_on_how_the_batch_is_spread(outcome, world, case):
    value, image_grad, text_grad, _ = in_one_process(case, world, MafaClipLoss)
    for local_loss, with_grad in MODES:
        parts = [found[case, (local_loss, with_grad)] for found in outcome]
        losses = [part[0] for part in parts]
        if local_loss:
            assert sum(losses) / world == pytest.approx(value, rel=1e-5)
        else:
            assert losses == pytest.approx([value] * world, rel=1e-5)
        if with_grad:  # DDP averages over the ranks what all ranks' losses say of a feature
            for rank, part in enumerate(parts):
                own = slice(rank * B, rank * B + B)
                assert part[1] / world == pytest.approx(image_grad[own], rel=1e-4, abs=1e-6)
                assert part[2] / world == pytest.approx(text_grad[own], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("case", MANAGED)
def test_a_managed_siglip_loss_does_not_depend_on_how_the_batch_is_spread(outcome, world, case):
    value, image_grad, text_grad, _ = in_one_process(case, world, MafaSigLipLoss, torch.tensor(-2.0))
    parts = [found[case, "siglip"] for found in outcome]
    assert sum(part[0] for part in parts) / world == pytest.approx(value, rel=1e-5)
    for rank, part in enumerate(parts):
        own = slice(rank * B, rank * B + B)
        assert part[1] / world == pytest.approx(image_grad[own], rel=1e-4, abs=1e-6)
        assert part[2] / world == pytest.approx(text_grad[own], rel=1e-4, abs=1e-6)


def test_s_itc_smooths_the_columns_of_the_anchors_own_rank(outcome, world):
    image, text = (feature.detach() for feature in features(B * world, seed=1))
    block = torch.block_diag(*[torch.full((B, B), 1 / B)] * world)
    target = 0.5 * torch.eye(B * world) + 0.5 * block
    logits = SCALE * image @ text.T
    expected = sum(-(target * side.log_softmax(dim=1)).sum(dim=1).mean() for side in (logits, logits.T)) / 2
    mean = sum(found["smooth", MODES[2]][0] for found in outcome) / world
    assert mean == pytest.approx(expected.item(), rel=1e-5)
    assert [found["smooth", MODES[0]][0] for found in outcome] == pytest.approx([expected.item()] * world, rel=1e-5)


ROWS, DIM = 25, 4
GATHERED = ("image", "text", "image_id", "text_id")


class Numbers:
    """A data set whose images are their row number."""

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return torch.tensor(row), torch.tensor(-row)


def fed(rank, world, folder):
    """Three epochs of a rank: the rows it was given."""
    image, text = (feature.detach() for feature in features(ROWS, seed=2, D=DIM))
    feed = Feed(Numbers(), torch.arange(2 * ROWS).reshape(ROWS, 2), GritPlanner(B, world), folder, DIM, rank)
    epochs = []
    for epoch in range(3):
        feed.set_value(epoch)
        batches = []
        for images, texts in map(parts, feed):
            assert images.equal(-texts) and images.equal(feed.rows(B))
            feed.keep(image[images], text[images])
            batches.append(images.tolist())
        epochs.append(batches)
    return epochs


def test_the_ranks_share_every_epoch_and_what_is_left_out_leads_the_next(world, tmp_path):
    outcome = on_ranks(world, tmp_path, fed, tmp_path / "mafa")
    left_out = set()
    for epoch in range(3):
        rows = [row for rank in outcome for batch in rank[epoch] for row in batch]
        assert len(rows) == len(set(rows)) == ROWS // (B * world) * B * world
        assert left_out <= set(rows)
        left_out = set(range(ROWS)) - set(rows)


def launched(folder):
    """The launcher's calls of the loss on one rank."""
    register_tiny(folder, "tiny-train")
    names = ("image", "text", "logit_scale", "image_id", "text_id", "contrastive_loss")
    with pytest.MonkeyPatch.context() as patch:
        on_cpu = lambda model, device_ids, **more: DistributedDataParallel(model, **more)  # noqa: E731
        patch.setattr("torch.nn.parallel.DistributedDataParallel", on_cpu)  # open_clip names a device, as GPUs want it
        calls = launch.run(patch, launch.arguments(folder / "train.csv", folder / "logs", "--epochs", 2))
    return [{name: call[name].detach().numpy() for name in names} | {"alpha": call["alpha"]} for call in calls]


def test_the_launcher_trains_on_two_ranks(tmp_path):
    """Every rank follows its part of the plan, and the loss is that of the ranks' features together."""
    rng, rows = np.random.default_rng(0), []
    for number in range(16):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append((str(tmp_path / f"{number}.png"), f"number {number // 4}"))  # four images a caption
    table = pd.DataFrame(rows, columns=["filepath", "title"])
    table.to_csv(tmp_path / "train.csv", sep="\t", index=False)
    ids_N2 = pair_ids(table.filepath.tolist(), table.title.tolist()).numpy()
    outcome = as_torchrun(2, launched, tmp_path)
    assert [len(calls) for calls in outcome] == [4, 4]
    for step, ranks in enumerate(zip(*outcome, strict=True)):
        plan = Plan.load(tmp_path / "logs" / "run" / "mafa" / f"plan_{step // 2}.npz")
        for rank, call in enumerate(ranks):
            found = np.stack([call["image_id"], call["text_id"]], axis=1)
            assert (found == ids_N2[plan.batches(rank)[step % 2]]).all()
        assert {call["alpha"] for call in ranks} == {0.5 if step // 2 else 0.0}
        if step // 2:  # smoothing is over the rank's own columns, see above
            continue
        both = {name: torch.from_numpy(np.concatenate([call[name] for call in ranks])) for name in GATHERED}
        whole = MafaClipLoss()(*(both.pop(name) for name in ("image", "text")), ranks[0]["logit_scale"].item(), **both)
        assert [call["contrastive_loss"] for call in ranks] == pytest.approx([whole.item()] * 2, rel=1e-5)
