"""Backbones: convolutional networks that are trained further, from pixels to features."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.encoders.networks import EfficientNetLite0
from parfocal.encoders.timm_networks import load_timm
from parfocal.encoders.weights import fill, read_lite0
from parfocal.models.layers.passes import NetworkMemory, Passes, kept_bytes

LITE0_MEAN, LITE0_STD = 127 / 255, 128 / 255
SMALL_WIDTHS = (16, 32, 64, 64)
DROP_RATE_NAMES = ("p", "drop_prob", "drop_rate")  # attributes of random layers in torch and timm
WORKING_TENSORS = 3  # gradients as large as the largest activation that exist at the same time


class Backbone(nn.Module):
    """Encode images by a convolutional network without its classifier.

    The weights are random until `load_pretrained` is called.

    | name | features | published weights |
    |---|---|---|
    | efficientnet-lite0 | 1280 | ImageNet, installed with parfocal; batch norms are folded |
    | efficientnet-lite0-stem | 40 | ImageNet; the first five blocks alone, for fine texture |
    | timm:NAME | depends on the model | those of the timm model NAME; requires timm |
    | timm:NAME=FILE | depends on the model | read from FILE, without a download; requires timm |
    | small | 64 | none; four strided convolutions, for small machines and tests |

    Args:
        name: name of the network.
        images_per_slide: number of images of a slide that are encoded together in training.

    Raises:
        ValueError: `name` is unknown.
        EncoderError: timm is not installed, or does not have the model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, *, images_per_slide: int = 1) -> None:
        super().__init__()
        self.name, self.images_per_slide = name, images_per_slide
        self.passes = Passes()
        mean, std = (LITE0_MEAN,) * 3, (LITE0_STD,) * 3
        self.network: nn.Module
        if name.startswith("timm:"):
            loaded = load_timm(_split_timm_name(name)[0], pretrained=False)
            self.network, self.dim = loaded.network, loaded.dim
            mean, std = loaded.mean, loaded.std
        elif name == "efficientnet-lite0":
            self.network, self.dim = EfficientNetLite0(), EfficientNetLite0.dim
        elif name == "efficientnet-lite0-stem":
            self.network, self.dim = Lite0Stem(), Lite0Stem.dim
        elif name == "small":
            self.network, self.dim = SmallNetwork(), SMALL_WIDTHS[-1]
        else:
            raise ValueError(
                f"backbone={name!r} is unknown; it is efficientnet-lite0, "
                "efficientnet-lite0-stem, small, timm:NAME, or timm:NAME=FILE with a weights file."
            )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.train()  # timm returns networks in evaluation mode

    def load_pretrained(self) -> None:
        """Load the published weights, if the network has any.

        Raises:
            EncoderError: the weights cannot be loaded.
        """
        if isinstance(self.network, EfficientNetLite0):
            fill(self.network, read_lite0(), source="the installed weights")
        elif isinstance(self.network, Lite0Stem):
            whole = EfficientNetLite0()
            fill(whole, read_lite0(), source="the installed weights")
            self.network.copy_from(whole)
        elif self.name.startswith("timm:"):
            hub_name, weights = _split_timm_name(self.name)
            published = load_timm(hub_name, weights=weights).network
            self.network.load_state_dict(published.state_dict())

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode of all layers but batch norms, which stay in evaluation mode.

        Batches are too small for batch statistics. Only the norm at the end of
        efficientnet-lite0-stem is in training mode; it normalizes the features of a whole batch.
        """
        super().train(mode)
        for module in self.network.modules():
            if hasattr(module, "running_var") and not self._is_last_norm(module):
                module.eval()
        return self

    def set_passes(self, passes: Passes) -> None:
        """Set how the network is run on a batch in training.

        A network that draws random numbers is run on the whole batch in one pass.
        """
        self.passes = passes if self.splits else Passes(None, passes.gradient_checkpointing)

    @property
    def splits(self) -> bool:
        """Whether a batch can be run in passes: whether no layer of the network is random."""
        rates = (
            getattr(module, name, 0.0)
            for module in self.network.modules()
            for name in DROP_RATE_NAMES
        )
        return not any(isinstance(rate, float) and rate > 0 for rate in rates)

    def memory(self, height: int, width: int) -> NetworkMemory:
        """Measure the memory that images of a slide need in a training step, by encoding one.

        Args:
            height: height of an image in pixels.
            width: width of an image in pixels.
        """
        image = self.mean.new_zeros(1, 3, height, width)
        with torch.random.fork_rng(devices=[]):
            kept, largest = kept_bytes(lambda: self._pooled(image))
        count = self.images_per_slide
        return NetworkMemory(count * kept, count * WORKING_TENSORS * largest, splits=self.splits)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return the features of images in 0..1."""
        features = self._run(self._pooled, images)
        if isinstance(self.network, Lite0Stem):
            features = self.network.norm(features)  # of the whole batch, whatever the passes
        return features

    def feature_maps(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        """Return the feature maps of images in 0..1, before pooling."""
        return self._run(self._maps, images)

    def _run(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return self.passes.run(network, images, images_per_slide=self.images_per_slide)

    def _pooled(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return the features of each image by itself."""
        features: Tensor = self.network(self._normalize(images))
        return features

    def _maps(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d i j"]:
        x = self._normalize(images)
        if isinstance(self.network, EfficientNetLite0 | Lite0Stem | SmallNetwork):
            return self.network.feature_maps(x)
        features: Tensor = self.network.forward_features(x)  # type: ignore[operator] # timm's
        return features

    def _is_last_norm(self, module: nn.Module) -> bool:
        return isinstance(self.network, Lite0Stem) and module is self.network.norm

    def _normalize(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Normalize colors as in pretraining; the channels-last layout is a third faster."""
        x = (images - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)


class Lite0Stem(nn.Module):
    """Encode images by the first five blocks of EfficientNet-Lite0 and a batch norm.

    The features vary little between images, so they are normalized.
    """

    dim: ClassVar[int] = 40
    depth: ClassVar[int] = 5

    def __init__(self) -> None:
        super().__init__()
        whole = EfficientNetLite0()
        self.conv_stem, self.blocks = whole.conv_stem, whole.blocks[: self.depth]
        self.norm = nn.BatchNorm1d(self.dim, affine=False)

    def copy_from(self, whole: EfficientNetLite0) -> None:
        """Copy the weights of the blocks from a whole network."""
        self.conv_stem.load_state_dict(whole.conv_stem.state_dict())
        self.blocks.load_state_dict(whole.blocks[: self.depth].state_dict())

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 40"]:
        """Return the features of normalized images, before the norm."""
        return self.feature_maps(x).mean((2, 3))

    def feature_maps(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 40 i j"]:
        """Return feature maps, an eighth of the images in height and width."""
        features: Tensor = self.blocks(F.relu6(self.conv_stem(x), inplace=True))
        return features


class SmallNetwork(nn.Module):
    """Encode images by four strided convolutions."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_dim, dim in pairwise((3, *SMALL_WIDTHS)):
            layers += [nn.Conv2d(in_dim, dim, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 64"]:
        """Return the features of normalized images."""
        return self.feature_maps(x).mean((2, 3))

    def feature_maps(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 64 i j"]:
        """Return feature maps, a sixteenth of the images in height and width."""
        features: Tensor = self.convs(x)
        return features


def _split_timm_name(name: str) -> tuple[str, Path | None]:
    """Split timm:NAME=FILE into the name of the timm model and its weights file."""
    hub_name, _, file = name.removeprefix("timm:").partition("=")
    return hub_name, Path(file) if file else None
