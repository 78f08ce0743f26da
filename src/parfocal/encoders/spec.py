"""The description of an encoder: how its pixels are prepared and which weights it has."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from math import inf, isfinite
from typing import Any, Literal

from parfocal.slide.resolution import MAX_MPP, MIN_MPP
from parfocal.validation import validate

Triple = tuple[float, float, float]
Output = Literal["pooled", "cls", "cls+mean", "mean"]
Precision = Literal["fp16", "bf16", "fp32"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The range of every slide scanner: a network trained on photographs has no range of its own.
ANY_MPP = (MIN_MPP, MAX_MPP)
MAX_DIM, MAX_INPUT_SIZE = 2**20, 2**14  # far beyond any encoder
UNKNOWN_LICENSE = "as the weights file's"
UNKNOWN_WEIGHTS = ""  # hash of the weights of an encoder that another tool has run
FIRST_FIELDS = 9  # fields that files of every version have; a file may lack those after them


@dataclass(frozen=True)
class EncoderSpec:
    """The properties of an encoder that decide its features.

    Args:
        name: name that `load_encoder` takes.
        dim: features per patch.
        input_size: height and width of the network's input, in pixels.
        mean: mean of red, green and blue, in 0..1, that is subtracted.
        std: standard deviation of red, green and blue, in 0..1, to divide by.
        mpp_range: lowest and highest resolution to use the encoder at, in µm per pixel.
        license: license of the weights.
        weights_hash: 16 hex digits of a hash over the weights; "random-seed-0" if they are random.
        interpolation: "bilinear" or "bicubic", for resizing patches, with antialiasing.
        resize_px: side to which a patch is resized before its center of `input_size` is cropped; 0
            to resize the patch to `input_size` and crop nothing.
        output: which output to use as features: "pooled", what the network returns; "cls", its
            class token; "mean", the mean of its patch tokens; or "cls+mean", both, concatenated.
        prefix_tokens: number of tokens before the patch tokens: the class token and registers.
        patch_px: side of the patches that the encoder was made for, in pixels; 0 if unknown.
        precision: number format on a GPU: "fp16", "bf16" or "fp32".
        address: address of the service that runs the encoder; empty if it runs in this process. It
            does not decide the features, so it is not compared.

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
    resize_px: int = 0
    output: Output = "pooled"
    prefix_tokens: int = 0
    patch_px: int = 0
    precision: Precision = "fp16"
    address: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check the numbers."""
        limits = {"dim": (1, MAX_DIM), "input_size": (1, MAX_INPUT_SIZE)}
        limits |= dict.fromkeys(("resize_px", "prefix_tokens", "patch_px"), (0, MAX_INPUT_SIZE))
        for name, (lowest, highest) in limits.items():
            if not lowest <= getattr(self, name) <= highest:
                raise ValueError(f"{name}: {getattr(self, name)} is not in {lowest}..{highest}.")
        if 0 < self.resize_px < self.input_size:
            raise ValueError(
                f"resize_px: {self.resize_px} is less than the input size, {self.input_size}, that "
                "is cropped from it."
            )
        if not all(isfinite(each) for each in self.mean):
            raise ValueError(f"mean: {self.mean} is not finite.")
        if not all(0 < each < inf for each in self.std):
            raise ValueError(f"std: {self.std} is not positive.")
        low, high = self.mpp_range
        if not 0 < low <= high < inf:
            raise ValueError(f"mpp_range: {self.mpp_range} is not a range above 0.")

    @property
    def preparation(self) -> str:
        """How patches become input and output becomes features, as a text for messages."""
        crop = f", center {self.input_size} px" if self.resize_px else ""
        output = "" if self.output == "pooled" else f", output {self.output}"
        skipped = f" after {self.prefix_tokens} tokens" if "mean" in self.output else ""
        return (
            f"{self.resize_px or self.input_size} px {self.interpolation}{crop}, "
            f"mean {self.mean}, std {self.std}{output}{skipped}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as they are stored.

        A field that version 1 did not have is left out where it has its default, so that the files
        of encoders without it are unchanged.
        """
        later = {field.name: field.default for field in fields(self)[FIRST_FIELDS:]}
        values = asdict(self)
        return {name: value for name, value in values.items() if later.get(name, MISSING) != value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EncoderSpec":
        """Return the spec of stored fields; keys that are not fields are ignored.

        Raises:
            KeyError: a field that every version has is missing.
            ValueError: a value is wrong.
        """
        required = [field.name for field in fields(cls)[:FIRST_FIELDS]]
        present = [field.name for field in fields(cls)[FIRST_FIELDS:] if field.name in values]
        return validate(cls, {name: values[name] for name in (*required, *present)})
