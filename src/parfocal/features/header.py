"""The header of a feature file: the attributes that docs/formats.md lists."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from itertools import pairwise
from logging import getLogger
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int64

from parfocal.encoders.spec import EncoderSpec
from parfocal.features.errors import StoreError
from parfocal.grid import Children, PatchGrid, PatchRule, Roots
from parfocal.slide.given_tissue import EXCLUDED_CLASSES, slide_tissue
from parfocal.slide.readers.tiff_checks import MissingTiles
from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import Slide
from parfocal.slide.tissue import Tissue
from parfocal.validation import validate

FORMAT = "parfocal features"
FORMAT_VERSION = 2
MAX_PATCH_SIZE = 2**14  # far more than any encoder or memory takes
# New names, by the name in version 1.
RENAMED_ATTRIBUTES = {"encoder_licence": "encoder_license"}
# New names of settings of a slide; some files of version 2 have the old ones, too.
RENAMED_SETTINGS = {"tissue": "tissue_method"}
# New values, by attribute and by the value in version 1.
RENAMED_VALUES: dict[str, dict[object, str]] = {"tissue_method": {"grey": "gray"}}
# Settings of a slide that version 1 does not have, and the values it stands for.
ADDED_SETTINGS: dict[str, Any] = {
    **{"roots": "share", "exclude_classes": EXCLUDED_CLASSES},
    "missing_tiles": "auto",
}
# The same for the other attributes.
ADDED_FACTS: dict[str, Any] = {"level_mpps": (), "tissue_fingerprint": ""}

logger = getLogger(__name__)
TissueMethod = Literal["otsu", "gray", "all"]
CHOICES = {
    "tissue_method": get_args(TissueMethod),
    "children": get_args(Children),
    "roots": get_args(Roots),
    "missing_tiles": get_args(MissingTiles),
}


@dataclass(frozen=True)
class SlideSettings:
    """Which patches a slide has.

    Args:
        magnifications: magnifications, lowest first.
        patch_size: side of a patch in pixels, the same at every magnification.
        tissue_method: how tissue is separated from glass: "otsu" uses Otsu's threshold on the
            saturation, "gray" a fixed threshold on the spread of red, green and blue; "all" takes
            the whole image as tissue.
        min_tissue: minimum share of tissue in a patch, in 0..1; if no patch has that much, those
            with any tissue are kept.
        children: "tissue" keeps only patches with enough tissue at the highest magnification, and
            their ancestors at lower magnifications; "all" keeps every child of a kept patch.
        roots: which patches of the lower magnifications are kept: "descendants" keeps those with a
            patch of the highest magnification inside them that has `min_tissue`, so that all of
            these can be reached; "share" keeps those that have `min_tissue` themselves, as
            published.
        exclude_classes: classes whose areas in a GeoJSON file of tissue are not tissue, regardless
            of case; `*` stands for any text.
        missing_tiles: what to do with tiles that a file does not store: "refuse" the slide, or
            read them as "background"; "auto" reads them as background in formats that leave out
            blank tiles on purpose (Philips TIFF), and refuses other slides.

    Raises:
        ValueError: an argument is invalid.
    """

    magnifications: tuple[float, ...]
    patch_size: int = 256
    tissue_method: TissueMethod = "otsu"
    min_tissue: float = 0.1
    children: Children = "tissue"
    roots: Roots = "descendants"
    exclude_classes: tuple[str, ...] = EXCLUDED_CLASSES
    missing_tiles: MissingTiles = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        steps = pairwise((0.0, *self.magnifications))
        if not self.magnifications or not all(low < high < inf for low, high in steps):
            names = ", ".join(f"{magnification:g}" for magnification in self.magnifications)
            raise ValueError(
                f"magnifications: [{names}] do not ascend; give the lowest first, above 0, as "
                "2.5,5,10."
            )
        if not 1 <= self.patch_size <= MAX_PATCH_SIZE:
            raise ValueError(
                f"patch_size: {self.patch_size} is not in 1..{MAX_PATCH_SIZE}; 256 is usual."
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}."
                )
        if not 0 <= self.min_tissue <= 1:
            raise ValueError(f"min_tissue: {self.min_tissue:g} is not in 0..1.")

    @property
    def rule(self) -> PatchRule:
        """Rule by which patches exist."""
        return PatchRule(self.min_tissue, self.children, self.roots)

    def tissue_of(self, slide: Slide) -> Tissue:
        """Return the tissue in the slide's tissue file, or find it if the slide has none.

        A tissue that may be wrong is logged as a warning.

        Raises:
            SlideError: the slide has no tissue, or the file cannot be used.
        """
        tissue = slide_tissue(
            slide, method=self.tissue_method, exclude_classes=self.exclude_classes
        )
        if tissue.warning is not None:
            logger.warning("%s `parfocal inspect --picture` draws it.", tissue.warning)
        return tissue

    def grid(self, slide: Slide) -> PatchGrid:
        """Return the patches over the tissue of a slide.

        A warning is logged if no patch has `min_tissue`.

        Raises:
            SlideError: the slide has no tissue, or the magnifications do not fit it.
        """
        return self.grid_over(self.tissue_of(slide), slide.name)

    def grid_over(self, tissue: Tissue, name: str) -> PatchGrid:
        """Return the patches over a tissue; see `grid`.

        Args:
            tissue: tissue of the slide.
            name: name of the slide, for the warning.

        Raises:
            GridError: the magnifications do not fit the slide.
        """
        grid = PatchGrid.over(
            tissue,
            [mpp_of(magnification) for magnification in self.magnifications],
            self.patch_size,
            min_tissue=self.min_tissue,
            children=self.children,
            roots=self.roots,
        )
        if grid.reach is not None and not grid.reach.min_tissue_met:
            logger.warning(
                "%s: no patch is %g%% tissue, so all patches with any tissue are kept; check that "
                "its tissue is found right",
                name,
                100 * self.min_tissue,
            )
        return grid


@dataclass(frozen=True)
class Header:
    """The description of a feature file.

    Args:
        encoders: encoder of the features of each magnification, lowest first.
        settings: which patches the slide has, as requested.
        grid: patches of the slide, at the achieved resolutions.
        slide_id: name of the slide file, without extension.
        fingerprint: fingerprint of the slide file.
        mpp_source: where the slide's mpp comes from.
        tissue_fingerprint: hash of the slide's tissue file and of the excluded classes; empty if
            the tissue was found.
    """

    encoders: tuple[EncoderSpec, ...]
    settings: SlideSettings
    grid: PatchGrid
    slide_id: str
    fingerprint: str
    mpp_source: str
    tissue_fingerprint: str = ""


@dataclass(frozen=True)
class _Facts:
    """The attributes of a feature file that are neither settings nor of the encoder."""

    slide_id: str
    fingerprint: str
    mpp_source: str
    tissue_fingerprint: str
    slide_size: tuple[int, int]
    slide_mpp: float
    mpps: tuple[float, ...]
    sharpest_patches: int
    level_mpps: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("slide_size", "slide_mpp", "mpps", "level_mpps"):
            value = getattr(self, name)
            if not all(
                0 < each < inf for each in (value if isinstance(value, tuple) else (value,))
            ):
                raise ValueError(f"{name}: {value} is not positive")
        if self.sharpest_patches < 0:
            raise ValueError(f"sharpest_patches: {self.sharpest_patches} is negative")


def group_names(magnifications: Sequence[float]) -> list[str]:
    """Return the names of the HDF5 groups, one per magnification."""
    return [f"{magnification:g}x" for magnification in magnifications]


def write_header(attributes: MutableMapping[str, Any], header: Header) -> None:
    """Write a header as attributes of an HDF5 file."""
    attributes.update(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "parfocal_version": version("parfocal"),
            "slide_id": header.slide_id,
            "fingerprint": header.fingerprint,
            "mpp_source": header.mpp_source,
            "tissue_fingerprint": header.tissue_fingerprint,
            "slide_size": header.grid.slide_size,
            "slide_mpp": header.grid.slide_mpp,
            "mpps": header.grid.mpps,
            "level_mpps": header.grid.level_mpps,
            "sharpest_patches": header.grid.sharpest_patches,
        }
    )
    attributes.update(asdict(header.settings))
    if _one_for_all(header.encoders):
        _write_encoder(attributes, header.encoders[0])


def write_group_header(attributes: MutableMapping[str, Any], header: Header, step: int) -> None:
    """Write what a header says about one magnification as attributes of its HDF5 group.

    The encoder is there only if the magnifications have different ones.
    """
    attributes["mpp"] = header.grid.mpps[step]
    if not _one_for_all(header.encoders):
        _write_encoder(attributes, header.encoders[step])


def _one_for_all(encoders: Sequence[EncoderSpec]) -> bool:
    return all(encoder == encoders[0] for encoder in encoders)


def _write_encoder(attributes: MutableMapping[str, Any], encoder: EncoderSpec) -> None:
    attributes.update({f"encoder_{key}": value for key, value in encoder.to_dict().items()})


def check_format(path: Path, attributes: Mapping[str, Any]) -> int:
    """Return the format version of a feature file.

    Raises:
        StoreError: the file is not a feature file, or its version is newer than `FORMAT_VERSION`.
    """
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{path}: an HDF5 file, but not a feature file of parfocal. Make one with "
            "`parfocal extract`."
        )
    found = int(attributes["format_version"])
    if found > FORMAT_VERSION:
        raise StoreError(
            f"{path}: a feature file of format version {found}, and this parfocal reads up to "
            f"{FORMAT_VERSION}. Update parfocal, or extract again into another folder."
        )
    return found


def read_header(
    attributes: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    roots: Int64[np.ndarray, "n 2"],
    exists: Sequence[Bool[np.ndarray, " _"]],
    shares: Sequence[Float[np.ndarray, "_ _"]],
) -> Header:
    """Read a header of any format version up to `FORMAT_VERSION`.

    Args:
        attributes: attributes of an HDF5 file that passed `check_format`.
        groups: attributes of the group of each magnification, lowest first.
        roots: (column, row) of the patches at the lowest magnification.
        exists: per magnification, whether each patch exists.
        shares: per magnification, the share of tissue in every square of the lattice; empty if
            unknown, as in version 1.

    Raises:
        KeyError: an attribute is missing.
        ValueError: an attribute is wrong.
    """
    stored = _translate({key: _to_python(value) for key, value in attributes.items()})
    settings = validate(SlideSettings, _select(stored, SlideSettings))
    encoders = _read_encoders(stored, groups)
    facts = validate(
        _Facts, _select({"level_mpps": (), "tissue_fingerprint": "", **stored}, _Facts)
    )
    grid = PatchGrid(
        mpps=facts.mpps,
        patch_size=settings.patch_size,
        slide_size=facts.slide_size,
        slide_mpp=facts.slide_mpp,
        roots=roots,
        sharpest_patches=facts.sharpest_patches,
        exists=tuple(exists),
        shares=tuple(shares) or None,
        rule=settings.rule if shares else None,
        level_mpps=facts.level_mpps,
    )
    return Header(
        encoders,
        settings,
        grid,
        facts.slide_id,
        facts.fingerprint,
        facts.mpp_source,
        facts.tissue_fingerprint,
    )


def _select(stored: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return the attributes that are fields of a dataclass."""
    return {field.name: stored[field.name] for field in fields(kind)}


def _read_encoders(
    stored: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> tuple[EncoderSpec, ...]:
    """Return the encoder of each magnification, which the file names once or in each group."""
    if "encoder_name" in stored:
        return (_read_encoder(stored),) * len(groups)
    return tuple(
        _read_encoder({key: _to_python(value) for key, value in group.items()}) for group in groups
    )


def _read_encoder(stored: Mapping[str, Any]) -> EncoderSpec:
    prefix = "encoder_"
    return EncoderSpec.from_dict(
        {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    )


def _translate(attributes: dict[str, Any]) -> dict[str, Any]:
    """Translate the attributes of a file of any version to those of `FORMAT_VERSION`."""
    renamed = {RENAMED_SETTINGS.get(key, key): value for key, value in attributes.items()}
    if attributes["format_version"] >= FORMAT_VERSION:
        return renamed
    renamed = {RENAMED_ATTRIBUTES.get(key, key): value for key, value in renamed.items()}
    for key, values in RENAMED_VALUES.items():
        renamed[key] = values.get(renamed[key], renamed[key])
    return {**ADDED_SETTINGS, **renamed}


def _to_python(value: Any) -> Any:
    """Convert an HDF5 attribute to a Python value."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value
