"""The description of an encoder: how its pixels are prepared and which weights it has."""

from dataclasses import dataclass

from parfocal.slide.resolution import MAX_MPP, MIN_MPP

Triple = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The range of every slide scanner: a network trained on photographs has no range of its own.
ANY_MPP = (MIN_MPP, MAX_MPP)
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
