"""Con-D: scores as LAVIS gives them, each image encoded once, outside the student, and never silently random."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.settings import MafaSettings
from tests.models.tiny import CAPTIONS, lavis_blip2, loud, tiny_albef, tiny_blip2, tiny_blip_itm

RAW = [
    caption.title() + "!" for caption in CAPTIONS
]  # what an annotation holds; a network's own processor makes CAPTIONS of it
IMAGE_K = torch.tensor([2, 0, 2, 5, 1, 2, 0])
TEXT_K = torch.tensor([1, 0, 4, 3, 2, 5, 2])


def logits_by_forward(model: Any, images: Tensor, captions: list[str]) -> Tensor:
    """LAVIS' own forward of its matching models, pair by pair: blip2's tokenizer does not even pad."""
    sample = [{"image": image[None], "text_input": [caption]} for image, caption in zip(images, captions, strict=True)]
    return torch.cat([model(one, match_head="itm") for one in sample])


def p_by_forward(model: Any, images: Tensor, image_K: Tensor, text_K: Tensor) -> Tensor:
    return logits_by_forward(model, images[image_K], [CAPTIONS[text] for text in text_K]).softmax(1)[:, 1]


def p_by_lavis_blip2(ours: Any, images: Tensor, image_K: Tensor, text_K: Tensor) -> Tensor:
    return p_by_forward(lavis_blip2(ours, "blip2_image_text_matching").eval(), images, image_K, text_K)


def p_by_retrieval(model: Any, images: Tensor, image_K: Tensor, text_K: Tensor) -> Tensor:
    """LAVIS' compute_sim_matrix, made to tell log-odds: the head's second output less the first, and no ITC."""
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.itm_head.parameters():
            parameter[1] -= parameter[0]
        for parameter in other.vision_proj.parameters():
            parameter.zero_()
    loader = mock.MagicMock(dataset=SimpleNamespace(text=CAPTIONS, image=list(range(len(images)))))
    loader.__iter__.return_value = iter([{"image": images}])
    i2t, t2i = other.compute_sim_matrix(loader, SimpleNamespace(k_test=len(CAPTIONS)))
    assert abs(i2t - t2i.T).max() < 1e-4
    return torch.from_numpy(i2t)[image_K, text_K].sigmoid()


def lavis_itm() -> Any:
    return lavis_blip2(arch="blip2_image_text_matching")


NETWORKS = {
    "blip2_image_text_matching": (lavis_itm, p_by_forward, 16),
    "mafa_blip2": (tiny_blip2, p_by_lavis_blip2, 16),
    "albef_retrieval": (tiny_albef, p_by_retrieval, 32),
    "blip_image_text_matching": (tiny_blip_itm, p_by_forward, 32),
}


def scorer_of(model: Any, **options: Any) -> Any:
    from lavis.processors.blip_processors import BlipCaptionProcessor

    from lavis_mafa.scorers.con_d import ItmScorer

    return ItmScorer(model, "print", lambda image: image, BlipCaptionProcessor(), **options)


def of_view(size: int) -> dict[str, Any]:
    """A batch whose student sees other pixels than Con-D, and another processor's captions."""
    generator = torch.Generator().manual_seed(5)
    clean = torch.randn(len(RAW), 3, size, size, generator=generator)
    return {
        "image": torch.zeros(len(RAW), 3, 16, 16),
        "judge_image": clean,
        "caption": RAW,
        "text_input": ["?"] * len(RAW),
    }


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_scores_are_lavis_scores(name: str) -> None:
    build, reference, size = NETWORKS[name]
    model, batch = loud(build()), of_view(size)
    expected = reference(model, batch["judge_image"], IMAGE_K, TEXT_K)
    assert expected.std() > 0.01  # the network tells pairs apart
    found = scorer_of(model).score(batch, IMAGE_K, TEXT_K)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(scorer_of(model, chunk=2).score(batch, IMAGE_K, TEXT_K), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_image_is_encoded_once(name: str) -> None:
    build, _, size = NETWORKS[name]
    scorer = scorer_of(build(), chunk=2)
    rows: list[int] = []
    first = next(module for module in scorer.model.visual_encoder.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    scorer.score(of_view(size), IMAGE_K, TEXT_K)
    assert rows == [4]  # images 0, 1, 2 and 5, in one pass


@torch.no_grad()
def test_shared_tower_tokens_give_the_scores_of_the_image(batch: dict[str, Any]) -> None:
    model = loud(tiny_blip2())
    expected = scorer_of(model).score(batch, IMAGE_K, TEXT_K)
    tokens = model.visual_encoder(batch["image"])
    with mock.patch.object(model.visual_encoder, "forward", side_effect=AssertionError("the tower runs again")):
        shared = scorer_of(model, shares_tower=True)
        found = shared.score({**batch, "image_tokens": tokens}, IMAGE_K, TEXT_K)
        rough = shared.score({**batch, "image_tokens": tokens.bfloat16()}, IMAGE_K, TEXT_K)  # a tower under autocast
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(rough, expected, atol=0.05, rtol=0)


def test_the_student_does_not_hold_con_d() -> None:
    student, scorer = tiny_blip2(), scorer_of(tiny_blip2().train())
    keys, names = set(student.state_dict()), {name for name, _ in student.named_parameters()}
    student.miner = ConnectionMiner(student.mafa, scorer)
    student.train()
    assert set(student.state_dict()) == keys and {name for name, _ in student.named_parameters()} == names
    assert not any(module.training for module in scorer.model.modules())
    assert not any(parameter.requires_grad for parameter in scorer.model.parameters())


# ---- its precision


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tower_in_bf16_has_its_head_in_float32_and_scores_of_its_own(name: str) -> None:
    from lavis_mafa.scorers.con_d import lower_tower

    build, _, size = NETWORKS[name]
    model, batch = loud(build()), of_view(size)
    exact, low = scorer_of(model), scorer_of(deepcopy(model))
    lower_tower(low)
    expected = exact.score(batch, IMAGE_K, TEXT_K)
    dtypes: dict[str, set[torch.dtype]] = {"tower": set(), "head": set()}

    def note(part: str) -> Any:
        return lambda module, args, output: dtypes[part].add(output.dtype)

    for part, module in (("tower", low.model.visual_encoder), ("head", low.model.itm_head)):
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(note(part))
    with torch.autocast("cpu", torch.bfloat16):  # of the step around it
        found = low.score(batch, IMAGE_K, TEXT_K)
    assert dtypes["head"] == {torch.float32} and torch.bfloat16 in dtypes["tower"] and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert not torch.equal(found, expected) and low.fingerprint == f"{exact.fingerprint}:bf16"


def test_its_precision_is_asked_for_or_that_of_the_device(medium: Any, tmp_path: Any) -> None:
    from lavis_mafa.scorers.con_d import tower_precision
    from lavis_mafa.scorers.registry import ScorerRequest, build_scorer

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [tower_precision({}, device, "run.con_d") for device in (cpu, gpu)] == ["fp32", "bf16"]
    assert tower_precision({"precision": "fp32"}, gpu, "run.con_d") == "fp32"
    make, config = medium["albef"]
    config = config_of(tmp_path / "weights.pth", loud(make()), config)
    scorer = build_scorer(ScorerRequest({**config, "precision": "bf16"}, "run.con_d", cpu, MafaSettings()))
    plain = build_scorer(ScorerRequest(config, "run.con_d", cpu, MafaSettings()))
    assert scorer.fingerprint == f"{plain.fingerprint}:bf16" and scorer.precision == "bf16"
    with pytest.raises(ValueError, match=r"run\.con_d\.precision is 'fp16': allowed is fp32 or bf16"):
        build_scorer(ScorerRequest({**config, "precision": "fp16"}, "run.con_d", cpu, MafaSettings()))


# ---- one tower for both


def frozen_student() -> Any:
    return loud(tiny_blip2(vit={"freeze_vit": True}))


@pytest.mark.parametrize(
    ("student", "same_weights", "shared"), [("frozen", True, True), ("frozen", False, False), ("trained", True, False)]
)
def test_tower_is_shared_where_it_is_frozen_and_the_same(student: str, same_weights: bool, shared: bool) -> None:
    from lavis_mafa.scorers.con_d import share_tower

    own = loud(tiny_blip2(vit={"freeze_vit": student == "frozen"}))
    scorer = scorer_of(loud(tiny_blip2(), seed=0 if same_weights else 1))
    share_tower(scorer, own)
    assert scorer.shares_tower is shared
    assert (scorer.model.visual_encoder is own.visual_encoder) is shared


def test_other_networks_share_no_tower() -> None:
    from lavis_mafa.scorers.con_d import share_tower

    scorer = scorer_of(tiny_albef())
    share_tower(scorer, frozen_student())
    assert not scorer.shares_tower


@pytest.mark.parametrize("same_view", [True, False])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("same_weights", [True, False])
def test_task_gives_con_d_what_it_reads(
    same_view: bool, cached: bool, same_weights: bool, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever tower, view and cache: the batch that the data set makes holds what Con-D then reads."""
    from lavis_mafa.scorers import con_d
    from lavis_mafa.tasks.pretrain import MafaPretrainTask

    scorer = scorer_of(loud(tiny_blip2(), seed=0 if same_weights else 1))
    scorer.vis_processor = SimpleNamespace(transform="view")
    monkeypatch.setattr(con_d, "build_con_d", lambda *given: scorer)
    data = SimpleNamespace(vis_processor=SimpleNamespace(transform="view" if same_view else "other"), judge_view=None)
    data.tokens = "on disk" if cached else None
    task = MafaPretrainTask(OmegaConf.create({"con_d": {"arch": "mafa_blip2"}}))
    assert task.build_scorer(frozen_student(), data, torch.device("cpu")) is scorer
    made = {key: value for key, value in batch.items() if "image" not in key}
    made["image_tokens"] = torch.randn(6, 5, 128)  # the student's forward leaves them in the batch
    made |= {} if cached else {"image": batch["image"]}
    made |= {"judge_image": batch["image"]} if data.judge_view else {}
    assert len(ConnectionMiner(MafaSettings(), scorer)._score(made, IMAGE_K, TEXT_K)) == len(IMAGE_K)
    assert scorer.shares_tower is (same_view and same_weights)
    assert (data.judge_view is None) is (same_view and (same_weights or not cached))


# ---- building from a config


@pytest.fixture
def medium(tmp_path: Any) -> Any:
    """Config keys that make LAVIS' ALBEF and BLIP tiny, and a folder for their checkpoints."""
    import json

    from lavis.models.vit import VisionTransformerEncoder

    from tests.models.tiny import MED, MED_ALBEF, VOCAB, tiny_vit

    for name, med in (("albef", MED_ALBEF), ("blip", MED)):
        (tmp_path / f"{name}.json").write_text(json.dumps(med))
    tiny = mock.patch.object(VisionTransformerEncoder, "from_config", lambda cfg, from_pretrained=False: tiny_vit())
    keys = {"vocab": str(VOCAB), "embed_dim": 16, "queue_size": 8, "max_txt_len": 30, "image_size": 32}
    archs = {
        "albef": ("albef_retrieval", "coco", tiny_albef),
        "blip": ("blip_image_text_matching", "base", tiny_blip_itm),
    }
    with tiny:
        yield {
            name: (make, {"arch": arch, "model_type": kind, "med_config_path": str(tmp_path / f"{name}.json"), **keys})
            for name, (arch, kind, make) in archs.items()
        }


def config_of(path: Any, model: Any, config: dict[str, Any], edit: Any = None) -> dict[str, Any]:
    """The config with a checkpoint of `model`, less or other than it should be after `edit(state)`."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if edit is not None:
        edit(state)
    torch.save({"model": state}, path)
    return {**config, "load_finetuned": True, "finetuned": str(path)}


def build(config: dict[str, Any]) -> Any:
    from lavis_mafa.scorers.con_d import build_con_d

    return build_con_d(config, torch.device("cpu"))


@pytest.mark.parametrize("name", ["albef", "blip"])
@torch.no_grad()
def test_lavis_con_d_from_its_checkpoint(name: str, medium: Any, tmp_path: Any) -> None:
    make, config = medium[name]
    model = loud(make())
    reference = p_by_retrieval if name == "albef" else p_by_forward
    scorer = build(config_of(tmp_path / "weights.pth", model, config))
    batch = of_view(32)
    torch.testing.assert_close(
        scorer.score(batch, IMAGE_K, TEXT_K), reference(model, batch["judge_image"], IMAGE_K, TEXT_K), atol=1e-5, rtol=0
    )
    unread = [key for key in model.state_dict() if "_m." in key or "queue" in key]
    assert bool(unread) is (name == "albef") and not {*unread} & {*scorer.model.state_dict()}
    other = build(config_of(tmp_path / "other.pth", loud(make(), seed=1), config))
    again = build(config_of(tmp_path / "again.pth", model, config))
    assert scorer.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("key", ["pretrained", "finetuned"])
def test_official_albef_names_are_read(key: str, medium: Any, tmp_path: Any) -> None:
    """LAVIS' load_from_pretrained renames the authors' `text_encoder.bert.…` and interpolates; token types it drops."""
    make, config = medium["albef"]
    model = loud(make())
    bert = "text_encoder.bert." if key == "pretrained" else "text_encoder."
    state = {name.replace("text_encoder.", bert): value for name, value in model.state_dict().items()}
    row, positions = torch.randn(32), "text_encoder.embeddings.position_embeddings.weight"
    state[f"{bert}embeddings.token_type_embeddings.weight"] = torch.stack([row, torch.randn(32)])
    torch.save({"model": state}, tmp_path / "ALBEF.pth")
    scorer = build({**config, "load_finetuned": key == "finetuned", key: str(tmp_path / "ALBEF.pth")})
    expected = {key: value for key, value in model.state_dict().items() if "_m." not in key and "queue" not in key}
    expected[positions] = expected[positions] + row
    assert scorer.model.state_dict().keys() == expected.keys()
    for name, value in scorer.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


@pytest.mark.parametrize("name", ["albef", "blip"])
def test_lavis_con_d_with_nan_is_refused(name: str, medium: Any, tmp_path: Any) -> None:
    make, config = medium[name]

    def diverge(state: dict[str, Tensor]) -> None:
        state["itm_head.weight"][0, 0] = torch.nan

    with pytest.raises(ValueError, match=r"run\.con_d: .*weights\.pth has NaN or infinity in itm_head\.weight"):
        build(config_of(tmp_path / "weights.pth", make(), config, diverge))


@pytest.mark.parametrize("name", ["albef", "blip"])
def test_lavis_con_d_from_a_pointer_of_git_lfs_is_named(name: str, medium: Any, tmp_path: Any) -> None:
    (tmp_path / "weights.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    config = {**medium[name][1], "load_finetuned": True, "finetuned": str(tmp_path / "weights.pth")}
    with pytest.raises(ValueError, match=r"run\.con_d: .*weights\.pth is a pointer of git-lfs"):
        build(config)


def drop(key: str) -> Any:
    return lambda state: state.pop(key)


def cut(key: str) -> Any:
    return lambda state: state.update({key: state[key][:-1]})


@pytest.mark.parametrize("name", ["albef", "blip"])
@pytest.mark.parametrize("edit", [drop, cut])
def test_lavis_con_d_that_fits_in_part_is_refused(name: str, edit: Any, medium: Any, tmp_path: Any) -> None:
    make, config = medium[name]
    with pytest.raises(ValueError, match="itm_head.weight"):
        build(config_of(tmp_path / "weights.pth", make(), config, edit("itm_head.weight")))


def test_momentum_copies_and_queues_may_miss(medium: Any, tmp_path: Any) -> None:
    make, config = medium["albef"]

    def slim(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if "_m." in key or "queue" in key]:
            del state[key]

    whole = make()
    scorer = build(config_of(tmp_path / "weights.pth", whole, config, slim))
    assert torch.equal(scorer.model.itm_head.weight, whole.itm_head.weight)


@pytest.mark.parametrize(("frozen", "fits"), [(True, True), (False, False)])
def test_lavis_blip2_may_lack_its_tower_only_where_it_is_frozen(frozen: bool, fits: bool, tmp_path: Any) -> None:
    from tests.models.tiny import hub_stand_ins

    def towerless(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if key.startswith("visual_encoder.")]:
            del state[key]

    config = {
        "arch": "blip2_image_text_matching",
        "model_type": "pretrain",
        "freeze_vit": frozen,
        "vit_precision": "fp32",
    }
    # LAVIS' from_config reads no embed_dim: its default, 256, is in every published checkpoint
    with hub_stand_ins():
        from lavis.common.registry import registry

        model = registry.get_model_class("blip2")("any", 16, vit_precision="fp32", num_query_token=32)
        config = config_of(tmp_path / "weights.pth", model, config, towerless)
        if fits:
            build(config)
        else:
            with pytest.raises(ValueError, match="visual_encoder"):
                build(config)


@pytest.mark.parametrize("edit", [drop, cut])
def test_our_con_d_that_fits_in_part_is_refused(edit: Any, tmp_path: Any) -> None:
    from lavis.models import load_model

    student = load_model("mafa_blip2", "scenes")
    config = {"arch": "mafa_blip2", "model_type": "scenes"}
    assert build(config_of(tmp_path / "whole.pth", student, config)).fingerprint
    with pytest.raises(ValueError, match="itm_head.weight"):
        build(config_of(tmp_path / "torn.pth", student, config, edit("itm_head.weight")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"arch": "albef_retrival", "model_type": "coco"}, "albef_retrieval"),
        ({"arch": "mafa_blip2", "model_type": "sceens"}, "scenes"),
        ({"arch": "mafa_blip2"}, "model_type None"),
        ({}, "arch None"),
        ({"arch": "mafa_blip2", "model_type": "scenes"}, "has no weights"),
        ({"arch": "mafa_blip2", "model_type": "scenes", "load_finetuned": True, "finetuned": "gone.pth"}, "gone.pth"),
    ],
)
def test_config_that_names_no_network_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config)


@pytest.mark.parametrize("content", ["gone", "torn", "code"])
def test_lavis_con_d_from_an_unreadable_file_is_refused(content: str, medium: Any, tmp_path: Any) -> None:
    _, config = medium["blip"]
    path = tmp_path / "weights.pth"
    if content == "torn":
        path.write_bytes(b"PK\x03\x04 torn")
    elif content == "code":
        torch.save({"model": {}, "with": SimpleNamespace()}, path)
    with pytest.raises(ValueError, match="weights.pth"):
        build({**config, "load_finetuned": True, "finetuned": str(path)})
