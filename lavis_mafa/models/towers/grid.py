"""Networks of torchvision and timm whose last feature map or token sequence is read as tokens (B, L, V)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEADS = ("classifier", "fc", "head", "heads", "head_dist", "attn_pool", "fc_norm")


class GridTower(nn.Module):
    """A backbone whose last feature map or token sequence is read as tokens.

    Raises:
        ValueError: the network does not take images of this size.
    """

    def __init__(self, net: nn.Module, image_size: int) -> None:
        super().__init__()
        self.net = net
        training = net.training
        try:
            with torch.no_grad():
                self.num_features = int(self.eval()(torch.zeros(1, 3, image_size, image_size)).shape[-1])
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"model.image_size is {image_size}, which this network does not support: {error}"
            ) from error
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
            return net.norm(features).flatten(1, 2) if hasattr(net, "permute") else features  # Swin: (B, h, w, V)
        if hasattr(net, "layer4"):  # ResNet
            stem = net.maxpool(net.relu(net.bn1(net.conv1(image))))
            return net.layer4(net.layer3(net.layer2(net.layer1(stem))))
        if hasattr(net, "trunk_output"):  # RegNet
            return net.trunk_output(net.stem(image))
        if hasattr(net, "class_token"):  # ViT
            patches = net._process_input(image)
            return net.encoder(torch.cat([net.class_token.expand(len(patches), -1, -1), patches], dim=1))
        raise ValueError(
            f"vit_model: torchvision's {type(net).__name__} has no token grid; use e.g. torchvision:resnet50"
        )


class TimmTower(GridTower):
    """A timm model, by its `forward_features`."""

    def grid(self, image: Tensor) -> Tensor:
        features = self.net.forward_features(image)
        if not isinstance(features, Tensor) or features.dim() < 3:
            raise ValueError(f"vit_model: timm's {type(self.net).__name__} has no token grid")
        return features.flatten(1, 2) if getattr(self.net, "output_fmt", "") == "NHWC" else features  # Swin's


def drop_head(net: nn.Module) -> None:
    """Neither pooling nor classifier is read: DDP would wait for a gradient, and random weights count as the tower's"""
    for name in HEADS:
        if isinstance(getattr(net, name, None), nn.Module):
            setattr(net, name, nn.Identity())
