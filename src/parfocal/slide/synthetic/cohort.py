"""A cohort of slides painted from a seed, its lesions known.

Low magnification tells where to look, and only sharp pixels tell what it is: every slide has
regions that catch the eye, in some of those of a tumor slide lies a lesion, and shrunk the two
look the same. Color tells nothing: slides are painted in pairs, one of each class, that share
stain, amount of tissue and size of regions, and nothing else. (Who cross-validates on such
slides keeps pairs, which are neighbors in the table, together: a twin of the other class left
among those learned from turns chance into less than chance.)
"""

import csv
import json
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event

import numpy as np

from parfocal.files import whole_file
from parfocal.slide.synthetic.layout import Blob
from parfocal.slide.synthetic.painting import (
    Painting,
    SlidePlan,
    default_painting,
    layout_of,
    paint_slide,
)
from parfocal.slide.synthetic.tissue_tiles import TileFiles, find_tiles

SPLITS = ("train", "val", "test")
FOLDERS = ("slides", "outlines")


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
        layout_of(plan)  # in a moment, and what has no room is refused before hours of painting
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
