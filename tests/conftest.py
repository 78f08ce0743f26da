"""Fixtures for tests of the whole path: small slides, an untrained model and the command line."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from command_result import CommandResult
from parfocal.cli import main
from parfocal.encoders.loading import load_encoder
from parfocal.features.header import SlideSettings
from parfocal.models.checkpoint import Checkpoint, TrainingProvenance, build_model
from parfocal.slide.write import write_pyramid

GLASS, PALE, DARK = (245, 245, 245), (220, 150, 190), (130, 60, 150)


def stained(side: int, *, dark: bool, seed: int = 0) -> np.ndarray:
    """Paint a slide whose left half is tissue, with pale or dark spots."""
    spots = np.random.default_rng(seed).random((side // 8, side // 8)) < 0.3
    tissue = np.where(spots[..., None], DARK if dark else PALE, (200, 110, 170))
    pixels = tissue.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    pixels[:, side // 2 - 16 :] = GLASS  # a patch begins in the middle
    return pixels


@pytest.fixture(scope="session")
def write_slide() -> Callable[..., Path]:
    """Return a function that writes a pyramid of given pixels, or of 1024 px with half tissue."""

    def write(
        path: Path,
        pixels: np.ndarray | None = None,
        *,
        dark: bool = False,
        seed: int = 0,
        mpp: float = 1.0,
    ) -> Path:
        picture = stained(1024, dark=dark, seed=seed) if pixels is None else pixels

        def tile(column: int, row: int) -> np.ndarray:
            return picture[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]

        write_pyramid(path, tile, picture.shape[1::-1], mpp=mpp, downsamples=(1, 4))
        return path

    return write


@pytest.fixture(scope="session")
def untrained() -> Checkpoint:
    """Return an untrained ZoomMIL from 2.5x to 10x with patches of 64 px, which zooms into 2."""
    encoder = load_encoder("tiny").spec
    settings = {"in_dim": encoder.dim, "num_classes": 2, "num_magnifications": 2, "k": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("zoommil", settings).eval()
    return Checkpoint(
        model=model,
        model_name="zoommil",
        model_settings=settings,
        labels=("normal", "tumor"),
        encoders=(encoder,) * 2,
        slide=SlideSettings((2.5, 10.0), 64),
        training=TrainingProvenance(0, 0),
    )


@pytest.fixture
def parfocal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CommandResult]:
    """Return a function that runs a command and returns its exit code and output."""

    def run(*arguments: object) -> CommandResult:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["parfocal", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return CommandResult(int(stop.value.code or 0), captured.out, captured.err)

    return run
