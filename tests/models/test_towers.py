"""Vision towers from torchvision and timm: tokens, weights from a local file, frozen or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lavis_mafa.models.towers.build import build_tower
from tests.models.tiny import QFORMER, VOCAB, tiny_blip2

Head = Callable[[Any, Tensor], Tensor]  # a network's own classifier, on tokens (B, L, V)
TOWERS: dict[str, tuple[int, int, int, Head]] = {  # image size, L, V, and how the network itself reads its tokens
    "torchvision:resnet18": (64, 4, 512, lambda net, tokens: net.fc(tokens.mean(1))),
    "torchvision:mobilenet_v2": (96, 9, 1280, lambda net, tokens: net.classifier(tokens.mean(1))),
    "torchvision:regnet_y_400mf": (64, 4, 440, lambda net, tokens: net.fc(tokens.mean(1))),
    "torchvision:swin_t": (64, 4, 768, lambda net, tokens: net.head(tokens.mean(1))),
    "torchvision:vit_b_16": (224, 197, 768, lambda net, tokens: net.heads(tokens[:, 0])),
    "timm:resnet18": (64, 4, 512, lambda net, tokens: net.fc(tokens.mean(1))),
    "timm:vit_tiny_patch16_224": (224, 197, 192, lambda net, tokens: net.head(tokens[:, 0])),
    "timm:swin_tiny_patch4_window7_224": (224, 49, 768, lambda net, tokens: net.head(tokens.unflatten(1, (7, 7)))),
    "timm:eva02_tiny_patch14_224": (224, 257, 192, lambda net, tokens: net.head(net.fc_norm(tokens[:, 1:].mean(1)))),
    "timm:test_vit3": (160, 101, 96, lambda net, tokens: net.head(net.fc_norm(net.attn_pool(tokens)))),  # as SigLIP's
    "timm:deit_tiny_distilled_patch16_224": (
        224,
        198,
        192,
        lambda net, tokens: (net.head(tokens[:, 0]) + net.head_dist(tokens[:, 1])) / 2,
    ),
}


def whole_network(name: str) -> Any:
    import timm
    from torchvision import models

    kind, _, model_name = name.partition(":")
    return (timm.create_model(model_name) if kind == "timm" else models.get_model(model_name)).eval()


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_tokens_are_those_the_network_classifies_by(name: str) -> None:
    size, tokens, width, head = TOWERS[name]
    torch.manual_seed(0)
    tower = build_tower(name, size, None).eval()
    assert tower.num_features == width
    image = torch.randn(2, 3, size, size)
    found = tower(image)
    assert found.shape == (2, tokens, width)
    net = whole_network(name)
    net.load_state_dict(tower.net.state_dict(), strict=False)  # all but the classifier, which the tower has dropped
    torch.testing.assert_close(head(net, found), net(image), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tokens_of_a_map_are_row_by_row() -> None:
    """Token 1 of a 2 x 2 map is its upper right."""
    tower = build_tower("torchvision:resnet18", 64, None).eval()
    net, image = tower.net, torch.randn(1, 3, 64, 64)
    grid = net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(image))))))))
    assert torch.equal(tower(image)[0, 1], grid[0, :, 0, 1])
    assert not torch.equal(grid[0, :, 0, 1], grid[0, :, 1, 0])


def test_a_pass_runs_the_network_once() -> None:
    tower, calls = build_tower("timm:vit_tiny_patch16_224", 224, None).eval(), []
    tower.net.patch_embed.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        tower(torch.zeros(1, 3, 224, 224))
    assert len(calls) == 1
    assert not tower.net.norm._forward_hooks  # nothing is left behind


# ---- names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "unknown tower 'resnet18'.*torchvision:NAME"),
        ("torchvision:", "unknown tower"),
        ("torchvision:resnet_18", "torchvision has no model 'resnet_18'"),
        ("timm:resnet_18", r"timm [\d.]+ has no model 'resnet_18'"),
        ("torchvision:squeezenet", "has no model"),
        ("torchvision:fcn_resnet50", "has no model"),  # torchvision would fetch its backbone
        ("torchvision:shufflenet_v2_x0_5", "ShuffleNetV2 has no token grid"),
    ],
)
def test_unknown_towers_are_reported(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tower(name, 64, None)


@pytest.mark.parametrize("name", ["torchvision:vit_b_16", "timm:vit_tiny_patch16_224"])
def test_image_size_that_the_network_cannot_take_is_reported(name: str) -> None:
    with pytest.raises(ValueError, match="model.image_size is 64"):
        build_tower(name, 64, None)


# ---- weights


@pytest.fixture
def resnet(tmp_path: Path) -> tuple[Any, Callable[[dict[str, Tensor]], str]]:
    """A random ResNet, and a way to write an edited copy of its weights."""
    from torchvision.models import resnet18

    torch.manual_seed(1)
    net = resnet18().eval()

    def written(changes: dict[str, Any], name: str = "weights.safetensors") -> str:
        state = {key: value for key, value in {**net.state_dict(), **changes}.items() if value is not None}
        save_file(state, tmp_path / name)
        return str(tmp_path / name)

    return net, written


@torch.no_grad()
def test_weights_come_from_the_local_file(resnet: Any) -> None:
    net, written = resnet
    tower = build_tower("torchvision:resnet18", 64, written({})).eval()
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net.fc(tower(image).mean(1)), net(image))
    rounded = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    half = build_tower("torchvision:resnet18", 64, written(rounded, "half.safetensors"))
    assert half.net.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(half.net.conv1.weight, net.conv1.weight, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"fc.weight": None, "fc.bias": None},
        {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)},
        {"bn1.num_batches_tracked": None},
    ],
)
def test_classifier_and_counters_do_not_matter(changes: dict[str, Any], resnet: Any) -> None:
    net, written = resnet
    tower = build_tower("torchvision:resnet18", 64, written(changes))
    assert torch.equal(tower.net.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert not any(key.startswith("net.fc") for key in tower.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer1.0.conv1.weight": None}, "missing: layer1.0.conv1.weight"),
        ({"layer9.weight": torch.zeros(1)}, "unexpected: layer9.weight"),
        (
            {"conv1.weight": torch.zeros(64, 3, 3, 3)},
            r"conv1.weight: shape \(64, 3, 3, 3\), the model has \(64, 3, 7, 7\)",
        ),
    ],
)
def test_weights_of_another_network_are_reported_key_by_key(changes: dict[str, Any], message: str, resnet: Any) -> None:
    _, written = resnet
    with pytest.raises(ValueError, match=message):
        build_tower("torchvision:resnet18", 64, written(changes))


def test_missing_weights_are_reported() -> None:
    with pytest.raises(ValueError, match="no file at .*gone"):
        build_tower("torchvision:resnet18", 64, "gone.safetensors")


# ---- in the model


def config(**keys: Any) -> dict[str, Any]:
    sizes = {"image_size": 64, "vit_model": "torchvision:resnet18", "vit_precision": "fp32", "num_query_token": 4}
    return {**sizes, "vocab": str(VOCAB), "qformer": QFORMER, "embed_dim": 16, "load_pretrained": False, **keys}


def test_frozen_tower_without_weights_is_refused() -> None:
    from lavis_mafa.models.blip2.stage1 import MafaBlip2

    with pytest.raises(ValueError, match="freeze_vit is true but the tower has no weights; set model.vit_weights"):
        MafaBlip2.from_config(config(freeze_vit=True))


def trained(vit: dict[str, Any], batch: dict[str, Any]) -> Any:
    model = tiny_blip2(vit={"vit_model": "torchvision:resnet18", "img_size": 64, **vit}, action="keep").train()
    model({**batch, "image": torch.randn(6, 3, 64, 64)}).loss.backward()
    return model


def test_frozen_tower_stands_still(batch: dict[str, Any], resnet: Any) -> None:
    from lavis_mafa.models.trained import trained_state

    net, written = resnet
    model = trained({"freeze_vit": True, "vit_weights": written({})}, batch)
    assert all(parameter.grad is None for parameter in model.visual_encoder.parameters())
    assert torch.equal(model.visual_encoder.net.bn1.running_mean, net.bn1.running_mean)  # nor do its statistics move
    assert not any(key.startswith("visual_encoder.") for key in trained_state(model))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "torchvision:swin_t"])
def test_unfrozen_tower_trains_and_is_saved(name: str, batch: dict[str, Any]) -> None:
    """Every parameter that is to be trained gets a gradient: DDP waits for those that get none."""
    from lavis_mafa.models.trained import trained_state

    model = trained({"freeze_vit": False, "vit_model": name}, batch)
    still = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert still == []
    assert next(model.visual_encoder.parameters()).grad.abs().sum() > 0
    assert set(trained_state(model)) == set(model.state_dict())


@pytest.mark.parametrize("config", ["[" * 100_000, "[1, 2]", "no JSON", '{"width": "wide"}', '{"unheard_of": 1}'])
def test_a_small_vit_of_somebody_else_that_describes_itself_wrongly_is_named(tmp_path: Path, config: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "vit.safetensors", {"config": config})
    with pytest.raises(ValueError, match=r"vit\.safetensors is damaged or not a readable tower"):
        build_tower("small_vit", 48, str(tmp_path / "vit.safetensors"))
