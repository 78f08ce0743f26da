"""Paint a cohort of slides with known lesions from a seed.

Low magnification shows where a lesion may be, and only high magnification shows whether it is one.
Every slide has conspicuous regions; in a tumor slide some of them contain a lesion, and both kinds
look the same when shrunk. Color does not predict the class: slides are painted in pairs, one of
each class, that share only the stain, the amount of tissue and the size of the regions.
Cross-validation must keep the slides of a pair, which are neighbors in the table, in one fold. If
one slide of a pair is in the training set, a model that learns its stain predicts the wrong class
for the other.
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
from parfocal.slide.synthetic.endpoints import Endpoint, plan_endpoints
from parfocal.slide.synthetic.layout import Blob
from parfocal.slide.synthetic.painting import (
    Painting,
    SlidePlan,
    default_painting,
    paint_slide,
    plan_layout,
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
    endpoint: Endpoint | None = None,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Paint slides, their outlines and their table into a new folder.

    Args:
        out: folder for slides/, outlines/ and cohort.csv. If painting fails or is interrupted,
            the folder is left as it was.
        slides: number of slides, at least one per class.
        seed: seed of the cohort; the same seed produces the same bytes.
        size: side of a slide in pixels.
        mpp: microns per pixel.
        tiles: folder with one folder of real tissue tiles per class; None for painted texture.
        painting: contents of the slides; None for a default that suits the texture.
        endpoint: endpoint besides the class, see `parfocal.slide.synthetic.endpoints`; None for
            the class alone. It needs painted texture.
        threads: number of slides to paint at once.
        progress: called with the numbers of finished slides, starting at 0, and of all slides.

    Returns:
        The path of cohort.csv.

    Raises:
        ValueError: `out` is not empty, or a setting is invalid.
        SlideError: a tile of texture cannot be read.
    """
    columns: list[dict[str, object]] = [{} for _ in range(slides)]
    if endpoint is None:
        plans = plan_cohort(
            slides=slides, seed=seed, size=size, mpp=mpp, tiles=tiles, painting=painting
        )
    elif tiles is not None:
        raise ValueError("a cohort with an endpoint has painted texture; omit the tiles")
    else:
        planned = plan_endpoints(
            endpoint, slides=slides, seed=seed, size=size, mpp=mpp, painting=painting
        )
        plans = [(each.split, each.plan) for each in planned]
        columns = [each.columns for each in planned]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: the folder exists and is not empty. Choose a new folder.")
    for _, plan in plans:
        plan_layout(plan)  # fast; a slide without enough room is refused before hours of painting
    names = [f"slide-{number:04d}" for number in range(slides)]
    rows = [
        _row(name, split, plan) | own
        for name, (split, plan), own in zip(names, plans, columns, strict=True)
    ]
    is_new = not out.exists()
    try:
        for folder in FOLDERS:
            (out / folder).mkdir(parents=True)
        _paint_all(out, names, [plan for _, plan in plans], threads, progress)
        return _write_table(out / "cohort.csv", rows)
    except BaseException:
        for folder in FOLDERS:
            shutil.rmtree(out / folder, ignore_errors=True)
        if is_new:
            out.rmdir()
        raise


def _paint_all(
    out: Path,
    names: list[str],
    plans: list[SlidePlan],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Paint slides in threads; if one fails, stop all others before raising."""
    stop, each = Event(), max(1, threads // len(plans))
    if progress is not None:
        progress(0, len(plans))
    with ThreadPoolExecutor(threads) as pool:
        futures = [
            pool.submit(paint_with_outlines, out, name, plan, each, stop)
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
    """Plan the slides of a cohort without painting them; see `paint_cohort` for the arguments.

    Returns:
        The split and the plan of each slide.

    Raises:
        ValueError: a setting is invalid.
    """
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
    """Divide tile files among train, val and test, so that no two splits share a tile."""
    if tiles is None:
        return None, None, None
    files = find_tiles(
        tiles,
        mpp=painting.tile_mpp,
        normal_class=painting.normal_class,
        lesion_class=painting.lesion_class,
    )
    train, val, test = files.divide(painting.splits, seed)
    return train, val, test


def _counts(slides: int, painting: Painting) -> list[int]:
    """Return the number of slides in each split: 0, or enough for one of each class."""
    ends = np.rint(np.cumsum((0, *painting.splits)) * slides).astype(int)
    # With few slides, train comes before test, and test before val.
    requested = [split for split in (0, 2, 1) if painting.splits[split] > 0]
    filled = requested[: slides // painting.classes]
    counts = [
        max(int(count), painting.classes) if split in filled else 0
        for split, count in enumerate(np.diff(ends))
    ]
    while sum(counts) != slides:
        counts[counts.index(max(counts))] += 1 if sum(counts) < slides else -1
    return counts


def _pairs(slides: int, painting: Painting) -> list[tuple[int, bool]]:
    """Return (pair, lesion) of each slide of a split, alternating classes where possible."""
    positive = round(slides * painting.positive_share)
    if slides and painting.classes == 2:
        positive = min(max(positive, 1), slides - 1)
    kinds = [(pair, False) for pair in range(slides - positive)]
    kinds += [(pair, True) for pair in range(positive)]
    return sorted(kinds)


def paint_with_outlines(
    out: Path, name: str, plan: SlidePlan, threads: int = 1, stop: Event | None = None
) -> None:
    """Paint a slide and the outlines of its lesions.

    Args:
        out: folder with the folders slides and outlines.
        name: name of the slide.
        plan: the plan of the slide.
        threads: number of threads that paint tiles.
        stop: event that another thread sets to end painting with `KeyboardInterrupt`.
    """
    layout = paint_slide(out / "slides" / f"{name}.tif", plan, threads=threads, stop=stop)
    if plan.lesion:
        lesions = (*layout.lesions, *layout.second)
        _write_outlines(out / "outlines" / f"{name}.geojson", lesions, plan.mpp)


def _row(name: str, split: str, plan: SlidePlan) -> dict[str, object]:
    """Return a slide's row of the table; its stratum is the size of its lesions."""
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
    """Write lesions as GeoJSON polygons in level-0 pixels, which QuPath opens."""
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
