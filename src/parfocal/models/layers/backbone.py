"""Backbones: convolutional networks that are trained on, from pixels to feature maps."""

from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.encoders.hub import load_timm
from parfocal.encoders.networks import EfficientNetLite0
from parfocal.encoders.weights import fill, read_lite0

LITE0_MEAN, LITE0_STD = 127 / 255, 128 / 255
SMALL_WIDTHS = (16, 32, 64, 64)


class Backbone(nn.Module):
    """A network without its classifier, random until `load_pretrained`.

    | name | features | pretrained on |
    |---|---|---|
    | efficientnet-lite0 | 1280 | ImageNet, installed with parfocal; batch norms stay folded |
    | efficientnet-lite0-stem | 40 | likewise; its first five blocks, for fine texture |
    | timm:NAME | as it says | as it says; with timm installed |
    | timm:NAME=FILE | likewise | what the file holds, so nothing is fetched |
    | small | 64 | nothing: four strided convolutions, for small machines and tests |

    Args:
        name: of the network.

    Raises:
        ValueError: there is no such network.
        EncoderError: timm cannot be imported, or does not know it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        mean, std = (LITE0_MEAN,) * 3, (LITE0_STD,) * 3
        self.network: nn.Module
        if name.startswith("timm:"):
            made = load_timm(_of_timm(name)[0], pretrained=False)
            self.network, self.dim, mean, std = made.network, made.dim, made.mean, made.std
        elif name == "efficientnet-lite0":
            self.network, self.dim = EfficientNetLite0(), EfficientNetLite0.dim
        elif name == "efficientnet-lite0-stem":
            self.network, self.dim = Lite0Stem(), Lite0Stem.dim
        elif name == "small":
            self.network, self.dim = SmallNetwork(), SMALL_WIDTHS[-1]
        else:
            raise ValueError(
                f"backbone {name!r} is unknown; it is efficientnet-lite0, "
                "efficientnet-lite0-stem, small, timm:NAME, or timm:NAME=FILE with the weights."
            )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.train()  # as any module is made; timm's came in evaluation

    def load_pretrained(self) -> None:
        """Take the published weights, where the network has any.

        Raises:
            EncoderError: they cannot be had.
        """
        if isinstance(self.network, EfficientNetLite0):
            fill(self.network, read_lite0(), source="the installed weights")
        elif isinstance(self.network, Lite0Stem):
            whole = EfficientNetLite0()
            fill(whole, read_lite0(), source="the installed weights")
            self.network.take(whole)
        elif self.name.startswith("timm:"):
            hub_name, weights = _of_timm(self.name)
            published = load_timm(hub_name, weights=weights).network
            self.network.load_state_dict(published.state_dict())

    def train(self, mode: bool = True) -> "Backbone":
        """Set training or evaluation; batch norms stay as published, for batches are small."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Encode images of 0 to 1."""
        features: Tensor = self.network(self._scaled(images))
        return features

    def maps(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        """Encode images of 0 to 1 place by place: what `forward` pools."""
        x = self._scaled(images)
        if isinstance(self.network, EfficientNetLite0 | Lite0Stem | SmallNetwork):
            return self.network.maps(x)
        features: Tensor = self.network.forward_features(x)  # type: ignore[operator] # timm's
        return features

    def _scaled(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Scale as the network was trained; laid out channels last, which is a third faster."""
        x = (images - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)


class Lite0Stem(nn.Module):
    """The first five blocks of EfficientNet-Lite0, and a norm, as its features vary but little."""

    dim: ClassVar[int] = 40
    depth: ClassVar[int] = 5

    def __init__(self) -> None:
        super().__init__()
        whole = EfficientNetLite0()
        self.conv_stem, self.blocks = whole.conv_stem, whole.blocks[: self.depth]
        self.norm = nn.BatchNorm1d(self.dim, affine=False)

    def take(self, whole: EfficientNetLite0) -> None:
        """Copy the weights of the same blocks."""
        self.conv_stem.load_state_dict(whole.conv_stem.state_dict())
        self.blocks.load_state_dict(whole.blocks[: self.depth].state_dict())

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 40"]:
        """Encode images."""
        features: Tensor = self.norm(self.maps(x).mean((2, 3)))
        return features

    def maps(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 40 i j"]:
        """Encode images place by place, each an eighth of a side."""
        features: Tensor = self.blocks(F.relu6(self.conv_stem(x), inplace=True))
        return features


class SmallNetwork(nn.Module):
    """Four strided convolutions."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_dim, dim in pairwise((3, *SMALL_WIDTHS)):
            layers += [nn.Conv2d(in_dim, dim, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 64"]:
        """Encode images."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 64 i j"]:
        """Encode images place by place, each a sixteenth of a side."""
        features: Tensor = self.convs(x)
        return features


def _of_timm(name: str) -> tuple[str, Path | None]:
    """Part timm:NAME=FILE."""
    hub_name, _, file = name.removeprefix("timm:").partition("=")
    return hub_name, Path(file) if file else None
