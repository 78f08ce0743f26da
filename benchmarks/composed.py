"""Compose a cohort of tissue tiles with one or more classes of lesions.

Some slides have only normal tiles; the others have one lesion with the tiles of a class, which
covers at most `--share` of the tissue. Every slide has a region that looks like a lesion at low
resolution. Training, validation and test share no tile. Slides with the same number in each class
have the same stain and amount of tissue, so that color does not predict the class. The classes have
the names of the folders of tiles.

    python benchmarks/composed.py TILES --classes H,AC,T --share 0.03 --out /tmp/three
"""

import argparse
import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from parfocal.slide.synthetic.cohort import FOLDERS, paint_with_outlines, plan_cohort
from parfocal.slide.synthetic.painting import TILE_PAINTING, SlidePlan

SPLITS = (0.465, 0.14, 0.395)


def plan(arguments: argparse.Namespace) -> list[tuple[str, str, SlidePlan]]:
    """Return the class, the split and the plan of every slide."""
    normal, *lesions = arguments.classes
    plans = []
    for number, name in enumerate(arguments.classes):
        painting = replace(
            TILE_PAINTING,
            tissue_share=0.68,
            splits=SPLITS,
            normal_class=normal,
            lesion_class=name if number else lesions[0],
            lesion_share=arguments.share,
            positive_share=float(number > 0),
        )
        planned = plan_cohort(
            slides=arguments.per_class,
            seed=arguments.seed,
            size=arguments.size,
            tiles=arguments.tiles,
            painting=painting,
        )
        for split, each in planned:
            # Slides with the same number share `pair` (stain, amount of tissue), not the layout.
            plans.append((name, split, replace(each, seed=(*each.seed, number))))
    return plans


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", type=Path, help="folder with a folder of tiles per class")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--classes", default="H,AC", help="names of classes, normal first")
    parser.add_argument("--share", type=float, default=0.02, help="of the tissue, at most")
    parser.add_argument("--per-class", type=int, default=56, help="number of slides of a class")
    parser.add_argument("--size", type=int, default=6144, help="side of a slide in pixels of 1 µm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.classes = arguments.classes.split(",")
    return arguments


def main() -> None:
    arguments = parse()
    planned = plan(arguments)
    for folder in FOLDERS:
        (arguments.out / folder).mkdir(parents=True)
    rows = [("slide_id", "path", "label", "split", "mpp", "outlines")]
    with ThreadPoolExecutor(arguments.threads) as pool:
        painted = []
        for number, (label, split, each) in enumerate(planned):
            name = f"slide-{number:04d}"
            outlines = f"outlines/{name}.geojson" if each.lesion else ""
            rows.append((name, f"slides/{name}.tif", label, split, "1", outlines))
            painted.append(pool.submit(paint_with_outlines, arguments.out, name, each))
        for number, future in enumerate(painted, start=1):
            future.result()
            print(f"\rpainted {number}/{len(planned)}", end="", flush=True)
    with (arguments.out / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    print(f"\n{arguments.out / 'cohort.csv'}")


if __name__ == "__main__":
    main()
