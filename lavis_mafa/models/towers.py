"""Vision towers for the Q-Former: image (B, 3, H, W) → tokens (B, L, V).

`vit_model` names one: LAVIS' `eva_clip_g` and `clip_L`, `small_vit`, `torchvision:NAME`, `timm:NAME`. The last three read
their weights from `vit_weights`, a local file; nothing is fetched.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from lavis_mafa.models.small_vit import SmallViT
from lavis_mafa.models.weights import fit_state, read_metadata, read_state_dict

PACKAGE = Path(__file__).resolve().parent.parent
LAVIS_TOWERS = ("eva_clip_g", "clip_L")


class GridTower(nn.Module):
    """A backbone whose last feature map or token sequence is read as tokens."""

    def __init__(self, net: nn.Module, image_size: int) -> None:
        super().__init__()
        self.net = net
        training = net.training
        with torch.no_grad():
            self.num_features = int(self.eval()(torch.zeros(1, 3, image_size, image_size)).shape[-1])
        self.train(training)

    def forward(self, image: Tensor) -> Tensor:
        features = self.grid(image)
        if features.dim() == 4:  # (B, V, h, w)
            return features.flatten(2).transpose(1, 2)
        assert features.dim() == 3, f"tokens expected, got {tuple(features.shape)}"
        return features

    def grid(self, image: Tensor) -> Tensor:
        raise NotImplementedError


class TorchvisionTower(GridTower):
    """Any torchvision classifier with a `features` trunk, a ResNet, a RegNet or a ViT."""

    def grid(self, image: Tensor) -> Tensor:
        net = self.net
        if hasattr(net, "features"):
            features = net.features(image)
            return features.permute(0, 3, 1, 2) if hasattr(net, "permute") else features  # Swin keeps channels last
        if hasattr(net, "layer4"):  # ResNet
            stem = net.maxpool(net.relu(net.bn1(net.conv1(image))))
            return net.layer4(net.layer3(net.layer2(net.layer1(stem))))
        if hasattr(net, "trunk_output"):  # RegNet
            return net.trunk_output(net.stem(image))
        if hasattr(net, "class_token"):  # ViT
            patches = net._process_input(image)
            return net.encoder(torch.cat([net.class_token.expand(len(patches), -1, -1), patches], dim=1))
        raise ValueError(f"vit_model: torchvision's {type(net).__name__} yields no token grid; use e.g. torchvision:resnet50")


class TimmTower(GridTower):
    """A timm model; timm 0.4.12's ViTs pool in forward_features, so their last norm is read instead."""

    def grid(self, image: Tensor) -> Tensor:
        features = self.net.forward_features(image)
        if features.dim() > 2:
            return features
        if not hasattr(self.net, "norm"):
            raise ValueError(f"vit_model: timm's {type(self.net).__name__} yields no token grid")
        kept: list[Tensor] = []
        handle = self.net.norm.register_forward_hook(lambda module, args, output: kept.append(output))
        try:
            self.net.forward_features(image)
        finally:
            handle.remove()
        return kept[0]


def build_tower(name: str, image_size: int, weights: str | None) -> nn.Module:
    """Build a non-LAVIS tower with its local weights (None: as initialised).

    Raises:
        ValueError: an unknown name, a missing file, or weights of another network, key by key.
    """
    kind, _, model_name = name.partition(":")
    if kind == "small_vit":
        return _small_vit(image_size, weights)
    if kind not in ("torchvision", "timm") or not model_name:
        raise ValueError(
            f"model.vit_model: unknown tower {name!r}; choose {', '.join(LAVIS_TOWERS)}, small_vit, torchvision:NAME or timm:NAME"
        )
    net = _torchvision_net(model_name) if kind == "torchvision" else _timm_net(model_name)
    if weights is not None:
        _load_backbone(net, weights)
    return (TorchvisionTower if kind == "torchvision" else TimmTower)(net, image_size)


def _small_vit(image_size: int, weights: str | None) -> SmallViT:
    if weights is None:
        return SmallViT(image_size=image_size)
    path = local_file(weights)
    config = json.loads(read_metadata(path).get("config", "{}"))
    if config.get("image_size", image_size) != image_size:
        raise ValueError(f"model.image_size is {image_size}, but {path.name} was trained at {config['image_size']}")
    tower = SmallViT(**config)
    fit_state(tower, read_state_dict(path), source=str(path))
    return tower


def _torchvision_net(name: str) -> nn.Module:
    from torchvision import models

    try:
        return models.get_model(name, weights=None)
    except ValueError as error:
        raise ValueError(f"model.vit_model: torchvision has no model {name!r}; see torchvision.models.list_models()") from error


def _timm_net(name: str) -> nn.Module:
    import timm

    if name not in timm.list_models():
        raise ValueError(f"model.vit_model: timm {timm.__version__} has no model {name!r}; see timm.list_models()")
    return timm.create_model(name, pretrained=False)


def _load_backbone(net: nn.Module, weights: str) -> None:
    state = read_state_dict(local_file(weights))
    head = tuple(f"{name}." for name in ("classifier", "fc", "head", "heads"))  # the classifier is not read
    missing = [key for key in net.state_dict() if key not in state]
    unexpected = [key for key in state if key not in net.state_dict()]
    strange = [key for key in missing + unexpected if not key.startswith(head)]
    if strange:
        raise ValueError(f"model.vit_weights: {weights} does not fit this backbone: {', '.join(strange[:8])}")
    own = net.state_dict()
    net.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items() if key in own}, strict=False)


def local_file(path: str) -> Path:
    """A path as given, or `package:PATH`, a small file that the package ships.

    Raises:
        ValueError: there is no such file.
    """
    found = PACKAGE / path[len("package:") :] if path.startswith("package:") else Path(path).expanduser()
    if not found.is_file():
        raise ValueError(f"no file at {found}; give a local file (.safetensors or .pth for weights)")
    return found
