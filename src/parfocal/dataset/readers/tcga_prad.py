"""TCGA-PRAD: regions of prostate slides of the GDC; benign, Gleason 3 or Gleason 4/5.

Expected files: `gdc_manifest*.txt` (id, filename, md5, size) and `gdc_sample_sheet*.tsv` (File
Name, Case ID, Project ID) of the GDC, and the slides at `ID/FILENAME`, where its client saves them.
The 285 regions of the paper were not released, so the user provides `regions.csv`: file_name, x, y
(the top-left corner in level-0 pixels) and label. Each region is 2000 x 2000 pixels at 1 µm/px.
"""

import math
from dataclasses import replace
from pathlib import Path

from PIL import Image

from parfocal.dataset.readers.listing import Listing, Row, Source, hold_out, read_table
from parfocal.files import whole_file
from parfocal.slide.slide import Box, open_slide

SOURCE = Source(
    name="TCGA-PRAD",
    address="https://portal.gdc.cancer.gov/projects/TCGA-PRAD (open access)",
    license="the GDC's terms, open access",
    size="see the size column of your manifest",
)
LABELS = ("benign", "gleason3", "gleason45")
TEST_SHARE = 10 / 54  # slides, as in the paper
REGION_PX, REGION_MPP = 2000, 1.0
NOTE = (
    "the 285 regions of the paper were not released: these are your own, so results cannot be "
    "compared with the paper"
)


def read(folder: Path, seed: int) -> Listing:
    """List the regions, split by patient, with the share of test slides of the paper.

    Raises:
        CohortError: a list is missing or belongs to another project, or the slide of a region is
            not listed.
    """
    manifest = _read_one(folder, "gdc_manifest*.txt", ("id", "filename", "md5", "size"))
    sheet = _read_one(folder, "gdc_sample_sheet*.tsv", ("file name", "case id", "project id"))
    cases = {cells["file name"]: _case(folder, cells) for cells in sheet}
    paths = {cells["filename"]: folder / cells["id"] / cells["filename"] for cells in manifest}
    regions = folder / "regions.csv"
    if not regions.exists():
        raise SOURCE.error(
            regions,
            "no such file. The regions of the paper were not released, so list your own: columns "
            f"file_name, x, y (top-left corner, level-0 pixels) and label ({', '.join(LABELS)})",
        )
    rows = [
        _row(regions, number, cells, paths, cases)
        for number, cells in enumerate(
            read_table(SOURCE, regions, ("file_name", "x", "y", "label")), start=2
        )
    ]
    test_ids = hold_out(SOURCE, rows, TEST_SHARE, seed)
    split = tuple(
        replace(row, split="test" if row.slide_id in test_ids else "train") for row in rows
    )
    return Listing(
        split,
        notes=(NOTE,),
        sizes={
            paths[cells["filename"]]: int(cells["size"])
            for cells in manifest
            if cells["size"].isdecimal()
        },
        sums={paths[cells["filename"]]: cells["md5"] for cells in manifest},
    )


def crop_region(row: Row, corner: tuple[float, float], folder: Path) -> Path:
    """Save a region of a slide as PNG and return its path; an existing file is kept.

    Args:
        row: the region and its slide.
        corner: top-left corner (x, y) in level-0 pixels.
        folder: folder of the PNG.

    Raises:
        SlideError: the slide cannot be read.
        CohortError: the region reaches beyond the slide.
    """
    path = folder / f"{row.slide_id}.png"
    if path.exists():
        return path
    folder.mkdir(exist_ok=True)
    with open_slide(row.path) as slide:
        side = REGION_PX * REGION_MPP / slide.mpp
        if max(corner[0] + side - slide.size[0], corner[1] + side - slide.size[1]) > 0:
            raise SOURCE.error(
                row.path,
                f"the region at x={corner[0]:.0f}, y={corner[1]:.0f} is {side:.0f} pixels wide and "
                f"reaches beyond the slide of {slide.size[0]} x {slide.size[1]}; correct "
                "regions.csv",
            )
        pixels = slide.read(Box(*corner, side, side), REGION_MPP)
    with whole_file(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")
    return path


def _read_one(folder: Path, pattern: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read the only table that matches a pattern; the GDC adds the date to file names."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SOURCE.error(folder, f"exactly one file {pattern} is needed (found: {names})")
    return read_table(SOURCE, found[0], columns, delimiter="\t")


def _case(folder: Path, cells: dict[str, str]) -> str:
    if cells["project id"] != "TCGA-PRAD":
        raise SOURCE.error(
            folder, f"the sample sheet lists a file of project {cells['project id']!r}"
        )
    return cells["case id"]


def _row(
    regions: Path,
    number: int,
    cells: dict[str, str],
    paths: dict[str, Path],
    cases: dict[str, str],
) -> Row:
    name, label = cells["file_name"], cells["label"]
    if name not in paths or name not in cases:
        raise SOURCE.error(
            f"{regions} row {number}", f"{name!r} is not in the manifest and the sample sheet"
        )
    corner = _number(cells["x"]), _number(cells["y"])
    if label not in LABELS or min(corner) < 0 or not math.isfinite(sum(corner)):
        raise SOURCE.error(
            f"{regions} row {number}",
            f"found x {cells['x']!r}, y {cells['y']!r} and label {label!r}, expected a corner "
            f"within the slide and one of {', '.join(LABELS)}",
        )
    return Row(
        slide_id=f"{Path(name).stem}_{corner[0]:.0f}_{corner[1]:.0f}",
        path=paths[name],
        label=label,
        patient_id=cases[name],
        mpp=REGION_MPP,
        region=corner,
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
