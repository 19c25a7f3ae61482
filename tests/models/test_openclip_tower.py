import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform_v2
from PIL import Image

from lavis_mafa.models.towers.build import build_tower
from lavis_mafa.models.towers.openclip import TowerName, build_openclip_tower, create_openclip_model, image_settings
from tests.models.tiny import tiny_blip2
from tests.models.tiny_llm import language_model, stage_2

VISION = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
COCA = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
CONFIGS = {
    "tiny-vit": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-coca": {
        "embed_dim": 16,
        "vision_cfg": VISION | COCA,
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": TEXT | {"attn_pooler_heads": 2},
        "custom_text": True,
    },
    "tiny-resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TEXT,
    },
}


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    """{name: (whole model, file of its weights)}; open_clip knows the names from now on."""
    folder, made = tmp_path_factory.mktemp("open_clip"), {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(seed)
        model = open_clip.create_model(name).eval()
        torch.save(model.state_dict(), folder / f"{name}.pt")
        made[name] = model, folder / f"{name}.pt"
    return made


def after_block(visual, block, image):
    """What comes out of one of the tower's own blocks, by a hook in its plain forward."""
    kept = []
    handle = visual.transformer.resblocks[block].register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        visual(image)
    handle.remove()
    return kept[0]


TRUNKS = {  # as open_clip builds SigLIP's and EVA02's: a ViT of timm, image size, and how timm pools its tokens
    "siglip": ("test_vit3", 160, lambda trunk, tokens: trunk.fc_norm(trunk.attn_pool(tokens))),
    "eva02": ("eva02_tiny_patch14_224", 224, lambda trunk, tokens: trunk.fc_norm(tokens[:, 1:].mean(1))),
}


@pytest.mark.parametrize("kind", TRUNKS)
def test_the_tokens_of_siglip_and_eva02_are_those_that_open_clip_pools(kind, tmp_path):
    trunk, size, pooled = TRUNKS[kind]
    vision = {"image_size": size, "timm_model_name": trunk, "timm_model_pretrained": False, "timm_proj": "none"}
    vision["timm_pool"] = "map" if kind == "siglip" else "avg"
    width = {"siglip": 96, "eva02": 192}[kind]
    config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": {**TEXT, "width": 16}, "custom_text": True}
    (tmp_path / f"tiny-{kind}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"tiny-{kind}.json")
    model = open_clip.create_model(f"tiny-{kind}").eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    tower = build_tower(f"open_clip:tiny-{kind}/{tmp_path / 'weights.pt'}", size, None).eval()
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        tokens = tower(image)
        assert tokens.shape[::2] == (2, width)
        torch.testing.assert_close(pooled(model.visual.trunk, tokens), model.encode_image(image))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-coca"])
def test_a_vit_gives_the_tokens_of_its_last_block_but_one(models, name):
    model, file = models[name]
    image = torch.randn(2, 3, 32, 32)
    tower = build_tower(f"open_clip:{name}/{file}", 32, None).eval()
    with torch.no_grad():
        tokens = tower(image)
    assert tokens.shape == (2, 1 + 16, 32)
    assert torch.allclose(tokens, after_block(model.visual, 1, image), atol=1e-6)
    assert tower.num_features == 32
    assert not any("attn_pool" in key or "resblocks.2" in key for key in tower.state_dict())


def test_a_resnet_gives_its_last_feature_map(models):
    _, file = models["tiny-resnet"]
    tower = build_tower(f"open_clip:tiny-resnet/{file}", 64, None).eval()
    assert tower(torch.randn(2, 3, 64, 64)).shape == (2, 4, 8 * 32)


def test_the_weights_may_come_by_vit_weights_too(models):
    _, file = models["tiny-vit"]
    image = torch.randn(2, 3, 32, 32)
    one, other = build_tower("open_clip:tiny-vit", 32, str(file)), build_tower(f"open_clip:tiny-vit/{file}", 32, None)
    assert one.eval()(image).equal(other.eval()(image))
    assert one.source == other.source == str(file)
    assert build_tower("open_clip:tiny-vit", 32, None).source is None


def test_a_pretrained_tag_is_open_clips_to_fetch(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("LAVIS_MAFA_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **more: asked.append((*args, more["cache_dir"])))
    create_openclip_model(TowerName.parse("open_clip:ViT-L-14/datacomp_xl_s13b_b90k"), None)
    assert asked == [("ViT-L-14", "datacomp_xl_s13b_b90k", str(tmp_path / "open_clip"))]


def test_another_image_size_interpolates_the_positions(models):
    _, file = models["tiny-vit"]
    tower = build_tower(f"open_clip:tiny-vit/{file}", 48, None)
    assert tower(torch.randn(1, 3, 48, 48)).shape == (1, 1 + 36, 32)
    own = build_openclip_tower(f"open_clip:tiny-vit/{file}", None, None)
    assert own(torch.randn(1, 3, 32, 32)).shape == (1, 1 + 16, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tower_works_in_half_precision_and_under_autocast(models, dtype):
    _, file = models["tiny-vit"]
    tower = build_tower(f"open_clip:tiny-vit/{file}", 32, None).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exact = tower(image)
        with torch.autocast("cpu", dtype):
            mixed = tower(image)
        half = tower.to(dtype)(image.to(dtype))
    assert half.dtype == dtype
    assert torch.allclose(mixed.float(), exact, atol=0.1)
    assert torch.allclose(half.float(), exact, atol=0.1)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_q_former_trains_on_it(models, batch, frozen):
    _, file = models["tiny-vit"]
    model = tiny_blip2(vit={"vit_model": f"open_clip:tiny-vit/{file}", "img_size": 32, "freeze_vit": frozen})
    output = model({**batch, "image": torch.randn(6, 3, 32, 32), "epoch": 1})
    output.loss.backward()
    first = next(model.visual_encoder.parameters())
    assert output.loss.isfinite()
    assert (first.grad is None) == frozen
    assert model.ln_vision.weight.grad.abs().sum() > 0
    assert model.tower_has_weights == frozen
    assert model.part_files["visual_encoder"] == str(file)


@pytest.mark.parametrize("kind", ["opt", "t5"])
@pytest.mark.parametrize("frozen", [True, False])
def test_stage_2_tells_what_it_sees_through_it(models, batch, kind, frozen, tmp_path):
    vit_model = f"open_clip:tiny-vit/{models['tiny-vit'][1]}"
    model = stage_2(kind, language_model(kind, tmp_path), vit_model=vit_model, image_size=32, freeze_vit=frozen)
    samples = {"image": torch.randn(2, 3, 32, 32), "text_input": batch["text_input"][:2]}
    model(samples)["loss"].backward()
    seen = any(value.grad is not None and value.grad.abs().sum() > 0 for value in model.visual_encoder.parameters())
    assert seen != frozen
    assert len(model.generate(samples, num_beams=2, max_length=4)) == 2


def test_size_mean_and_std_are_open_clips_own():
    base = image_settings("open_clip:ViT-B-16/datacomp_xl_s13b_b90k")
    assert base["size"] == 224
    assert base["mean"] == open_clip.OPENAI_DATASET_MEAN
    large = image_settings("open_clip:ViT-L-14-336/openai")
    assert large["size"] == 336
    inception = image_settings("open_clip:ViT-H-14-CLIPA/datacomp1b")
    assert tuple(inception["mean"]) != open_clip.OPENAI_DATASET_MEAN
    assert inception["resize_mode"] == "squash"


def test_the_processors_prepare_images_as_open_clip_does():
    from lavis.common.registry import registry

    name = "open_clip:ViT-H-14-CLIPA/datacomp1b"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    evaluate = registry.get_processor_class("open_clip_image_eval").from_config({"vit_model": name})
    assert evaluate(image).equal(image_transform_v2(TowerName.parse(name).preprocessing, is_train=False)(image))
    train = registry.get_processor_class("open_clip_image_train").from_config({"vit_model": name, "image_size": 64})
    assert train(image).shape == (3, 64, 64)
    assert tuple(train.normalize.mean) == tuple(image_settings(name)["mean"])
    with pytest.raises(ValueError, match="set vit_model"):
        registry.get_processor_class("open_clip_image_eval").from_config({})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-L14/openai", "did you mean ViT-L-14"),
        ("open_clip:ViT-B-32/laion3b", "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-16-SigLIP/webly", "webli"),
    ],
)
def test_what_cannot_work_is_reported_before_anything_is_fetched(name, message, monkeypatch):
    monkeypatch.setattr(open_clip, "create_model", None)
    with pytest.raises(ValueError, match=message):
        build_tower(name, 224, None)


def test_weights_of_another_model_are_refused(models):
    _, file = models["tiny-coca"]
    with pytest.raises(ValueError, match="does not fit tiny-vit"):
        build_tower(f"open_clip:tiny-vit/{file}", 32, None)
