"""Measure the tissue that zooming cannot reach, by the published rule and by descendants.

    python benchmarks/reach.py COHORT [--magnifications 1.25,2.5,10] [--k 12] [--json PATH]

COHORT is a table with the columns slide_id and path. No patch is encoded. For each list of
magnifications, the table has the mean and the worst slide's share of the tissue that has no patch
("out of reach"), the number of patches of the lowest magnification by both rules, the share of the
tissue in patches of the highest magnification with less than slide.min_tissue, and the number of
slides on which a model that zooms into K patches is expected to encode as many as there are.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from parfocal.cli.arguments import parse_magnifications
from parfocal.dataset import read_slides
from parfocal.features.header import SlideSettings
from parfocal.grid import PatchGrid, UnavailableMagnificationError, expected_patches
from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import open_slide
from parfocal.slide.tissue import Tissue, find_tissue

LADDERS = ("1.25,2.5,10", "1.25,2.5", "2.5,10", "2.5,5,10", "10")
COLUMNS = (
    *("magnifications", "slides", "share: mean", "share: worst", "descendants: worst"),
    *("lowest patches: share", "descendants", "growth", "highest patches"),
    *("below min: mean", "below min: worst", "nothing to skip"),
)


def find_tissues(cohort: Path) -> list[Tissue]:
    tissues = []
    for slide in read_slides(cohort):
        with open_slide(slide.path, mpp=slide.mpp) as opened:
            tissues.append(find_tissue(opened))
    return tissues


def lay(tissue: Tissue, settings: SlideSettings) -> PatchGrid | None:
    """Return the patches of a slide; None if it does not have the magnifications."""
    rule = settings.rule
    try:
        return PatchGrid.over(
            tissue,
            [mpp_of(magnification) for magnification in settings.magnifications],
            settings.patch_size,
            min_tissue=rule.min_tissue,
            children=rule.children,
            roots=rule.roots,
        )
    except UnavailableMagnificationError:
        return None


def measure(tissues: Sequence[Tissue], ladder: tuple[float, ...], k: int) -> dict[str, object]:
    """Return one row of the table."""
    grids = [
        (share, descendants)
        for tissue in tissues
        if (share := lay(tissue, SlideSettings(ladder, roots="share"))) is not None
        and (descendants := lay(tissue, SlideSettings(ladder))) is not None
    ]
    reaches = [(share.reach, descendants.reach) for share, descendants in grids]
    assert all(share is not None and descendants is not None for share, descendants in reaches)
    lost = [share.unreachable for share, _ in reaches]
    below = [descendants.below_min_tissue for _, descendants in reaches]
    lowest = [sum(grid.valid(0).sum() for grid in rule) for rule in zip(*grids, strict=True)]
    nothing = [expected_patches(grid, k, ladder).nothing_to_skip for _, grid in grids]
    return {
        "magnifications": ", ".join(f"{magnification:g}" for magnification in ladder),
        "slides": len(grids),
        "share: mean": statistics.mean(lost),
        "share: worst": max(lost),
        "descendants: worst": max(reach.unreachable for _, reach in reaches),
        "lowest patches: share": int(lowest[0]),
        "descendants": int(lowest[1]),
        "growth": lowest[1] / lowest[0],
        "highest patches": sum(grid.sharpest_patches for _, grid in grids),
        "below min: mean": statistics.mean(below),
        "below min: worst": max(below),
        "nothing to skip": sum(text is not None for text in nothing),
    }


def text_of(column: str, value: object) -> str:
    if column == "growth":
        return f"{value:.2f}"
    return f"{value:.1%}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cohort", type=Path, help="table with the columns slide_id and path")
    parser.add_argument("--magnifications", action="append", metavar="LIST", help="repeatable")
    parser.add_argument("--k", type=int, default=12, help="patches to zoom into")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to this file")
    arguments = parser.parse_args()
    tissues = find_tissues(arguments.cohort)
    ladders = [parse_magnifications(text) for text in arguments.magnifications or LADDERS]
    rows = [measure(tissues, ladder, arguments.k) for ladder in ladders]
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(text_of(column, row[column]) for column in COLUMNS) + " |")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
