"""Describe a published encoder without loading its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from parfocal.encoders.spec import (
    ANY_MPP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    EncoderSpec,
    Output,
    Precision,
    Triple,
)

Loader = Literal["parfocal", "timm", "transformers", "titan", "conch"]
ArgumentValue = bool | int | float | str

MPP_TOLERANCE = 1.25  # factor by which an mpp may differ from one that an encoder was made for
# Loader -> the packages it imports, and the command that installs them.
PACKAGES: dict[Loader, tuple[str, ...]] = {
    "parfocal": (),
    "timm": ("timm",),
    "transformers": ("transformers",),
    "titan": ("transformers", "einops", "einops_exts"),
    "conch": ("conch",),
}
INSTALL: dict[Loader, str] = {
    "parfocal": "",
    "timm": "pip install 'parfocal[timm]'",
    "transformers": "pip install 'parfocal[transformers]'",
    "titan": "pip install 'parfocal[transformers]' einops einops-exts",
    "conch": "pip install git+https://github.com/mahmoodlab/CONCH.git",
}
HUB = "https://huggingface.co/"


@dataclass(frozen=True)
class EncoderCard:
    """A published encoder: how it is loaded, fed and licensed.

    Args:
        id: name that `load_encoder` takes.
        loader: package that the network comes from. "titan" is transformers with the code of the
            repository MahmoodLab/TITAN; "conch" is the package of CONCH's authors.
        dims: features per patch, by output; the first is the default.
        patch_px: side of the patches that the encoder was made for, in pixels; 0 for any.
        mpps: resolutions that the encoder was made for, in µm per pixel; none for any.
        license: license of the weights.
        source: where these facts come from.
        hub: repository of the weights on the Hugging Face Hub; empty if it has none.
        gated: whether the weights can be downloaded only after access was granted to an account.
        remote_code: whether code of the repository must run to load it.
        input_size: height and width of the network's input, in pixels.
        resize_px: side to which a patch is resized before the center crop; 0 for no crop.
        interpolation: "bilinear" or "bicubic", for resizing patches.
        mean: mean of red, green and blue, in 0..1.
        std: standard deviation of red, green and blue, in 0..1.
        prefix_tokens: number of tokens before the patch tokens; 0 if the output is pooled.
        precision: number format on a GPU.
        arguments: arguments of the network that the repository's config lacks.
        architecture: name of the network in timm, for loading a bare weights file.
        file_arguments: arguments of the network when a bare weights file is loaded.
        weights_file: path of the weights file in the repository; empty if it is a standard one.
        dataset: whether the repository is a data set.
        aliases: names of the same encoder in other tools.
        macs: multiply-accumulates of one patch, counted on the published architecture; None if
            unknown.
    """

    id: str
    loader: Loader
    dims: Mapping[Output, int]
    patch_px: int
    mpps: tuple[float, ...]
    license: str
    source: str
    hub: str = ""
    gated: bool = False
    remote_code: bool = False
    input_size: int = 224
    resize_px: int = 0
    interpolation: str = "bilinear"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    prefix_tokens: int = 1
    precision: Precision = "fp16"
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    architecture: str = ""
    file_arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    weights_file: str = ""
    dataset: bool = False
    aliases: tuple[str, ...] = ()
    macs: int | None = None

    @property
    def default_output(self) -> Output:
        """The output that the encoder's authors recommend."""
        return next(iter(self.dims))

    @property
    def mpp_range(self) -> tuple[float, float]:
        """Lowest and highest mpp to use the encoder at: a quarter beyond what it was made for."""
        if not self.mpps:
            return ANY_MPP
        return min(self.mpps) / MPP_TOLERANCE, max(self.mpps) * MPP_TOLERANCE

    @property
    def page(self) -> str:
        """Address of the page where the weights are, and where to ask for access."""
        return f"{HUB}{'datasets/' if self.dataset else ''}{self.hub}" if self.hub else ""

    def output_of(self, dim: int) -> Output | None:
        """Return the output that has a number of features, or None."""
        return next((output for output, width in self.dims.items() if width == dim), None)

    def spec(self, output: Output | None = None, *, weights_hash: str = "") -> EncoderSpec:
        """Return the description of the encoder; its weights need not be there.

        Args:
            output: one of the outputs of the card; None for the default.
            weights_hash: hash of the weights; empty if unknown.

        Raises:
            ValueError: the encoder does not have this output.
        """
        output = output or self.default_output
        if output not in self.dims:
            choices = ", ".join(self.dims)
            raise ValueError(f"encoder {self.id} has no output {output!r}; choose {choices}.")
        return EncoderSpec(
            name=self.id,
            dim=self.dims[output],
            input_size=self.input_size,
            mean=self.mean,
            std=self.std,
            mpp_range=self.mpp_range,
            license=self.license,
            weights_hash=weights_hash,
            interpolation=self.interpolation,
            resize_px=self.resize_px,
            output=output,
            prefix_tokens=0 if output == "pooled" else self.prefix_tokens,
            patch_px=self.patch_px,
            precision=self.precision,
        )
