"""Report what a slide file holds and whether it can be used: `parfocal inspect`."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from parfocal.features.header import SlideSettings
from parfocal.features.ladder import LadderReport, ladder_report
from parfocal.grid import GridError, PatchGrid
from parfocal.slide.given_tissue import MIN_INSIDE, found_share_inside, slide_tissue
from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.sources.url import SlidePath
from parfocal.slide.tissue import Tissue

LADDER, K = (2.5, 5.0, 10.0), 4  # magnifications and patches per zoom of the default recipe
MAGNIFICATIONS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LevelReport:
    """A stored level.

    Args:
        width: width in pixels of the level.
        height: height in pixels of the level.
        downsample: level-0 pixels per pixel of the level.
        mpp: microns per pixel of the level.
    """

    width: int
    height: int
    downsample: float
    mpp: float


@dataclass(frozen=True)
class ReachableMagnification:
    """A magnification at which a slide can be read.

    Args:
        magnification: nominal magnification.
        mpp: microns per pixel that the pixels will have.
    """

    magnification: float
    mpp: float


@dataclass(frozen=True)
class SlideReport:
    """The contents of a usable slide.

    Args:
        path: path of the file, as given.
        id: id of the slide.
        vendor: name of the format, as its reader calls it.
        size: width and height in level-0 pixels.
        mpp: microns per level-0 pixel.
        mpp_source: origin of `mpp`: "given", or the field of the file.
        objective_power: nominal magnification of the objective; None if not recorded.
        levels: stored levels, sharpest first.
        fingerprint: hash of the file's size, first MiB and last MiB.
        tissue_mm2: tissue area in square millimeters.
        tissue_share: tissue area, as a share of the scan's area.
        reachable: magnifications from 1.25x to 40x at which the slide can be read.
        tissue_source: "found", or the file that the tissue was read from.
        tissue_warning: why the tissue may be wrong; None if there is no reason to doubt it.
        patches: the patches at the requested magnifications; None if these do not fit the slide.
        patches_problem: why they do not fit; None if they do.
        notes: sentences on what is unusual about the file.
        tissue_classes: classes of the areas in the tissue file, with their numbers; empty for
            other tissue.
        found_inside: share of the tissue found on the slide that its tissue file contains; None
            without such a file, or if no tissue is found.
    """

    path: str
    id: str
    vendor: str
    size: tuple[int, int]
    mpp: float
    mpp_source: str
    objective_power: str | None
    levels: tuple[LevelReport, ...]
    fingerprint: str
    tissue_mm2: float
    tissue_share: float
    reachable: tuple[ReachableMagnification, ...]
    tissue_source: str
    tissue_warning: str | None
    patches: LadderReport | None
    patches_problem: str | None
    notes: tuple[str, ...]
    tissue_classes: str = ""
    found_inside: float | None = None

    def to_json(self) -> dict[str, object]:
        """Return the report as a dictionary for `json.dump`."""
        return asdict(self)

    def lines(self) -> str:
        """Return the report as text."""
        width, height = self.size
        power = "" if self.objective_power is None else f", objective {self.objective_power}x"
        levels = ", ".join(
            f"{level.width} x {level.height} at {level.mpp:.4g}" for level in self.levels
        )
        magnifications = ", ".join(
            f"{reachable.magnification:g}x ({reachable.mpp:.4g})" for reachable in self.reachable
        )
        rows = (
            [("patches", f"none: {self.patches_problem}")]
            if self.patches is None
            else self.patches.rows()
        )
        sides_mm = (f"{side * self.mpp / 1000:.1f}" for side in self.size)
        return "\n".join(
            (
                f"{self.id}: {self.path}",
                f"  format         {self.vendor}{power}",
                f"  size           {width} x {height} px, {' x '.join(sides_mm)} mm",
                f"  resolution     {self.mpp:.4g} µm/px ({self.mpp_source})",
                f"  levels         {levels} µm/px",
                f"  magnifications {magnifications or 'none of 1.25x to 40x'}",
                f"  tissue         {self.tissue_mm2:.3g} mm2, {self.tissue_share:.1%} of the scan"
                f"{self.tissue_origin}",
                *(f"  {name:14} {value}" for name, value in rows),
                f"  fingerprint    {self.fingerprint}",
                *(f"  note           {note}" for note in self.notes),
            )
        )

    @property
    def tissue_origin(self) -> str:
        """The tissue file, its classes, and the share of the found tissue in it, in brackets."""
        if self.tissue_source == "found":
            return ""
        classes = f": {self.tissue_classes}" if self.tissue_classes else ""
        inside = self.found_inside
        found = "" if inside is None else f"; it contains {inside:.0%} of the tissue that is found"
        return f" (from {self.tissue_source}{classes}{found})"


def inspect_slide(
    path: SlidePath | str,
    *,
    mpp: float | None = None,
    tissue: Path | None = None,
    settings: SlideSettings | None = None,
) -> SlideReport:
    """Open a slide, get its tissue and patches, and report its contents.

    Args:
        path: the slide file.
        mpp: microns per level-0 pixel, which overrides what the file records.
        tissue: GeoJSON file or mask image with the tissue; None to find it.
        settings: which patches the slide has; None for the defaults, at 2.5x, 5x and 10x.

    Raises:
        SlideError: the file cannot be used; the message gives the reason.
    """
    with open_slide(path, mpp=mpp, tissue=tissue) as slide:
        settings = settings or SlideSettings(LADDER)
        tissue_found, patches = find_patches(slide, settings)
        return describe_slide(slide, tissue_found, patches, settings.magnifications)


def find_patches(slide: Slide, settings: SlideSettings) -> tuple[Tissue, PatchGrid | GridError]:
    """Return the tissue of a slide, and its patches, or why the magnifications do not fit it.

    Raises:
        SlideError: the slide has no tissue, or is damaged.
    """
    tissue = slide_tissue(
        slide, method=settings.tissue_method, exclude_classes=settings.exclude_classes
    )
    if tissue.warning is not None:
        logger.warning("%s", tissue.warning)
    try:
        return tissue, settings.grid_over(tissue, slide.name)
    except GridError as error:
        return tissue, error


def describe_slide(
    slide: Slide,
    tissue: Tissue,
    patches: PatchGrid | GridError,
    magnifications: tuple[float, ...],
) -> SlideReport:
    """Return the report of an open slide.

    Args:
        slide: the slide.
        tissue: its tissue.
        patches: its patches, or why the magnifications do not fit it.
        magnifications: magnifications of the patches, lowest first.
    """
    fits = isinstance(patches, PatchGrid)
    inside = None if slide.tissue_path is None else found_share_inside(slide, tissue)
    warning = tissue.warning
    if warning is None and slide.tissue_path and inside is not None and inside < MIN_INSIDE:
        warning = (
            f"{slide.name}: tissue file {slide.tissue_path.name}: it contains only {inside:.0%} of "
            "the tissue that is found on the scan. Check that it is of this slide, and neither "
            "mirrored nor rotated."
        )
        logger.warning("%s", warning)
    return SlideReport(
        path=str(slide.path),
        id=slide.id,
        vendor=slide.vendor,
        size=slide.size,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        objective_power=slide.objective_power,
        levels=tuple(
            LevelReport(level.width, level.height, level.downsample, slide.mpp * level.downsample)
            for level in slide.levels
        ),
        fingerprint=slide.fingerprint,
        tissue_mm2=tissue.area_mm2,
        tissue_share=tissue.share,
        reachable=_reachable(slide),
        tissue_source="found" if slide.tissue_path is None else slide.tissue_path.name,
        tissue_warning=warning,
        patches=(
            ladder_report(patches, magnifications, k=K) if isinstance(patches, PatchGrid) else None
        ),
        patches_problem=None if fits else str(patches),
        notes=slide.notes,
        tissue_classes=tissue.classes,
        found_inside=inside,
    )


def _reachable(slide: Slide) -> tuple[ReachableMagnification, ...]:
    reachable = []
    for magnification in MAGNIFICATIONS:
        try:
            mpp = slide.achieved_mpp(mpp_of(magnification))
        except ValueError:
            break  # this one is sharper than the scan, and so are all that follow
        reachable.append(ReachableMagnification(magnification, mpp))
    return tuple(reachable)
