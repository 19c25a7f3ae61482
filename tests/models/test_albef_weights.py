"""Official ALBEF, GRIT-VLP and MAFA .pth layouts and LAVIS', as student and as Con-D. The files are synthetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from lavis_mafa.core.settings import MafaSettings
from tests.models.tiny import VOCAB, loud
from tests.models.tiny_albef import ALBEF_BERT, lavis_albef, tiny_mafa_albef, tiny_vit

SCENES = {"arch": "mafa_albef", "model_type": "scenes"}


def of_pretraining(model: Any) -> dict[str, Any]:
    """What ALBEF's and GRIT-VLP's Pretrain.py save: `bert.` names, the MLM head, momentum copies and queues."""
    theirs = lavis_albef(model)
    return {
        "model": theirs.state_dict(),
        "optimizer": {"state": {}},
        "lr_scheduler": {},
        "config": {"queue_size": 12},
        "epoch": 19,
    }


def of_retrieval(state: dict[str, Any]) -> dict[str, Any]:
    """What Retrieval.py saves: no `bert.`, no MLM head, momentum copies, its own queues."""
    plain = {
        key.replace("text_encoder.bert.", "text_encoder."): value for key, value in state.items() if ".cls." not in key
    }
    copies = {
        key.replace(".", "_m.", 1): value
        for key, value in plain.items()
        if "." in key and not key.startswith("itm_head")
    }
    queues = {
        "image_queue": torch.zeros(4, 8),
        "text_queue": torch.zeros(4, 8),
        "idx_queue": torch.zeros(1, 8),
        "ptr_queue": torch.zeros(1),
    }
    return {"model": {**plain, **copies, **queues}, "epoch": 4}


def load(model: Any, content: dict[str, Any], folder: Path, may_miss: tuple[str, ...] = ()) -> Any:
    from lavis_mafa.models.albef.parts import adapt_albef
    from lavis_mafa.models.pretrained import load_checkpoint

    torch.save(content, folder / "weights.pth")
    return load_checkpoint(model, str(folder / "weights.pth"), adapt_albef, may_miss)


def changed(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return model


def assert_same(model: Any, other: Any, but: tuple[str, ...] = ()) -> None:
    expected = other.state_dict()
    for key, value in model.state_dict().items():
        if key not in but:
            torch.testing.assert_close(value, expected[key], msg=key)


def test_pretraining_file_loads_without_its_momentum_part(tmp_path: Path) -> None:
    source, model = changed(tiny_mafa_albef()), tiny_mafa_albef()
    fit = load(model, of_pretraining(source), tmp_path)
    assert_same(model, source)
    assert not fit.missing and not fit.unexpected


def test_positions_are_interpolated_to_another_resolution(tmp_path: Path) -> None:
    from lavis.models.vit import interpolate_pos_embed

    source, model = tiny_mafa_albef(image_size=32), tiny_mafa_albef(image_size=16)
    load(model, of_pretraining(source), tmp_path)
    assert_same(model, source, but=("visual_encoder.pos_embed",))
    expected = interpolate_pos_embed(source.visual_encoder.pos_embed, model.visual_encoder)
    assert expected.shape == (1, 5, 32)
    torch.testing.assert_close(model.visual_encoder.pos_embed, expected)


def test_retrieval_file_lacks_the_mlm_head_and_says_so(tmp_path: Path) -> None:
    content = of_retrieval(changed(tiny_mafa_albef()).state_dict())
    with pytest.raises(ValueError, match="missing: text_encoder.cls.predictions.bias"):
        load(tiny_mafa_albef(), content, tmp_path)


def test_every_gap_is_reported_key_by_key_and_nothing_is_loaded(tmp_path: Path) -> None:
    content, model = of_pretraining(changed(tiny_mafa_albef())), tiny_mafa_albef()
    del (
        content["model"]["itm_head.bias"],
        content["model"]["text_encoder.bert.encoder.layer.3.crossattention.self.key.weight"],
    )
    content["model"]["text_encoder.bert.pooler.dense.weight"] = torch.zeros(2)
    with pytest.raises(ValueError) as error:
        load(model, content, tmp_path)
    for reported in (
        "missing: itm_head.bias",
        "missing: text_encoder.bert.encoder.layer.3",
        "unexpected: text_encoder.bert.pooler",
    ):
        assert reported in str(error.value)
    assert_same(model, tiny_mafa_albef())


def test_our_weights_load_in_plain_lavis(tmp_path: Path) -> None:
    ours = changed(tiny_mafa_albef())
    theirs = lavis_albef(tiny_mafa_albef())
    torch.save({"model": ours.state_dict()}, tmp_path / "ours.pth")
    message = theirs.load_from_pretrained(str(tmp_path / "ours.pth"), rename_text_keys=False)
    assert not message.unexpected_keys
    assert all("_m." in key or "queue" in key for key in message.missing_keys)
    assert_same(ours, theirs)


def test_deit_file_starts_the_tower_at_another_resolution(tmp_path: Path) -> None:
    from lavis.models.vit import VisionTransformerEncoder

    from lavis_mafa.models.albef.parts import build_visual_encoder

    deit = tiny_vit(32)
    heads = {"head.weight": torch.zeros(10, 32), "head.bias": torch.zeros(10)}
    torch.save({"model": {**deit.state_dict(), **heads}}, tmp_path / "deit.pth")
    with mock.patch.object(VisionTransformerEncoder, "from_config", lambda cfg: tiny_vit(16)):
        tower = build_visual_encoder({}, str(tmp_path / "deit.pth"))
    assert_same(tower, deit, but=("pos_embed",))
    assert tower.pos_embed.shape == (1, 5, 32)
    torch.testing.assert_close(tower.pos_embed[:, 0], deit.pos_embed[:, 0])


def test_a_bert_that_is_not_there_is_reported_with_the_remedy(tmp_path: Path) -> None:
    from lavis_mafa.models.albef.parts import build_text_encoder

    with pytest.raises(ValueError, match="model.bert: .* local folder"):
        build_text_encoder({"text_encoder": ALBEF_BERT}, 32, 89, str(tmp_path / "nowhere"))


def test_text_encoder_starts_from_a_local_bert(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    from lavis_mafa.models.albef.parts import build_text_encoder

    widths = {**ALBEF_BERT, "vocab_size": 89}
    bert = BertForMaskedLM(BertConfig(**widths))
    bert.save_pretrained(tmp_path)
    ours = build_text_encoder({"text_encoder": ALBEF_BERT}, 32, 89, str(tmp_path))
    torch.testing.assert_close(ours.bert.embeddings.word_embeddings.weight, bert.bert.embeddings.word_embeddings.weight)
    torch.testing.assert_close(
        ours.bert.encoder.layer[3].output.dense.weight, bert.bert.encoder.layer[3].output.dense.weight
    )


# ---- as Con-D


def scenes_albef() -> Any:
    from omegaconf import OmegaConf

    from lavis_mafa.models.albef.pretrain import MafaAlbef

    torch.manual_seed(1)
    return MafaAlbef.from_config(OmegaConf.load(MafaAlbef.default_config_path("scenes")).model).eval()


@pytest.mark.parametrize("layout", ["pretraining", "retrieval"])
@torch.no_grad()
def test_con_d_from_an_official_file_scores_as_the_model_does(tmp_path: Path, layout: str) -> None:
    from lavis_mafa.scorers.con_d import build_con_d

    source = loud(scenes_albef())
    state = source.state_dict()
    torch.save(of_retrieval(state) if layout == "retrieval" else {"model": state}, tmp_path / "con_d.pth")
    scorer = build_con_d(
        {**SCENES, "load_finetuned": True, "finetuned": str(tmp_path / "con_d.pth")}, torch.device("cpu")
    )
    batch = {"judge_image": torch.randn(3, 3, 48, 48), "caption": ["A red circle.", "a big blue square", "two objects"]}
    image_K, text_K = torch.tensor([0, 2, 2, 1]), torch.tensor([1, 1, 0, 2])
    tokens = source.tokenize(["a red circle", "a big blue square", "two objects"])
    state = source.pair_state(source.visual_encoder(batch["judge_image"]), tokens)
    expected = source.match_logits(state, image_K, text_K).softmax(1)[:, 1]
    assert expected.std() > 0.01
    torch.testing.assert_close(scorer.score(batch, image_K, text_K), expected, atol=1e-5, rtol=0)


def test_con_d_refuses_a_file_without_a_matching_head(tmp_path: Path) -> None:
    from lavis_mafa.scorers.con_d import build_con_d

    state = {key: value for key, value in scenes_albef().state_dict().items() if not key.startswith("itm_head")}
    torch.save({"model": state}, tmp_path / "con_d.pth")
    with pytest.raises(ValueError, match="missing: itm_head.weight"):
        build_con_d({**SCENES, "load_finetuned": True, "finetuned": str(tmp_path / "con_d.pth")}, torch.device("cpu"))


def test_con_d_is_never_a_random_network_for_want_of_a_switch(tmp_path: Path) -> None:
    """`base` names published weights and does not load them by itself: a `finetuned` alone is loaded, or refused."""
    from lavis_mafa.scorers.con_d import build_con_d

    given = {"arch": "mafa_albef", "model_type": "base", "finetuned": str(tmp_path / "con_d.pth")}
    with pytest.raises(ValueError, match=r"no file at .*con_d\.pth"):
        build_con_d(given, torch.device("cpu"))


def test_one_frozen_tower_serves_student_and_con_d(tmp_path: Path) -> None:
    from lavis_mafa.scorers.con_d import build_con_d, share_tower

    student = scenes_albef()
    torch.save({"model": student.state_dict()}, tmp_path / "con_d.pth")
    scorer = build_con_d(
        {**SCENES, "load_finetuned": True, "finetuned": str(tmp_path / "con_d.pth")}, torch.device("cpu")
    )
    share_tower(scorer, student)
    assert scorer.shares_tower and scorer.model.visual_encoder is student.visual_encoder


# ---- full size


def test_base_has_the_shapes_of_lavis_albef_pretrain() -> None:
    from lavis.common.utils import get_abs_path
    from lavis.models.albef_models.albef_pretrain import AlbefPretrain
    from lavis.models.med import BertConfig, BertForMaskedLM
    from lavis.models.vit import VisionTransformerEncoder
    from omegaconf import OmegaConf

    from lavis_mafa.models.albef.pretrain import MafaAlbef

    cfg = OmegaConf.load(MafaAlbef.default_config_path("base")).model
    cfg.update(vit_weights=None, bert=None, vocab=str(VOCAB), text_encoder={"vocab_size": 30522})
    linspace = torch.linspace
    with torch.device("meta"), mock.patch("torch.linspace", lambda *args: linspace(*args, device="cpu")):
        ours = MafaAlbef.from_config(cfg)
        tower = VisionTransformerEncoder.from_config(
            {"vit_type": "base", "image_size": 256, "vit_layer_norm_epsilon": 1e-6}
        )
        config = BertConfig(
            **{**json.loads(Path(get_abs_path("configs/models/med_config_albef.json")).read_text()), "fusion_layer": 6}
        )
        with mock.patch.object(AlbefPretrain, "init_tokenizer", lambda self: ours.tokenizer):
            theirs = AlbefPretrain(tower, BertForMaskedLM(config), 128)
    shapes = {key: value.shape for key, value in theirs.state_dict().items() if "_m." not in key and "queue" not in key}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    assert ours.tokenizer and ours.max_txt_len == 25 and ours.mlm_probability == 0.5
    assert ours.mafa == MafaSettings(itc_gather=False, label_smoothing=0.0)
