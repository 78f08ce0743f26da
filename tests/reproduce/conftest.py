"""Painted slides in the folder layout of each data set, and the tables made from them."""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parfocal.reproduce import Reproduction, read_table, reproduce
from parfocal.slide.write import write_pyramid

SIDE, MPP = 512, 0.5  # size of a painted slide
PHOTO = (128, 96)  # size of an image of BACH, 1/16 of its true side
LABELS = ("Benign", "InSitu", "Invasive", "Normal")

Tree = Callable[[Path], Path]

# Small networks, and patches that fit the small slides.
SMALL: dict[str, tuple[str, ...]] = {
    "zoommil-bright": ("slide.patch_size=32", "zoommil:model.k=1", "zoommil-eff:model.k=1"),
    "zoommil-camelyon16": ("slide.patch_size=64", "zoommil:model.k=3"),
    "magnet-camelyon": (
        *(
            "mean-rgb:model.thumbnail_px=32",
            "patch-level:slide.patch_size=64",
            "patch-level:model.dim=8",
        ),
        *("magnet-3:model.patches=[2, 2]", "magnet-4:model.patches=[2, 2, 1]"),
        *(
            f"{name}:{setting}"
            for name in ("magnet-3", "magnet-4")
            for setting in (
                *("model.backbone=small", "model.auxiliary_backbone=small", "model.hidden_dim=8"),
                *("model.picture_px=14", "model.leaf_px=32", "train.batch_size=4"),
            )
        ),
    ),
    "jsma-bach": ("slide.patch_size=16", "model.backbone=small", "model.thumbnail_px=32"),
    "jsma-prad": ("slide.patch_size=24", "model.backbone=small", "model.thumbnail_px=32"),
}


def small(name: str, *more: str, encoder: str = "tiny") -> Reproduction:
    """Read a table with small networks and patches."""
    return read_table(name, overrides=[*SMALL[name], *more], epochs=1, encoder=encoder)


def paint(path: Path, size: tuple[int, int], *, ill: bool, mpp: float, seed: int = 0) -> Path:
    """Write a slide: left half stained tissue, darker if ill; right half glass."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 40, (height, width, 3), dtype=np.uint8)
    pixels += np.array((110, 40, 120) if ill else (190, 90, 150), dtype=np.uint8)
    pixels[:, width // 2 :] = 245

    def tile(column: int, row: int) -> np.ndarray:
        return pixels[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]

    write_pyramid(path, tile, size, mpp=mpp, downsamples=(1, 4))
    return path


@pytest.fixture(scope="session")
def put_slide() -> Callable[..., Path]:
    """Paint a slide at a path of a data set; no two have the same pixels."""
    seeds = itertools.count()

    def put(path: Path, *, ill: bool, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return paint(path, size, ill=ill, mpp=MPP, seed=next(seeds))

    return put


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


LESION = (
    '<?xml version="1.0"?><ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" '
    'PartOfGroup="{}" Color="#F4FA58"><Coordinates><Coordinate Order="0" X="8" Y="8" />'
    '<Coordinate Order="1" X="90" Y="8" /><Coordinate Order="2" X="90" Y="90" /></Coordinates>'
    "</Annotation></Annotations><AnnotationGroups></AnnotationGroups></ASAP_Annotations>"
)


@pytest.fixture(scope="session")
def camelyon16(put_slide: Callable[..., Path]) -> Tree:
    """Eight slides, half of them test slides; tumor slides have outlines."""

    def make(folder: Path) -> Path:
        lines = ["image,type,class"]
        for group in ("normal", "tumor"):
            for number in (1, 2):
                lines.append(f"{group}_{number:03}.tif,{group},")
        lines += ["test_001.tif,tumor,macro", "test_002.tif,tumor,micro"]
        lines += ["test_003.tif,normal,negative", "test_004.tif,normal,negative"]
        write(folder / "evaluation/reference.csv", *lines)
        for line in lines[1:]:
            name, kind, _ = line.split(",")
            put_slide(folder / "images" / name, ill=kind == "tumor")
            if kind == "tumor":
                write(folder / f"annotations/{name[:-4]}.xml", LESION.format("_0"))
        return folder

    return make


@pytest.fixture(scope="session")
def camelyon(camelyon16: Tree, put_slide: Callable[..., Path]) -> Tree:
    """CAMELYON16 and eight patients of 17; two of the four tumor patients have no outlines."""

    def make(folder: Path) -> Path:
        camelyon16(folder / "CAMELYON16")
        lines = ["patient,stage"]
        for patient in range(8):
            stages = ("negative",) if patient < 4 else ("macro", "micro", "itc")
            for node, stage in enumerate(stages):
                name = f"patient_{patient:03}_node_{node}"
                lines.append(f"{name}.tif,{stage}")
                put_slide(folder / f"CAMELYON17/images/{name}.tif", ill=stage != "negative")
        write(folder / "CAMELYON17/stages.csv", *lines)
        for patient in (4, 7):  # one to learn from, one to test on
            drawn = folder / f"CAMELYON17/annotations/patient_{patient:03}_node_0.xml"
            write(drawn, LESION.format("metastases"))
        return folder

    return make


@pytest.fixture(scope="session")
def bright(put_slide: Callable[..., Path]) -> Tree:
    """Three slides of each class, one of them a test slide."""

    def make(folder: Path) -> Path:
        number = 0
        for part, count in (("Train", 2), ("Validation", 1)):
            for kind in ("Noncancerous", "Precancerous", "Cancerous"):
                for _ in range(count):
                    number += 1
                    path = folder / part / "WSIs" / kind / f"BRACS_{number}.svs"
                    put_slide(path, ill=kind == "Cancerous")
        return folder

    return make


@pytest.fixture(scope="session")
def bach(put_slide: Callable[..., Path]) -> Tree:
    """Three images of each class."""

    def make(folder: Path) -> Path:
        lines = []
        for label in LABELS:
            for number in range(3):
                lines.append(f"{label.lower()}{number}.tif,{label}")
                path = folder / "Photos" / label / f"{label.lower()}{number}.tif"
                put_slide(path, ill=label == "Invasive", size=PHOTO)
        write(folder / "Photos/microscopy_ground_truth.csv", *lines)
        return folder

    return make


@pytest.fixture(scope="session")
def prad(put_slide: Callable[..., Path]) -> Tree:
    """Three slides from three patients, each with a region of each class."""

    def make(folder: Path) -> Path:
        manifest = ["id\tfilename\tmd5\tsize\tstate"]
        sheet = ["File ID\tFile Name\tProject ID\tCase ID"]
        regions = ["file_name,x,y,label"]
        for number in range(3):
            name = f"TCGA-{number}.svs"
            size = put_slide(folder / f"id-{number}" / name, ill=number == 2).stat().st_size
            manifest.append(f"id-{number}\t{name}\t{'0' * 32}\t{size}\treleased")
            sheet.append(f"id-{number}\t{name}\tTCGA-PRAD\tcase-{number}")
            for place, label in enumerate(("benign", "gleason3", "gleason45")):
                regions.append(f"{name},{8 * place},{4 * place},{label}")
        write(folder / "gdc_manifest.txt", *manifest)
        write(folder / "gdc_sample_sheet.tsv", *sheet)
        write(folder / "regions.csv", *regions)
        return folder

    return make


@pytest.fixture(scope="session")
def trees(
    camelyon16: Tree, camelyon: Tree, bright: Tree, bach: Tree, prad: Tree
) -> dict[str, Tree]:
    """The function that makes the data of each table."""
    return {
        "zoommil-bright": bright,
        "zoommil-camelyon16": camelyon16,
        "magnet-camelyon": camelyon,
        "jsma-bach": bach,
        "jsma-prad": prad,
    }


@pytest.fixture(scope="session")
def made(trees: dict[str, Tree], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the output folder of a table, run once on fake data, with one seed and epoch."""
    folders: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in folders:
            data, out = (tmp_path_factory.mktemp(f"{name}-{what}") for what in ("data", "out"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("parfocal.dataset.readers.tcga_prad.REGION_PX", 200)
                reproduce(
                    *(small(name), trees[name](data), out),
                    **{"seeds": 1, "device": "cpu", "timed": 1, "partial": True},
                )
            folders[name] = out
        return folders[name]

    return run


@pytest.fixture
def cells() -> Callable[[Path], dict[tuple[str, str], dict[str, str]]]:
    """Read table.csv by row and column."""

    def read(out: Path) -> dict[tuple[str, str], dict[str, str]]:
        with (out / "table.csv").open(newline="", encoding="utf-8") as file:
            return {(row["row"], row["column"]): row for row in csv.DictReader(file)}

    return read


@pytest.fixture
def metrics() -> Callable[[Path], dict]:
    """Read the evaluation of a run."""
    return lambda run: json.loads((run / "evaluation" / "metrics.json").read_text())
