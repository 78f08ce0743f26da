"""Shared by tests of the command line: a small cohort, its features and a run on it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from small import SLIDES, TINY, write_table


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    """Slides of two classes with leading zeros in their names, split by the CSV."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(SLIDES):
        dark, path = number % 2 == 1, folder / f"{number:03}.tif"
        write_slide(path, dark=dark, seed=number)
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append((f"{number:03}", path.name, "tumor" if dark else "normal", split))
    return write_table(folder / "cohort.csv", ("slide_id", "path", "label", "split"), *rows)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, cohort: Path) -> Path:
    """A run folder, trained by a command in its own process."""
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "parfocal.cli", "train", str(cohort), "--out", str(out), *TINY]
    settings = ["--set", "slide.patch_size=64", "--set", "model.k=2", "--epochs", "2"]
    subprocess.run([*command, *settings, "--device", "cpu"], check=True, capture_output=True)
    return out


@pytest.fixture
def slide(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    return write_slide(tmp_path / "one.tif")


@pytest.fixture(scope="session")
def extracted(tmp_path_factory: pytest.TempPathFactory, cohort: Path) -> Path:
    """Features of the cohort, extracted by a command in its own process."""
    folder = tmp_path_factory.mktemp("features")
    command = [sys.executable, "-m", "parfocal.cli", "extract", str(cohort), "--out", str(folder)]
    done = subprocess.run(
        [*command, *TINY, "--patch-size", "64"], check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{SLIDES} slides extracted, 0 already in {folder}\n"
    return folder


@pytest.fixture
def features(extracted: Path, tmp_path: Path) -> Path:
    """A copy of the features that a test may damage."""
    return Path(shutil.copytree(extracted, tmp_path / "features"))
