"""The convolutional networks of the built-in encoders.

The networks are used frozen, and a frozen batch norm is an affine map, so they contain no batch
norms: `fold` merges each into the preceding convolution when weights are loaded. The output is the
same up to rounding, and 1.1 to 1.7 times as fast on a CPU.

Sources: Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020, and Tan & Le,
    "EfficientNet", ICML 2019. He et al., "Deep Residual Learning", CVPR 2016, with the
    stride in the 3x3 convolution.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding.

    The output size is the input size divided by the stride, rounded up. If the total padding is
    odd, the extra zeros are at the right and the bottom, which `padding=` cannot express.
    """

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:  # noqa: A002
        """Pad and convolve."""
        top, bottom = self._zeros(input.shape[2], 0)
        left, right = self._zeros(input.shape[3], 1)
        if (top, left) != (bottom, right):
            input, top, left = F.pad(input, (left, right, top, bottom)), 0, 0  # noqa: A001
        padding = (top, left)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, groups=self.groups)

    def _zeros(self, size: int, axis: int) -> tuple[int, int]:
        """Return the number of zeros before and after an axis."""
        kernel, stride = self.kernel_size[axis], self.stride[axis]
        zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return zeros // 2, zeros - zeros // 2


class InvertedResidual(nn.Module):
    """Inverted residual block: expand, depthwise convolution, project."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = in_dim * expand
        self.expand_conv = SameConv2d(in_dim, wide, 1) if expand > 1 else None
        self.depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self.project_conv = SameConv2d(wide, dim, 1)
        self.residual = stride == 1 and in_dim == dim

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """Compute the feature map of the block."""
        y: Tensor = x
        if self.expand_conv is not None:
            y = F.relu6(self.expand_conv(y), inplace=True)
        y = F.relu6(self.depthwise_conv(y), inplace=True)
        y = self.project_conv(y)
        return y.add_(x) if self.residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: 1280 features per image.

    Modules are named as in the weights of `efficientnet_pytorch`, without leading underscores.
    """

    dim: ClassVar[int] = 1280
    eps: ClassVar[float] = 1e-3
    norms: ClassVar[Mapping[str, str]] = {
        "conv_stem": "bn0",
        "expand_conv": "bn0",
        "depthwise_conv": "bn1",
        "project_conv": "bn2",
        "conv_head": "bn1",
    }
    # channels, blocks, kernel size, stride of the first block, expansion factor
    stages: ClassVar[tuple[tuple[int, int, int, int, int], ...]] = (
        (16, 1, 3, 1, 1),
        (24, 2, 3, 2, 6),
        (40, 2, 5, 2, 6),
        (80, 3, 3, 2, 6),
        (112, 3, 5, 1, 6),
        (192, 4, 5, 2, 6),
        (320, 1, 3, 1, 6),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, 32, 3, stride=2)
        blocks, in_dim = [], 32
        for dim, count, kernel, stride, expand in self.stages:
            for index in range(count):
                first = stride if index == 0 else 1
                blocks.append(InvertedResidual(in_dim, dim, kernel, first, expand))
                in_dim = dim
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = SameConv2d(in_dim, self.dim, 1)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1280"]:
        """Compute features of normalized images."""
        return self.feature_maps(x).mean((2, 3))

    def feature_maps(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1280 i j"]:
        """Compute the last feature map of normalized images, at 1/32 of their side."""
        x = F.relu6(self.conv_stem(x), inplace=True)
        return F.relu6(self.conv_head(self.blocks(x)), inplace=True)


class Bottleneck(nn.Module):
    """Bottleneck residual block of ResNet."""

    def __init__(self, in_dim: int, dim: int, stride: int) -> None:
        super().__init__()
        narrow = dim // 4
        self.conv1 = nn.Conv2d(in_dim, narrow, 1)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1)
        self.conv3 = nn.Conv2d(narrow, dim, 1)
        self.downsample = nn.Sequential()
        if in_dim != dim:
            self.downsample.append(nn.Conv2d(in_dim, dim, 1, stride))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """Compute the feature map of the block."""
        y = F.relu(self.conv1(x), inplace=True)
        y = F.relu(self.conv2(y), inplace=True)
        return F.relu(self.conv3(y).add_(self.downsample(x)), inplace=True)


class ResNet50Layer3(nn.Module):
    """ResNet-50 without its last stage and classifier: 1024 features per image, as in ZoomMIL.

    Modules are named as in torchvision and timm, so that their weights load.
    """

    dim: ClassVar[int] = 1024
    eps: ClassVar[float] = 1e-5
    norms: ClassVar[Mapping[str, str]] = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "0": "1"}

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(64, 256, blocks=3, stride=1)
        self.layer2 = self._stage(256, 512, blocks=4, stride=2)
        self.layer3 = self._stage(512, self.dim, blocks=6, stride=2)

    @staticmethod
    def _stage(in_dim: int, dim: int, *, blocks: int, stride: int) -> nn.Sequential:
        rest = (Bottleneck(dim, dim, 1) for _ in range(blocks - 1))
        return nn.Sequential(Bottleneck(in_dim, dim, stride), *rest)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1024"]:
        """Compute features of normalized images."""
        x = self.maxpool(F.relu(self.conv1(x), inplace=True))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean((2, 3))


class TinyNetwork(nn.Module):
    """A fast network for tests: mean and deviation of colors and of 13 random filters."""

    dim: ClassVar[int] = 32

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 5, stride=2)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 32"]:
        """Compute features of normalized images."""
        y = F.relu(self.conv(x))
        statistics = [(z.mean((2, 3)), z.std((2, 3))) for z in (x, y)]
        return torch.cat([value for pair in statistics for value in pair], dim=1)


Foldable = EfficientNetLite0 | ResNet50Layer3


def norm_names(network: Foldable) -> dict[str, str]:
    """Return the name of the batch norm that follows each convolution in published weights."""
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    parts = {name: name.rpartition(".") for name in names}
    return {name: f"{stem}{dot}{network.norms[last]}" for name, (stem, dot, last) in parts.items()}


def weight_names(network: Foldable) -> list[str]:
    """Return the names of the tensors that `fold` needs."""
    fields = ("weight", "bias", "running_mean", "running_var")
    return [
        key
        for conv, norm in norm_names(network).items()
        for key in (f"{conv}.weight", *(f"{norm}.{field}" for field in fields))
    ]


def fold(network: Foldable, weights: Mapping[str, Tensor]) -> None:
    """Load published weights into a network, with batch norms merged into the convolutions.

    A batch norm computes (y - mean) / sqrt(var + eps) * weight + bias of each channel y.

    Args:
        network: network to load into.
        weights: tensors by name; see `weight_names`.
    """
    folded = {}
    for conv, norm in norm_names(network).items():
        variance = weights[f"{norm}.running_var"] + network.eps
        scale = weights[f"{norm}.weight"] / variance.sqrt()
        folded[f"{conv}.weight"] = weights[f"{conv}.weight"] * scale[:, None, None, None]
        folded[f"{conv}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    network.load_state_dict(folded, assign=True)


def fill_randomly(network: nn.Module, *, seed: int) -> None:
    """Load random weights that keep activations of order 1 into a network.

    Args:
        network: network to load into.
        seed: seed of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(empty.shape, generator=generator) / empty[0].numel() ** 0.5
        if empty.ndim > 1
        else torch.zeros(empty.shape)
        for name, empty in network.state_dict().items()
    }
    network.load_state_dict(weights, assign=True)
