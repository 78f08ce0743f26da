"""One slide painted from a plan: what is on it, and the pyramid it is written to."""

from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np

from parfocal.slide.synthetic.layout import Layout, lay_out
from parfocal.slide.synthetic.mosaic import Mosaic, Pixels
from parfocal.slide.synthetic.texture import Painter, draw_stain
from parfocal.slide.synthetic.tissue_tiles import TileFiles, tile_textures
from parfocal.slide.write import write_pyramid

TILE = 256  # pixels
OVERLAP_PX = 24  # over which squares of texture are blended
MPPS = (0.1, 2.0)  # where a lesion's traits can be drawn and seen
SIZES = (512, 100_000)  # pixels


@dataclass(frozen=True)
class Painting:
    """What is on the slides of a cohort.

    Args:
        positive_share: of the slides have lesions.
        tissue_share: of a slide is tissue, on average.
        regions: that catch the eye on every slide.
        lesions: how many of them have a lesion inside, on a tumor slide.
        lesion_um: diameter of a lesion, on average; None for a tenth of the slide's side,
            500 at most.
        lesion_share: of the tissue that the lesions are together; sets their size instead.
        splits: shares of train, val and test; each is painted from seeds of its own. One that has
            slides has some of each class: too few for all three, and there are none for val, then
            none for test.
        normal_class: folder of normal tissue among the tiles; None for the one whose name says so.
        lesion_class: folder of lesions among the tiles; likewise.
        tile_mpp: microns per pixel that the tiles are taken to have.
        downsamples: of the levels stored; None for powers of two.
        quality: of the JPEG.
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
        """Refuse what cannot be painted."""
        if not 0 <= self.positive_share <= 1 or not 0.02 <= self.tissue_share <= 0.7:
            raise ValueError(
                f"positive_share must be 0 to 1 and tissue_share 0.02 to 0.7, not "
                f"{self.positive_share:g} and {self.tissue_share:g}"
            )
        if not 1 <= self.lesions <= self.regions:
            raise ValueError(
                f"lesions lie inside regions, so there must be 1 to {self.regions} of them "
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
        """How many there are among the slides."""
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
    """Give what suits the texture, real tiles or painted, but for what is asked for otherwise.

    Each argument is that of `Painting`; there are as many regions as the lesions need.

    Raises:
        ValueError: it cannot be painted, or a class is named of tiles that are not given.
    """
    painting = Painting() if tiles is None else TILE_PAINTING
    if tiles is None and (normal_class or lesion_class):
        raise ValueError("normal_class and lesion_class are folders of tiles; give tiles, too")
    if lesions is not None:
        regions = max(painting.regions, lesions)
        painting = replace(painting, lesions=lesions, regions=regions)
    if lesion_um is not None:
        painting = replace(painting, lesion_um=lesion_um, lesion_share=None)
    return replace(painting, normal_class=normal_class, lesion_class=lesion_class)


@dataclass(frozen=True)
class SlidePlan:
    """One slide to be painted; the same plan gives the same bytes.

    Args:
        seed: of all that is the slide's own.
        pair: seed of what it shares with its partner of the other class.
        lesion: whether there are lesions in it; all else is the same without.
        size: side in pixels.
        mpp: microns per pixel.
        painting: what is on it.
        tiles: that its texture is made of; None for painted texture.
    """

    seed: tuple[int, ...]
    pair: tuple[int, ...] = ()
    lesion: bool = True
    size: int = 5120
    mpp: float = 1.0
    painting: Painting = Painting()
    tiles: TileFiles | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be painted."""
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise ValueError(f"size must be {SIZES[0]} to {SIZES[1]} pixels, not {self.size}")
        if not MPPS[0] <= self.mpp <= MPPS[1]:
            raise ValueError(
                f"mpp must be {MPPS[0]} to {MPPS[1]} um per pixel, where lesions can be seen, not "
                f"{self.mpp:g}"
            )

    @property
    def lesion_scale(self) -> float:
        """Diameter of the lesions, over what the painting says at most."""
        return float(_generator(*self.pair, 1).uniform(0.8, 1))


def paint_slide(
    path: Path, plan: SlidePlan, *, threads: int = 1, stop: Event | None = None
) -> Layout:
    """Paint one slide into a pyramidal TIFF, and tell where things lie on it.

    Args:
        path: where to; a file already there is replaced.
        plan: of the slide.
        threads: how many paint tiles at once.
        stop: once set, from another thread, painting ends with `KeyboardInterrupt`.

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
    """Draw all that a slide's pixels depend on."""
    layout, own = layout_of(plan), [_generator(*plan.seed, purpose) for purpose in (1, 2)]
    stain = _generator(*plan.pair, 3)
    if plan.tiles is None:
        textures = Painter(own[0], plan.mpp).textures(draw_stain(stain))
    else:
        textures = tile_textures(plan.tiles, plan.mpp, own[0], stain)
    return Mosaic(layout, textures, own[1], overlap=OVERLAP_PX), layout


def layout_of(plan: SlidePlan) -> Layout:
    """Tell where things lie on a slide."""
    painting, extent = plan.painting, plan.size * plan.mpp
    tissue_share = painting.tissue_share * float(_generator(*plan.pair, 2).uniform(0.85, 1.15))
    largest = painting.lesion_um or min(500.0, extent / 10)
    if painting.lesion_share is not None:
        area = painting.lesion_share * tissue_share * extent**2 / painting.lesions
        largest = 2 * float(np.sqrt(area / np.pi))
    layout = lay_out(
        _generator(*plan.seed, 0),
        extent_um=extent,
        mpp=plan.mpp,
        tissue_share=tissue_share,
        regions=painting.regions,
        lesions=painting.lesions if plan.lesion else 0,
        lesion_um=largest * plan.lesion_scale,
    )
    if layout is None:
        raise _no_room(plan, largest)
    return layout


def _no_room(plan: SlidePlan, lesion_um: float) -> ValueError:
    """Say what does not fit, in the numbers that one can ask for."""
    painting = plan.painting
    # There are some regions even where fewer have a lesion.
    least = (Painting() if plan.tiles is None else TILE_PAINTING).regions
    fewer = ", fewer lesions (--lesions)" if painting.regions > least else ""
    return ValueError(
        f"a slide of {plan.size} px at {plan.mpp:g} um per pixel, {painting.tissue_share:.0%} of "
        f"it tissue, has no room for {painting.regions} regions of which {painting.lesions} have "
        f"a lesion of {lesion_um:.0f} um inside; ask for larger slides (--size){fewer} or smaller "
        "lesions (--lesion-um)."
    )


def _generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed))
