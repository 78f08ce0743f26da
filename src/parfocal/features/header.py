"""What a feature file says of itself: the attributes docs/formats.md lists."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from parfocal.encoders.encoder import EncoderSpec
from parfocal.features.errors import StoreError
from parfocal.grid import PatchGrid
from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import Slide
from parfocal.slide.tissue import find_tissue

FORMAT = "parfocal features"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SlideSettings:
    """Which patches of a slide there are.

    Args:
        magnifications: lowest first.
        patch_size: side in pixels, the same at every magnification.
        tissue: how tissue is told from glass; "all" takes everything for tissue.
        min_tissue: least share of tissue in a patch.
        children: whether a patch has all its children, or only those with so much tissue.

    Raises:
        ValueError: magnifications that do not ascend from above 0, no pixels in a patch, or a
            share that is none.
    """

    magnifications: tuple[float, ...]
    patch_size: int = 256
    tissue: Literal["otsu", "gray", "all"] = "otsu"
    min_tissue: float = 0.1
    children: Literal["all", "tissue"] = "tissue"

    def __post_init__(self) -> None:
        """Refuse what is no choice of patches."""
        steps = pairwise((0.0, *self.magnifications))
        if not self.magnifications or not all(low < high < inf for low, high in steps):
            names = ", ".join(f"{magnification:g}" for magnification in self.magnifications)
            raise ValueError(
                f"magnifications: [{names}] do not ascend; give the lowest first, as 1.25,2.5,10."
            )
        if self.patch_size < 1:
            raise ValueError(f"patch_size: {self.patch_size} pixels are no patch; 256 is usual.")
        if not 0 <= self.min_tissue <= 1:
            raise ValueError(f"min_tissue: {self.min_tissue:g} is no share; give one from 0 to 1.")

    def grid(self, slide: Slide) -> PatchGrid:
        """Find a slide's tissue, and lay the patches over it.

        Raises:
            SlideError: there is no tissue, or the magnifications do not fit the slide.
        """
        return PatchGrid.over(
            find_tissue(slide, method=self.tissue),
            [mpp_of(magnification) for magnification in self.magnifications],
            self.patch_size,
            min_tissue=self.min_tissue,
            children=self.children,
        )


@dataclass(frozen=True)
class Header:
    """What a feature file says of itself.

    Args:
        encoder: that made the features.
        settings: as asked for.
        grid: the patches, at the achieved mpps.
        slide_id: name of the slide.
        fingerprint: of the slide file.
        mpp_source: where the slide's mpp is from.
    """

    encoder: EncoderSpec
    settings: SlideSettings
    grid: PatchGrid
    slide_id: str
    fingerprint: str
    mpp_source: str


def group_names(magnifications: Sequence[float]) -> list[str]:
    """Give the names of the groups, one a magnification."""
    return [f"{magnification:g}x" for magnification in magnifications]


def write_header(attributes: MutableMapping[str, Any], header: Header) -> None:
    """Write a header as attributes of a file."""
    grid = header.grid
    attributes.update(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "parfocal_version": version("parfocal"),
            "slide_id": header.slide_id,
            "fingerprint": header.fingerprint,
            "slide_size": grid.slide_size,
            "slide_mpp": grid.slide_mpp,
            "mpp_source": header.mpp_source,
            "mpps": grid.mpps,
            "sharpest_patches": grid.sharpest_patches,
        }
    )
    attributes.update(asdict(header.settings))
    attributes.update({f"encoder_{key}": value for key, value in asdict(header.encoder).items()})


def check_format(path: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse a file that is not ours, or of a format that is not yet known here.

    Raises:
        StoreError: it is.
    """
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{path}: an HDF5 file, but not one of parfocal's feature files. Make one with "
            "`parfocal extract`."
        )
    found = int(attributes["format_version"])
    if found > FORMAT_VERSION:
        raise StoreError(
            f"{path}: a feature file of format version {found}, and this parfocal reads up to "
            f"{FORMAT_VERSION}. Update parfocal, or extract again into another folder."
        )


def read_header(
    attributes: Mapping[str, Any],
    roots: Int64[np.ndarray, "n 2"],
    exists: Sequence[Bool[np.ndarray, " _"]],
) -> Header:
    """Read a header back.

    Args:
        attributes: of a file that passed `check_format`.
        roots: the grid's, which are too many for an attribute.
        exists: likewise.
    """
    stored = {key: _plain(value) for key, value in attributes.items()}
    settings = SlideSettings(**{field.name: stored[field.name] for field in fields(SlideSettings)})
    encoder = {field.name: stored[f"encoder_{field.name}"] for field in fields(EncoderSpec)}
    grid = PatchGrid(
        mpps=stored["mpps"],
        patch_size=settings.patch_size,
        slide_size=stored["slide_size"],
        slide_mpp=stored["slide_mpp"],
        roots=roots,
        sharpest_patches=stored["sharpest_patches"],
        exists=tuple(exists),
    )
    return Header(
        encoder=EncoderSpec(**encoder),
        settings=settings,
        grid=grid,
        slide_id=stored["slide_id"],
        fingerprint=stored["fingerprint"],
        mpp_source=stored["mpp_source"],
    )


def _plain(value: Any) -> Any:
    """Give an HDF5 attribute as Python has it."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value
