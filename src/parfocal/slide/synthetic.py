"""A cohort of slides painted from a seed, its lesions known.

Low magnification tells where to look, and only sharp pixels tell what it is: every slide has
regions that catch the eye, in some of those of a tumor slide lies a lesion, and shrunk the two
look the same. Colour tells nothing: slides are painted in pairs, one of each class, that share
stain, amount of tissue and size of regions, and nothing else. (Who cross-validates on such
slides keeps pairs, which are neighbours in the table, together: a twin of the other class left
among those learned from turns chance into less than chance.)
"""

import csv
import json
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np

from parfocal.files import whole_file
from parfocal.slide.layout import Blob, Layout, lay_out
from parfocal.slide.mosaic import Mosaic, Pixels
from parfocal.slide.texture import Painter, draw_stain
from parfocal.slide.tiles import TileFiles, find_tiles, tile_textures
from parfocal.slide.write import write_pyramid

SPLITS = ("train", "val", "test")
TILE = 256  # pixels
FOLDERS = ("slides", "outlines")
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


OF_TILES = Painting(regions=1, lesions=1, lesion_share=0.02)


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
    painting = Painting() if tiles is None else OF_TILES
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


def paint_cohort(
    out: Path,
    *,
    slides: int,
    seed: int,
    size: int = 5120,
    mpp: float = 1.0,
    tiles: Path | None = None,
    painting: Painting | None = None,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Paint slides, their outlines and their table into a new folder.

    Args:
        out: holds slides/, outlines/ and cohort.csv afterwards; the table comes last.
        slides: how many, at least one of each class.
        seed: the same gives the same bytes.
        size: side of a slide in pixels.
        mpp: microns per pixel.
        tiles: folder with a folder of real tiles a class; None for painted texture.
        painting: what is on the slides; None for a default that suits the texture.
        threads: how many slides are painted at once.
        progress: told how many slides are done, and of how many.

    Returns:
        The path of cohort.csv.

    Whatever stops it, `out` is left as it was found.

    Raises:
        ValueError: `out` is not empty, or something cannot be painted as asked.
        SlideError: a tile of texture cannot be read.
    """
    plans = plan_cohort(
        slides=slides, seed=seed, size=size, mpp=mpp, tiles=tiles, painting=painting
    )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: already there and not empty; give a new folder.")
    for _, plan in plans:
        _lay_out(plan)  # in a moment, and what has no room is refused before hours of painting
    names = [f"slide-{number:04d}" for number in range(slides)]
    rows = [_row(name, split, plan) for name, (split, plan) in zip(names, plans, strict=True)]
    new = not out.exists()
    try:
        for folder in FOLDERS:
            (out / folder).mkdir(parents=True)
        _paint_all(out, names, [plan for _, plan in plans], threads, progress)
        return _write_table(out / "cohort.csv", rows)
    except BaseException:
        for folder in FOLDERS:
            shutil.rmtree(out / folder, ignore_errors=True)
        if new:
            out.rmdir()
        raise


def _paint_all(
    out: Path,
    names: list[str],
    plans: list[SlidePlan],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Paint slides, several at once; where one fails, all have stopped before it is told."""
    stop, each = Event(), max(1, threads // len(plans))
    with ThreadPoolExecutor(threads) as pool:
        futures = [
            pool.submit(_paint_one, out, name, plan, each, stop)
            for name, plan in zip(names, plans, strict=True)
        ]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress is not None:
                    progress(done, len(plans))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def plan_cohort(
    *,
    slides: int,
    seed: int,
    size: int = 5120,
    mpp: float = 1.0,
    tiles: Path | None = None,
    painting: Painting | None = None,
) -> list[tuple[str, SlidePlan]]:
    """Plan the slides of a cohort, each with its split; the arguments are `paint_cohort`'s."""
    painting = painting or default_painting(tiles)
    if slides < painting.classes or seed < 0:
        raise ValueError(
            f"slides must be {painting.classes} or more, one of each class, and seed 0 or more, "
            f"not {slides} and {seed}"
        )
    shares = _share_tiles(tiles, painting, seed)
    plans = []
    for number, (split, count) in enumerate(zip(SPLITS, _counts(slides, painting), strict=True)):
        for index, (pair, lesion) in enumerate(_pairs(count, painting)):
            own, shared = (seed, number, 0, index), (seed, number, 1, pair)
            plan = SlidePlan(own, shared, lesion, size, mpp, painting, shares[number])
            plans.append((split, plan))
    return plans


def _share_tiles(
    tiles: Path | None, painting: Painting, seed: int
) -> tuple[TileFiles | None, TileFiles | None, TileFiles | None]:
    """Deal tile files out to the splits, so that no two are made of the same."""
    if tiles is None:
        return None, None, None
    files = find_tiles(
        tiles,
        mpp=painting.tile_mpp,
        normal_class=painting.normal_class,
        lesion_class=painting.lesion_class,
    )
    train, val, test = files.shares(painting.splits, seed)
    return train, val, test


def _counts(slides: int, painting: Painting) -> list[int]:
    """Give how many slides each split has: none, or enough for one of each class."""
    ends = np.rint(np.cumsum((0, *painting.splits)) * slides).astype(int)
    # With few slides one trains first, then tests, then chooses by some.
    asked = [split for split in (0, 2, 1) if painting.splits[split] > 0]
    served = asked[: slides // painting.classes]
    counts = [
        max(int(count), painting.classes) if split in served else 0
        for split, count in enumerate(np.diff(ends))
    ]
    while sum(counts) != slides:
        counts[counts.index(max(counts))] += 1 if sum(counts) < slides else -1
    return counts


def _pairs(slides: int, painting: Painting) -> list[tuple[int, bool]]:
    """Give (pair, lesion) of the slides of a split, classes in turn while both last."""
    positive = round(slides * painting.positive_share)
    if slides and painting.classes == 2:
        positive = min(max(positive, 1), slides - 1)
    kinds = [(pair, False) for pair in range(slides - positive)]
    kinds += [(pair, True) for pair in range(positive)]
    return sorted(kinds)


def _compose(plan: SlidePlan) -> tuple[Mosaic, Layout]:
    """Draw all that a slide's pixels depend on."""
    layout, own = _lay_out(plan), [_generator(*plan.seed, purpose) for purpose in (1, 2)]
    stain = _generator(*plan.pair, 3)
    if plan.tiles is None:
        textures = Painter(own[0], plan.mpp).textures(draw_stain(stain))
    else:
        textures = tile_textures(plan.tiles, plan.mpp, own[0], stain)
    return Mosaic(layout, textures, own[1], overlap=OVERLAP_PX), layout


def _lay_out(plan: SlidePlan) -> Layout:
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
    least = (Painting() if plan.tiles is None else OF_TILES).regions
    fewer = ", fewer lesions (--lesions)" if painting.regions > least else ""
    return ValueError(
        f"a slide of {plan.size} px at {plan.mpp:g} um per pixel, {painting.tissue_share:.0%} of "
        f"it tissue, has no room for {painting.regions} regions of which {painting.lesions} have "
        f"a lesion of {lesion_um:.0f} um inside; ask for larger slides (--size){fewer} or smaller "
        "lesions (--lesion-um)."
    )


def _generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed))


def _paint_one(out: Path, name: str, plan: SlidePlan, threads: int, stop: Event) -> None:
    """Paint a slide and its outlines."""
    layout = paint_slide(out / "slides" / f"{name}.tif", plan, threads=threads, stop=stop)
    if plan.lesion:
        _write_outlines(out / "outlines" / f"{name}.geojson", layout.lesions, plan.mpp)


def _row(name: str, split: str, plan: SlidePlan) -> dict[str, object]:
    """Give a slide's row of the table; its stratum is how large its lesions are."""
    size = "small" if plan.lesion_scale < 0.9 else "large"
    return {
        "slide_id": name,
        "path": f"slides/{name}.tif",
        "label": "tumor" if plan.lesion else "normal",
        "patient_id": name.replace("slide", "patient"),
        "mpp": plan.mpp,
        "split": split,
        "stratum": size if plan.lesion else "none",
        "outlines": f"outlines/{name}.geojson" if plan.lesion else "",
    }


def _write_outlines(path: Path, lesions: tuple[Blob, ...], mpp: float) -> None:
    """Write lesions as GeoJSON that QuPath opens: polygons in level-0 pixels."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{path.stem}/{number}")),
            "geometry": {
                "type": "Polygon",
                "coordinates": [np.round(lesion.polygon() / mpp, 2).tolist()],
            },
            "properties": {
                "objectType": "annotation",
                "name": f"lesion {number}",
                "classification": {"name": "tumor", "color": [200, 0, 0]},
            },
        }
        for number, lesion in enumerate(lesions, start=1)
    ]
    with whole_file(path) as part:
        part.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    with whole_file(path) as part, part.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path
