"""The description of an encoder: how its pixels are prepared and which weights it has."""

from dataclasses import dataclass
from math import inf, isfinite

from parfocal.slide.resolution import MAX_MPP, MIN_MPP

Triple = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The range of every slide scanner: a network trained on photographs has no range of its own.
ANY_MPP = (MIN_MPP, MAX_MPP)
MAX_DIM, MAX_INPUT_SIZE = 2**20, 2**14  # far beyond any encoder
UNKNOWN_LICENSE = "as the weights file's"


@dataclass(frozen=True)
class EncoderSpec:
    """The properties of an encoder that decide its features.

    Args:
        name: name that `load_encoder` takes.
        dim: features per patch.
        input_size: height and width to which a patch is resized, in pixels.
        mean: mean of red, green and blue, in 0..1, that is subtracted.
        std: standard deviation of red, green and blue, in 0..1, to divide by.
        mpp_range: lowest and highest resolution to use the encoder at, in µm per pixel.
        license: license of the weights.
        weights_hash: 16 hex digits of a hash over the weights; "random-seed-0" if they are random.
        interpolation: "bilinear" or "bicubic", for resizing patches, with antialiasing.

    Raises:
        ValueError: an argument is out of range.
    """

    name: str
    dim: int
    input_size: int
    mean: Triple
    std: Triple
    mpp_range: tuple[float, float]
    license: str
    weights_hash: str
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, limit in (("dim", MAX_DIM), ("input_size", MAX_INPUT_SIZE)):
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"{name}: {getattr(self, name)} is not in 1..{limit}.")
        if not all(isfinite(each) for each in self.mean):
            raise ValueError(f"mean: {self.mean} is not finite.")
        if not all(0 < each < inf for each in self.std):
            raise ValueError(f"std: {self.std} is not positive.")
        low, high = self.mpp_range
        if not 0 < low <= high < inf:
            raise ValueError(f"mpp_range: {self.mpp_range} is not a range above 0.")
