"""Paint one slide from a plan into a pyramidal TIFF."""

from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np

from parfocal.slide.synthetic.layout import Layout, draw_layout
from parfocal.slide.synthetic.mosaic import Mosaic, Pixels
from parfocal.slide.synthetic.texture import Painter, draw_stain
from parfocal.slide.synthetic.tissue_tiles import TileFiles, tile_textures
from parfocal.slide.write import write_pyramid

TILE = 256  # pixels
OVERLAP_PX = 24  # width over which squares of texture are blended
MPPS = (0.1, 2.0)  # range in which the details of a lesion can be drawn and seen
SIZES = (512, 100_000)  # pixels


@dataclass(frozen=True)
class Painting:
    """The contents of the slides of a cohort.

    Args:
        positive_share: share of slides with lesions.
        tissue_share: share of a slide that is tissue, on average.
        regions: number of conspicuous regions per slide.
        lesions: number of regions with a lesion inside, on a tumor slide.
        lesion_um: maximum diameter of a lesion in microns; None for a tenth of the slide's side,
            at most 500.
        lesion_share: lesion area as a share of the tissue area, which sets the diameter instead of
            `lesion_um`; None to use `lesion_um`.
        splits: shares of train, val and test. A split that is not empty has slides of every class;
            if there are too few slides, val stays empty, then test.
        normal_class: folder of normal tissue among the tiles; None to recognize it by its name.
        lesion_class: folder of lesions among the tiles; None to recognize it by its name.
        tile_mpp: microns per pixel of the tiles.
        downsamples: downsamples of the stored levels; None for powers of two.
        quality: JPEG quality, 1 to 100.
    """

    positive_share: float = 0.5
    tissue_share: float = 0.45
    regions: int = 4
    lesions: int = 2
    lesion_um: float | None = None
    lesion_share: float | None = None
    splits: tuple[float, float, float] = (0.5, 0.15, 0.35)
    normal_class: str | None = None
    lesion_class: str | None = None
    tile_mpp: float = 1.2
    downsamples: tuple[int, ...] | None = None
    quality: int = 80

    def __post_init__(self) -> None:
        """Raise ValueError if a setting is invalid."""
        if not 0 <= self.positive_share <= 1 or not 0.02 <= self.tissue_share <= 0.7:
            raise ValueError(
                f"positive_share must be 0 to 1 and tissue_share 0.02 to 0.7, not "
                f"{self.positive_share:g} and {self.tissue_share:g}"
            )
        if not 1 <= self.lesions <= self.regions:
            raise ValueError(
                f"lesions must be 1 to {self.regions}, since each lies inside a region "
                f"(regions={self.regions}), not {self.lesions}"
            )
        if self.lesion_share is not None and not 0 < self.lesion_share <= 0.5:
            raise ValueError(
                f"lesion_share must be above 0 and at most 0.5, not {self.lesion_share:g}"
            )
        if min(self.splits) < 0 or abs(sum(self.splits) - 1) > 1e-6:
            raise ValueError(f"the shares of train, val and test must sum to 1, not {self.splits}")

    @property
    def classes(self) -> int:
        """Number of classes among the slides."""
        return 2 if 0 < self.positive_share < 1 else 1


TILE_PAINTING = Painting(regions=1, lesions=1, lesion_share=0.02)


def default_painting(
    tiles: Path | None = None,
    *,
    lesions: int | None = None,
    lesion_um: float | None = None,
    normal_class: str | None = None,
    lesion_class: str | None = None,
) -> Painting:
    """Return the default painting for the kind of texture, with some settings changed.

    Args:
        tiles: folder of real tissue tiles; None for painted texture.
        lesions: number of lesions; None for the default. There are at least as many regions.
        lesion_um: maximum diameter of a lesion in microns; None for the default.
        normal_class: folder of normal tissue among the tiles; None to recognize it by its name.
        lesion_class: folder of lesions among the tiles; None to recognize it by its name.

    Raises:
        ValueError: a setting is invalid, or a class is named without tiles.
    """
    painting = Painting() if tiles is None else TILE_PAINTING
    if tiles is None and (normal_class or lesion_class):
        raise ValueError("normal_class and lesion_class name folders of tiles, so they need tiles")
    if lesions is not None:
        regions = max(painting.regions, lesions)
        painting = replace(painting, lesions=lesions, regions=regions)
    if lesion_um is not None:
        painting = replace(painting, lesion_um=lesion_um, lesion_share=None)
    return replace(painting, normal_class=normal_class, lesion_class=lesion_class)


@dataclass(frozen=True)
class SlidePlan:
    """The plan of one slide; the same plan produces the same bytes.

    Args:
        seed: seed of everything specific to the slide.
        pair: seed of what the slide shares with the other slide of its pair.
        lesion: whether it has lesions; everything else stays the same without them.
        size: side in pixels.
        mpp: microns per pixel.
        painting: contents of the slide.
        tiles: tissue tiles for its texture; None for painted texture.
        second: number of its lesions that are of a second kind, which tiles do not have.
    """

    seed: tuple[int, ...]
    pair: tuple[int, ...] = ()
    lesion: bool = True
    size: int = 5120
    mpp: float = 1.0
    painting: Painting = Painting()
    tiles: TileFiles | None = None
    second: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError if a setting is invalid."""
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise ValueError(f"size must be {SIZES[0]} to {SIZES[1]} pixels, not {self.size}")
        if not MPPS[0] <= self.mpp <= MPPS[1]:
            raise ValueError(
                f"mpp must be {MPPS[0]} to {MPPS[1]} µm per pixel for lesions to be visible, not "
                f"{self.mpp:g}"
            )

    @property
    def lesion_scale(self) -> float:
        """Diameter of the lesions, relative to the maximum."""
        return float(_generator(*self.pair, 1).uniform(0.8, 1))


def paint_slide(
    path: Path, plan: SlidePlan, *, threads: int = 1, stop: Event | None = None
) -> Layout:
    """Paint one slide into a pyramidal TIFF.

    Args:
        path: the file to write; an existing file is replaced.
        plan: the plan of the slide.
        threads: number of threads that paint tiles.
        stop: event that another thread sets to end painting with `KeyboardInterrupt`.

    Returns:
        The layout of the slide.

    Raises:
        ValueError: the tissue has no room for the regions.
        SlideError: a tile of texture cannot be read.
    """
    mosaic, layout = _compose(plan)

    def tile(column: int, row: int) -> Pixels:
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
        return mosaic.tile(column * TILE, row * TILE, TILE)

    write_pyramid(
        path,
        tile,
        (plan.size, plan.size),
        mpp=plan.mpp,
        downsamples=plan.painting.downsamples,
        tile_size=TILE,
        quality=plan.painting.quality,
        threads=threads,
    )
    return layout


def _compose(plan: SlidePlan) -> tuple[Mosaic, Layout]:
    """Draw the layout and the mosaic of a slide."""
    layout, own = plan_layout(plan), [_generator(*plan.seed, purpose) for purpose in (1, 2)]
    stain = _generator(*plan.pair, 3)
    if plan.tiles is None:
        painter = Painter(own[0], plan.mpp)
        textures = painter.textures(draw_stain(stain), two_kinds=plan.second > 0)
    else:
        textures = tile_textures(plan.tiles, plan.mpp, own[0], stain)
    return Mosaic(layout, textures, own[1], overlap=OVERLAP_PX), layout


def plan_layout(plan: SlidePlan) -> Layout:
    """Draw the layout of a slide.

    Raises:
        ValueError: the tissue has no room for the regions.
    """
    painting, extent = plan.painting, plan.size * plan.mpp
    tissue_share = painting.tissue_share * float(_generator(*plan.pair, 2).uniform(0.85, 1.15))
    largest = painting.lesion_um or min(500.0, extent / 10)
    if painting.lesion_share is not None:
        area = painting.lesion_share * tissue_share * extent**2 / painting.lesions
        largest = 2 * float(np.sqrt(area / np.pi))
    layout = draw_layout(
        _generator(*plan.seed, 0),
        extent_um=extent,
        mpp=plan.mpp,
        tissue_share=tissue_share,
        regions=painting.regions,
        lesions=painting.lesions if plan.lesion else 0,
        lesion_um=largest * plan.lesion_scale,
        second=plan.second,
    )
    if layout is None:
        raise _no_room(plan, largest)
    return layout


def _no_room(plan: SlidePlan, lesion_um: float) -> ValueError:
    """Return the error about a slide without enough room, with the settings that can be changed."""
    painting = plan.painting
    # Fewer lesions leave the default number of regions.
    minimum = (Painting() if plan.tiles is None else TILE_PAINTING).regions
    fewer = ", fewer lesions (--lesions)" if painting.regions > minimum else ""
    return ValueError(
        f"a slide of {plan.size} px at {plan.mpp:g} µm per pixel with {painting.tissue_share:.0%} "
        f"tissue has no room for {painting.regions} regions, {painting.lesions} of them with a "
        f"lesion of {lesion_um:.0f} um. Choose larger slides (--size){fewer} or smaller lesions "
        "(--lesion-um)."
    )


def _generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed))
