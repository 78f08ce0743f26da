"""`parfocal features` says what a folder holds, and what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from command_result import CommandResult
from foreign_layouts import square_corners, write_clam, write_stamp, write_trident
from parfocal.encoders.loading import load_encoder
from parfocal.features.describe import describe_features
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings

Command = Callable[..., CommandResult]


@pytest.fixture
def folders(tmp_path: Path) -> dict[float, Path]:
    """Two slides at two magnifications, of which one has NaN."""
    made = {}
    for magnification, side in ((2.5, 4096), (10.0, 1024)):
        corners = square_corners(side, 8192 // side, 8192 // side)
        for slide in ("s1", "s2"):
            made[magnification] = write_trident(
                tmp_path / "job",
                slide,
                corners,
                np.ones((len(corners), 3)),
                magnification=magnification,
                size=(8192, 8192),
            )
    with h5py.File(made[10.0] / "s2.h5", "r+") as file:
        file["features"][3, 1] = np.nan
    return made


def test_the_command_prints_what_there_is(folders: dict[float, Path], parfocal: Command):
    result = parfocal("features", folders[10.0])
    assert result.code == 0
    assert result.out.splitlines() == [
        f"{folders[10.0]}: features by TRIDENT",
        "  slides      2",
        "  patch size  256 px",
        "  10x         128 patches, encoder uni2-h, 3 features, float32",
        "  encoder     encoder uni2-h gives 1,536 or 3,072 features per patch, and these have 3; "
        "slide files cannot be encoded so",
    ]
    given = ",".join(f"{magnification:g}={path}" for magnification, path in folders.items())
    result = parfocal("features", given, "--values", "--json")
    assert result.code == 1
    assert "not finite in 1 of the 64 rows" in result.err
    report = json.loads(result.out)
    assert (report["tool"], report["slides"], report["patch_size"]) == ("TRIDENT", 1, 256)
    assert report["magnifications"] == [
        {"magnification": 2.5, "encoder": "uni2-h", "dim": 3, "dtypes": ["float32"], "patches": 4},
        {"magnification": 10, "encoder": "uni2-h", "dim": 3, "dtypes": ["float32"], "patches": 64},
    ]
    assert list(report["problems"]) == ["s2"]


def test_features_without_places_say_so(tmp_path: Path):
    report = describe_features(
        write_stamp(tmp_path / "stamp", "s1", square_corners(256), np.ones((16, 4)))
    )
    assert not report.placed
    assert "positions   not in pixels" in report.lines()
    assert report.magnifications[0].dtypes == ("float16",)


def test_features_of_clam_are_described(tmp_path: Path, parfocal: Command):
    out = write_clam(tmp_path / "clam", "s1", square_corners(1024), np.ones((16, 4)))
    result = parfocal("features", f"20={out}")
    assert result.code == 0, result.err
    assert "  20x         16 patches, encoder unnamed, 4 features, float32" in result.out
    assert "their encoder is not named; train with --encoder NAME to name it" in result.out
    refused = parfocal("features", out)
    assert refused.code == 1
    assert "Give the magnification M with the folder, as M=" in refused.err
    assert "--features" not in refused.err


def test_our_own_features_are_described_too(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(90, 200, (256, 512, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s1.png")
    for size, name in ((64, "s1"), (32, "s2")):
        extract_cohort(
            [(name, tmp_path / "s1.png", 4.0)],
            tmp_path / name,
            encoder=load_encoder("tiny"),
            settings=SlideSettings((2.5,), size),
        )
    (tmp_path / "s2" / "s2.h5").rename(tmp_path / "s1" / "s2.h5")
    report = describe_features(tmp_path / "s1")
    assert (report.tool, report.slides, report.patch_size) == ("parfocal", 1, 64)
    assert report.magnifications[0].encoder == "tiny"
    assert "patch size 32, and s1.h5 has 64; they do not mix" in report.problems["s2"]


def first_damaged(folder: Path, slide: str) -> Path:
    """Add half a file that sorts before the others; return the folder."""
    whole = folder / f"{slide}.h5"
    (folder / "a0.h5").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return folder


@pytest.mark.parametrize("write", [write_trident, write_stamp])
def test_a_damaged_file_that_comes_first_hides_no_others(
    tmp_path: Path, write: Callable[..., Path]
):
    folder = first_damaged(write(tmp_path, "s1", square_corners(1024), np.ones((16, 4))), "s1")
    report = describe_features(folder)
    assert report.slides == 1
    assert "a0.h5: the feature file is incomplete or damaged" in report.problems["a0"]


def test_our_own_damaged_file_that_comes_first_hides_no_others(tmp_path: Path, parfocal: Command):
    Image.new("RGB", (512, 256), (180, 90, 160)).save(tmp_path / "s1.png")
    extract_cohort(
        [("s1", tmp_path / "s1.png", 4.0)],
        tmp_path / "features",
        encoder=load_encoder("tiny"),
        settings=SlideSettings((2.5,), 64),
    )
    result = parfocal("features", first_damaged(tmp_path / "features", "s1"))
    assert result.code == 1
    assert "slides      1, 1 cannot be used" in result.out
    assert "a0.h5: the feature file is incomplete or damaged" in result.err
    assert "Next: extract the slides that failed again, or leave them out" in result.err
    (tmp_path / "features" / "s1.h5").unlink()
    assert (
        "a0.h5: the feature file is incomplete" in parfocal("features", tmp_path / "features").err
    )
