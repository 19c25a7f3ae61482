"""Judged pairs: hand-made ones with every figure worked out by hand, bad files, the real file, and Con-D both ways."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import Subset
from transformers import BatchEncoding

import lavis_mafa
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.dataset import RetrievalDataset
from lavis_mafa.data.records import RecordTable
from lavis_mafa.evaluation import judgments
from lavis_mafa.evaluation.judged_pairs import read_judged_pairs
from lavis_mafa.evaluation.judgments import con_d_scores, configured_judge, evaluate_judgments
from lavis_mafa.evaluation.retrieval import encode_gallery, match_scores
from tests.models.tiny import CAPTIONS, loud, tiny_blip2
from tests.ranks import on_ranks

CPU = torch.device("cpu")
SPLIT = ["c.jpg", "spare.jpg", "a.jpg", "b.jpg"]  # not the order of the judged pairs, and one more


def row(image: str, caption: str, kind: str, **votes: Any) -> dict[str, Any]:
    label = int(kind in ("false_negative", "original"))
    return {"image": image, "caption": caption, "label": label, "kind": kind, **votes}


ROWS = [
    row("./a.jpg", "X", "false_negative", cf_yes=3, cf_no=0, expert=[3, 4, 4]),
    row("b.jpg", "Y", "false_negative", cf_yes=2, cf_no=1),
    row("a.jpg", "Y", "hard_true_negative", expert=[1, 2, 2]),
    row("b.jpg", "X", "hard_true_negative", cf_yes=0, cf_no=3),
    row("c.jpg", "X", "hard_true_negative", cf_yes=0, cf_no=3, expert=[1, 1, 3]),
    row("c.jpg", "Z", "original", expert=[4, 4, 4]),
    row("a.jpg", "Z", "true_negative", cf_yes=0, cf_no=3),
]
#                          aX   bY   aY   bX   cX   cZ   aZ
COSINE = dict(zip(["ax", "by", "ay", "bx", "cx", "cz", "az"], [0.9, 0.4, 0.5, 0.1, 0.4, 0.2, 0.8], strict=True))
MARGIN = dict(zip(COSINE, [2.0, 1.0, -1.0, -2.0, 1.5, 3.0, 4.0], strict=True))
CON_D = dict(zip(COSINE, [0.3, 0.2, 0.9, 0.8, 0.1, 0.6, 0.4], strict=True))
NO_PAIR = -9.0


def split_of(images: list[str], vis_processor: Any) -> RetrievalDataset:
    table = RecordTable.from_rows(pa.table({"image": images, "caption": [["a caption"] for _ in images]}), "tests")
    return RetrievalDataset(table, lambda record: record, vis_processor, str.lower)


class OneHot:
    """An "image" is its record number, its view a single token that is 1 there."""

    def __init__(self, transform: str = "the model's view") -> None:
        self.transform = transform

    def __call__(self, record: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([record]), len(SPLIT)).float()


class FakeModel:
    """Gives the cosines and ITM margins of the tables above, and keeps what it was asked to encode."""

    has_itm = True

    def __init__(self) -> None:
        self.images: list[int] = []
        self.texts: list[str] = []

    def eval(self) -> None:
        pass

    def vision_tokens(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["image_tokens"] if "image_tokens" in batch else batch["image"]

    def encode_image(self, tokens_B1N: torch.Tensor) -> tuple[None, torch.Tensor, None]:
        names = names_of(tokens_B1N)
        self.images += names
        fits = torch.tensor([[COSINE.get(name + text, NO_PAIR) for text in "xyz"] for name in names])
        return None, torch.stack([fits - 1, fits], 1), None  # the second query fits best

    def tokenize(self, texts: list[str]) -> BatchEncoding:
        ids = torch.tensor([["xyz".index(text)] for text in texts])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def encode_text(self, tokens: BatchEncoding) -> torch.Tensor:
        self.texts += letters(tokens)
        return torch.eye(3)[tokens.input_ids[:, 0]]

    def pair_state(self, tokens_B1N: torch.Tensor, tokens: BatchEncoding) -> Any:
        return names_of(tokens_B1N), letters(tokens)

    def match_logits(self, state: Any, image_K: torch.Tensor, text_K: torch.Tensor) -> torch.Tensor:
        names, texts = state
        margin = [MARGIN[names[image] + texts[text]] for image, text in zip(image_K, text_K, strict=True)]
        return torch.tensor([[-10 * m, -9 * m] for m in margin])  # the match logit alone orders them in reverse


def letters(tokens: BatchEncoding) -> list[str]:
    return ["xyz"[number] for number in tokens.input_ids[:, 0].tolist()]


def names_of(tokens_B1N: torch.Tensor) -> list[str]:
    return [SPLIT[record][0] for record in tokens_B1N.argmax(-1).flatten().tolist()]


class FakeConD:
    """Gives the P(match) of the table, and keeps how many images it was given under which name."""

    fingerprint = "table"

    def __init__(self, shares_tower: bool, transform: str) -> None:
        self.shares_tower, self.view = shares_tower, OneHot(transform)
        self.seen: list[tuple[str, int]] = []

    def score(self, batch: dict[str, Any], image_K: torch.Tensor, text_K: torch.Tensor) -> torch.Tensor:
        (view,) = batch.keys() & {"image", "image_tokens", "judge_image"}
        self.seen.append((view, len(batch[view])))
        names, captions = names_of(batch[view]), batch["caption"]
        assert captions == ["X", "Y", "Z"], "raw captions: Con-D has its own processor"
        pairs = zip(image_K, text_K, strict=True)
        return torch.tensor([CON_D[names[image] + captions[text].lower()] for image, text in pairs])


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any], Path]:
    def write(rows: Any) -> Path:
        (tmp_path / "judged.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return tmp_path / "judged.json"

    return write


def figures(auc: float, ap: float, pairs: int, positives: int) -> Any:
    return pytest.approx({"auc": auc, "ap": ap, "pairs": pairs, "positives": positives}, abs=1e-6)


@pytest.mark.parametrize("cached", [True, False])
def test_figures_equal_those_worked_out_by_hand(cached: bool, written: Any) -> None:
    model, split, con_d = FakeModel(), split_of(SPLIT, OneHot()), FakeConD(True, "the model's view")
    if cached:
        split.tokens = np.eye(4, dtype=np.float16)[:, None]
        split.open_image = None  # the tokens are there, so no image is opened
    judged = read_judged_pairs(written(ROWS), split.table)
    found = evaluate_judgments(model, split, judged, con_d, batch_size=2, workers=0, device=CPU)
    assert found["all"] == {
        "itc": figures(4.5 / 6, (1 + 2 / 4) / 2, 5, 2),  # bY and cX tie: half a win
        "itm": figures(5 / 6, (1 + 2 / 3) / 2, 5, 2),
        "con_d": figures(2 / 6, (1 / 3 + 2 / 4) / 2, 5, 2),
    }
    # aX against aY and bX: bY and cX have a vote against their label
    best, worst = figures(1, 1, 3, 1), figures(0, 1 / 3, 3, 1)
    assert found["unanimous"] == {"itc": best, "itm": best, "con_d": worst}
    assert found["any_kind"]["itc"] == figures(6.5 / 12, (1 + 2 / 5 + 3 / 6) / 3, 7, 3)
    assert found["any_kind_unanimous"]["itc"] == figures(4 / 6, (1 + 2 / 4) / 2, 5, 2)
    assert (model.images, model.texts) == (["a", "b", "c"], ["x", "y", "z"]), "each judged one once, captions processed"
    without = evaluate_judgments(model, split, judged, None, batch_size=2, workers=0, device=CPU)
    assert list(without["all"]) == ["itc", "itm"]


@pytest.mark.parametrize(
    ("shares_tower", "transform", "view"),
    [
        (True, "the model's view", "image_tokens"),
        (True, "another view", "judge_image"),
        (False, "the model's view", "judge_image"),
    ],
)
def test_con_d_sees_shared_tokens_or_its_own_view(
    shares_tower: bool, transform: str, view: str, written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgments, "IMAGE_BLOCK", 2)
    split, con_d = split_of(SPLIT, OneHot()), FakeConD(shares_tower, transform)
    judged = read_judged_pairs(written(ROWS), split.table)
    found = evaluate_judgments(FakeModel(), split, judged, con_d, batch_size=8, workers=0, device=CPU)
    assert found["all"]["con_d"] == figures(2 / 6, (1 / 3 + 2 / 4) / 2, 5, 2)
    assert con_d.seen == [(view, 2), (view, 1)], "every image once"


class Noise:
    """A view of 16 pixels for each record."""

    transform = "noise"

    def __call__(self, record: int) -> torch.Tensor:
        return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(record))


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_a_real_con_d_of_equal_weights_scores_as_the_model_does(shared: bool, written: Any) -> None:
    from lavis_mafa.scorers.con_d import ItmScorer, share_tower

    lavis_mafa.register()
    model, split = loud(tiny_blip2(vit={"freeze_vit": True})), split_of(SPLIT, Noise())
    texts = dict(zip("XYZ", CAPTIONS, strict=False))
    judged = read_judged_pairs(written([{**each, "caption": texts[each["caption"]]} for each in ROWS]), split.table)
    gallery = encode_gallery(model, Subset(split, judged.record_I.tolist()), 2, 0, CPU, judged.captions)
    logits = match_scores(model, gallery, judged.pairs["image"].to_numpy(), judged.pairs["text"].to_numpy(), CPU)
    con_d = ItmScorer(loud(tiny_blip2()), "any", Noise(), str.lower)
    if shared:
        share_tower(con_d, model)
        split.open_image = None  # shared tokens serve
    p_P = con_d_scores(con_d, split, judged, gallery, CPU)
    assert con_d.shares_tower is shared and p_P.std() > 0.1
    np.testing.assert_allclose(p_P, torch.from_numpy(logits).softmax(1)[:, 1], atol=1e-5)


def judged_on_rank(rank: int, world: int, file: Path, shared: bool) -> dict[str, Any]:
    from lavis_mafa.scorers.con_d import ItmScorer

    split = split_of(SPLIT, Noise())
    con_d = ItmScorer(loud(tiny_blip2(), seed=1), "any", Noise(), str.lower, shares_tower=shared)
    judged, model = read_judged_pairs(file, split.table), loud(tiny_blip2())
    return evaluate_judgments(model, split, judged, con_d, batch_size=2, workers=0, device=CPU)


@pytest.mark.parametrize("shared", [True, False])
def test_ranks_share_the_judged_pairs(shared: bool, written: Any, tmp_path: Path) -> None:
    texts = dict(zip("XYZ", CAPTIONS, strict=False))
    file = written([{**each, "caption": texts[each["caption"]]} for each in ROWS])
    alone = judged_on_rank(0, 1, file, shared)
    assert on_ranks(2, tmp_path, judged_on_rank, file, shared) == [alone, alone]
    assert all(alone["all"][scorer]["pairs"] == 5 for scorer in ("itc", "itm", "con_d"))


def bad(**changes: Any) -> list[Any]:
    """The rows, the second one changed; a key set to ... is removed."""
    changed = {key: value for key, value in {**ROWS[1], **changes}.items() if value is not ...}
    return [ROWS[0], changed, *ROWS[2:]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROWS[0], ["a.jpg", "X"]], r"judged\.json, row 2: a row must be an object"),
        (bad(caption=...), r"judged\.json, row 2: 'caption' must be a non-empty string"),
        (bad(image=7), "row 2: 'image' must be a non-empty string"),
        (bad(caption=" "), "row 2: 'caption' must be a non-empty string"),
        (bad(label=2), "row 2: 'label' must be from 0"),
        (bad(cf_yes=..., cf_no=..., label=...), "row 2: lacks a judgement"),
        (bad(cf_yes=-1), "row 2: 'cf_yes' must be a count"),
        (bad(expert=[4, 5]), "row 2: 'expert' must be a list of grades"),
        (ROWS[2:], r"judged\.json: there must be pairs of kind false_negative"),
        ([], "has no pair about an image of the split"),
        ('[{"image": "a.jpg"', r"judged\.json: broken JSON at line 1"),
        ({"a": 1}, r"judged\.json, line 1: no image column"),
    ],
)
def test_what_is_wrong_with_a_file_is_reported(rows: Any, message: str, written: Any) -> None:
    with pytest.raises(ValueError, match=message):
        read_judged_pairs(written(rows), split_of(SPLIT, OneHot()).table)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.judged_pairs: no file at .*none\.json"):
        read_judged_pairs(tmp_path / "none.json", split_of(SPLIT, OneHot()).table)


def test_a_choice_without_both_labels_is_left_out(written: Any) -> None:
    rows = [each for each in ROWS if each not in (ROWS[0], ROWS[5])]  # no unanimous match is left
    judged = read_judged_pairs(written(rows), split_of(SPLIT, OneHot()).table)
    assert list(judged.selections()) == ["all", "any_kind"]


def test_the_judge_is_the_one_that_mined_else_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from lavis_mafa.scorers import con_d
    from lavis_mafa.scorers.con_d import ItmScorer

    lavis_mafa.register()
    student, split = tiny_blip2(vit={"freeze_vit": True}), split_of(SPLIT, OneHot())
    built = ItmScorer(tiny_blip2(), "any", OneHot(), str.lower)
    monkeypatch.setattr(con_d, "build_con_d", lambda *given: built)
    named = OmegaConf.create({"arch": "mafa_blip2"})
    assert configured_judge(student, None, split, CPU) is None
    for arch in ("file", "self", "open_clip"):  # they judge in training alone
        assert configured_judge(student, OmegaConf.create({"arch": arch}), split, CPU) is None
    assert configured_judge(student, named, split, CPU) is built
    assert built.shares_tower
    student.miner.scorer = ItmScorer(tiny_blip2(), "mined", OneHot(), str.lower)
    assert configured_judge(student, named, split, CPU).fingerprint == "mined"


def test_the_real_file(shared_data: Path) -> None:
    folder = shared_data / "flickr8k"
    table = RecordTable.from_rows(read_annotations(folder / "flickr8k_test.json"), "flickr8k")
    judged = read_judged_pairs(folder / "fn_benchmark.json", table)
    rows = json.loads((folder / "fn_benchmark.json").read_text())
    pairs = judged.pairs
    assert len(pairs) == len(rows) == 9551
    assert (len(judged.record_I), len(judged.captions)) == (1000, 1000)
    kinds = pairs["kind"].value_counts().to_dict()
    assert kinds == {"false_negative": 2216, "hard_true_negative": 4619, "true_negative": 2000, "original": 716}
    for at in (0, 4321, 9550):
        pair = pairs.iloc[at]
        assert table.image(judged.record_I[pair["image"]]) == rows[at]["image"]
        assert judged.captions[pair["text"]] == rows[at]["caption"]
    counts = {name: (int(mask.sum()), int(pairs["label"][mask].sum())) for name, mask in judged.selections().items()}
    assert counts == {  # (pairs, matches), counted beside from the rows' votes
        "all": (2216 + 4619, 2216),
        "unanimous": (5297, 779),
        "any_kind": (9551, 2932),
        "any_kind_unanimous": (7847, 1329),
    }
