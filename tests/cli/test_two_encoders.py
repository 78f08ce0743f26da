"""An encoder for each magnification, on the command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_result import CommandResult
from parfocal.features.store import FeatureFile

TWO = "5=efficientnet-lite0,20=tiny"
LADDER = ("--magnifications", "5,20")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    pixels = np.full((96, 96, 3), 245, dtype=np.uint8)
    pixels[:, 16:80] = (190, 100, 160)
    pixels += np.random.default_rng(0).integers(0, 10, pixels.shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "cohort.csv").write_text("slide_id,path,mpp,label\na,a.png,0.5,well\n")
    return tmp_path / "cohort.csv"


def test_features_of_two_encoders_are_extracted(
    parfocal: Callable[..., CommandResult], table: Path, tmp_path: Path
):
    out = tmp_path / "features"
    command = ("extract", table, "--out", out, *LADDER, "--patch-size", 16, "--encoder", TWO)
    assert parfocal(*command).out == f"1 slide extracted, 0 already in {out}\n"
    assert [each.name for each in FeatureFile(out / "a.h5").encoders] == [
        "efficientnet-lite0",
        "tiny",
    ]
    assert parfocal(*command).out == f"0 slides extracted, 1 already in {out}\n"
    other = parfocal(*command[:-1], "tiny")
    assert other.code == 1
    assert "the features at 5x were made with encoder efficientnet-lite0" in other.err


@pytest.mark.parametrize("command", ["extract", "train", "compare"])
@pytest.mark.parametrize(
    "refusal",
    [
        ("5=tiny", "--encoder: 20x has no encoder, and the magnifications are 5, 20; add 20=NAME."),
        (f"{TWO},40=tiny", "40x has tiny, but "),
        ("5=tiny,20=tiny,20x=tiny", "20x is listed twice; list it once."),
    ],
)
def test_encoders_that_do_not_fit_the_magnifications_are_refused(
    parfocal: Callable[..., CommandResult], table: Path, tmp_path: Path, command, refusal
):
    encoder, message = refusal
    options = {
        "extract": LADDER,
        "train": LADDER,
        "compare": ("--models", "zoommil", "--set", "slide.magnifications=[5, 20]"),
    }
    out = tmp_path / "out"
    refused = parfocal(command, table, "--out", out, *options[command], "--encoder", encoder)
    assert refused.code == 2
    assert message in refused.err
    assert len(refused.err.strip().splitlines()) == 1
    assert not out.exists()


def test_one_weights_file_for_two_encoders_is_refused(
    parfocal: Callable[..., CommandResult], table: Path, tmp_path: Path
):
    weights = ("--encoder", TWO, "--weights", "lite0.pth")
    refused = parfocal("extract", table, "--out", tmp_path / "out", *LADDER, *weights)
    assert "--weights: lite0.pth is one file for several encoders; say for" in refused.err
    missing = ("--encoder", TWO, "--weights", "5=lite0.pth")
    refused = parfocal("extract", table, "--out", tmp_path / "out", *LADDER, *missing)
    assert "lite0.pth: no such weights file" in refused.err
