"""TCGA-PRAD: regions of prostate slides, benign, Gleason 3 or Gleason 4/5, cut from GDC slides.

The GDC's `gdc_manifest*.txt` (id, filename, md5, size) and `gdc_sample_sheet*.tsv` (File Name, Case
ID, Project ID), the slides at `ID/FILENAME` as its client puts them. Which 285 regions the paper
had was not released, so `regions.csv` is the user's: file_name, x, y (the top-left corner in
level-0 pixels) and label. Each region is 2000 x 2000 pixels at 1 um/px.
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
TEST_SHARE = 10 / 54  # of the paper's slides
REGION_PX, REGION_MPP = 2000, 1.0
NOTE = (
    "which 285 regions the paper had was not released: these are yours, so the numbers are not "
    "the paper's"
)


def read(folder: Path, seed: int) -> Listing:
    """List the regions; a patient's are all in one part, as many slides tested as in the paper.

    Raises:
        CohortError: a list is missing or of another project, or a region's slide is not listed.
    """
    manifest = _read_one(folder, "gdc_manifest*.txt", ("id", "filename", "md5", "size"))
    sheet = _read_one(folder, "gdc_sample_sheet*.tsv", ("file name", "case id", "project id"))
    cases = {cells["file name"]: _case(folder, cells) for cells in sheet}
    paths = {cells["filename"]: folder / cells["id"] / cells["filename"] for cells in manifest}
    regions = folder / "regions.csv"
    if not regions.exists():
        raise SOURCE.refuse(
            regions,
            "no such file. The paper's regions were not released, so name yours in it: columns "
            f"file_name, x, y (top-left, level-0 pixels) and label ({', '.join(LABELS)})",
        )
    rows = [
        _row(regions, number, cells, paths, cases)
        for number, cells in enumerate(
            read_table(SOURCE, regions, ("file_name", "x", "y", "label")), start=2
        )
    ]
    tested = hold_out(SOURCE, rows, TEST_SHARE, seed)
    split = tuple(replace(row, split="test" if row.slide_id in tested else "train") for row in rows)
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


def cut_region(row: Row, corner: tuple[float, float], folder: Path) -> Path:
    """Cut a region out of its slide as PNG, unless an earlier run has.

    Raises:
        SlideError: the slide cannot be read there.
        CohortError: the region leaves the slide.
    """
    path = folder / f"{row.slide_id}.png"
    if path.exists():
        return path
    folder.mkdir(exist_ok=True)
    with open_slide(row.path) as slide:
        side = REGION_PX * REGION_MPP / slide.mpp
        if max(corner[0] + side - slide.size[0], corner[1] + side - slide.size[1]) > 0:
            raise SOURCE.refuse(
                row.path,
                f"the region at x={corner[0]:.0f}, y={corner[1]:.0f} is {side:.0f} pixels wide and "
                f"leaves the slide of {slide.size[0]} x {slide.size[1]}; correct regions.csv",
            )
        pixels = slide.read(Box(*corner, side, side), REGION_MPP)
    with whole_file(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")
    return path


def _read_one(folder: Path, pattern: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read the one table of a name the GDC puts the date into."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SOURCE.refuse(folder, f"one file {pattern} is needed, and there is: {names}")
    return read_table(SOURCE, found[0], columns, delimiter="\t")


def _case(folder: Path, cells: dict[str, str]) -> str:
    if cells["project id"] != "TCGA-PRAD":
        raise SOURCE.refuse(
            folder, f"the sample sheet has a file of project {cells['project id']!r}"
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
        raise SOURCE.refuse(
            f"{regions} row {number}", f"{name!r} is not in the manifest and the sample sheet"
        )
    corner = _number(cells["x"]), _number(cells["y"])
    if label not in LABELS or min(corner) < 0 or not math.isfinite(sum(corner)):
        raise SOURCE.refuse(
            f"{regions} row {number}",
            f"x {cells['x']!r}, y {cells['y']!r}, label {label!r}; a corner within the slide and "
            f"one of {', '.join(LABELS)} are needed",
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
