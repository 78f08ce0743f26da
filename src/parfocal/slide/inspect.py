"""What a slide file holds, and whether it can be used: `parfocal inspect`."""

from dataclasses import asdict, dataclass
from pathlib import Path

from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.tissue import find_tissue

MAGNIFICATIONS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0)


@dataclass(frozen=True)
class LevelReport:
    """A stored level, with its true resolution."""

    width: int
    height: int
    downsample: float
    mpp: float


@dataclass(frozen=True)
class Reach:
    """A magnification the scan can be read at, and the mpp it will have."""

    magnification: float
    mpp: float


@dataclass(frozen=True)
class SlideReport:
    """What was found in a usable slide.

    Args:
        path: as given.
        id: its name without the extension.
        vendor: the format, as the reader calls it.
        size: width and height in level-0 pixels.
        mpp: microns per level-0 pixel.
        mpp_source: "given", or where the file says so.
        objective_power: as recorded; None where it is not.
        levels: sharpest first.
        fingerprint: hash of the file's size and both ends.
        tissue_mm2: area of the tissue found.
        tissue_share: its share of the scan.
        reachable: of 1.25x to 40x, those not sharper than the scan.
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
    reachable: tuple[Reach, ...]

    def to_json(self) -> dict[str, object]:
        """Give the report as plain values, fit for `json.dump`."""
        return asdict(self)

    def lines(self) -> str:
        """Give the report as text, a fact a line."""
        width, height = self.size
        power = "" if self.objective_power is None else f", objective {self.objective_power}x"
        levels = ", ".join(
            f"{level.width} x {level.height} at {level.mpp:.4g}" for level in self.levels
        )
        reachable = ", ".join(
            f"{reach.magnification:g}x ({reach.mpp:.4g})" for reach in self.reachable
        )
        mm = (f"{side * self.mpp / 1000:.1f}" for side in self.size)
        return "\n".join(
            (
                f"{self.id}: {self.path}",
                f"  format         {self.vendor}{power}",
                f"  size           {width} x {height} px, {' x '.join(mm)} mm",
                f"  resolution     {self.mpp:.4g} um/px ({self.mpp_source})",
                f"  levels         {levels} um/px",
                f"  magnifications {reachable or 'none of 1.25x to 40x'}",
                f"  tissue         {self.tissue_mm2:.3g} mm2, {self.tissue_share:.1%} of the scan",
                f"  fingerprint    {self.fingerprint}",
            )
        )


def inspect(path: Path | str, *, mpp: float | None = None) -> SlideReport:
    """Open a slide, look for its tissue, and report.

    Args:
        path: the slide file.
        mpp: microns per level-0 pixel, over what the file records.

    Raises:
        SlideError: the file cannot be used; the message says why.
    """
    with open_slide(path, mpp=mpp) as slide:
        tissue = find_tissue(slide)
        return SlideReport(
            path=str(path),
            id=slide.id,
            vendor=slide.vendor,
            size=slide.size,
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            objective_power=slide.objective_power,
            levels=tuple(
                LevelReport(
                    level.width, level.height, level.downsample, slide.mpp * level.downsample
                )
                for level in slide.levels
            ),
            fingerprint=slide.fingerprint,
            tissue_mm2=tissue.area_mm2,
            tissue_share=tissue.share,
            reachable=_reachable(slide),
        )


def _reachable(slide: Slide) -> tuple[Reach, ...]:
    reached = []
    for magnification in MAGNIFICATIONS:
        try:
            reached.append(Reach(magnification, slide.achieved_mpp(mpp_of(magnification))))
        except ValueError:
            break  # sharper than the scan, and so are the rest
    return tuple(reached)
