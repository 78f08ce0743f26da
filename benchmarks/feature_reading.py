"""Steps per second of training on stored features, and the share of a step spent waiting for them.

    python benchmarks/feature_reading.py [--slides 8] [--patches 10000] [--dim 1536] [--steps 40]
    python benchmarks/feature_reading.py --zoom

Writes slides of random features in two layouts to a temporary folder: that of parfocal (float16,
256 rows in a chunk) and that of TRIDENT (float32, one row in a chunk). Each is trained on in three
ways: rows read by HDF5; rows read at their positions in the file; and read ahead, while the step
before runs, as `parfocal train` does. The files were just written, so they come from memory, not
from the disk. A step is one slide: forward, backward and Adam, in single precision. The model is
ABMIL on all patches; with --zoom, ZoomMIL at 2.5x and 10x, which reads the children of 12 patches.
Each slide is visited once before the time is taken.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.data import DataLoader

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import StoredInputs
from parfocal.encoders.spec import ANY_MPP, EncoderSpec
from parfocal.features import rows
from parfocal.features.header import Header, SlideSettings
from parfocal.features.timing import WaitTimer, timed
from parfocal.features.writer import create
from parfocal.grid import PatchGrid
from parfocal.models import MODELS
from parfocal.train.read_ahead import ReadAheadLoader

PATCH_SIZE, SLIDE_MPP = 256, 0.25
SPEC = {
    **{"name": "benchmark", "input_size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3},
    **{"mpp_range": ANY_MPP, "license": "none", "weights_hash": "random"},
}


@dataclass
class Timing:
    """Seconds of all timed steps, and seconds of these in which the model waited for features."""

    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0


def main() -> None:
    """Write the slides, train on them, and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--slides", type=int, default=8)
    options.add_argument("--patches", type=int, default=10_000)
    options.add_argument("--dim", type=int, default=1536)
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--zoom", action="store_true")
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    ladder = (2.5, 10.0) if given.zoom else (20.0,)
    with tempfile.TemporaryDirectory() as folder:
        own, trident = Path(folder) / "own", Path(folder) / "trident"
        slides = []
        for number in range(given.slides):
            slides.append(CohortSlide(f"{number}", Path(f"{number}.svs"), "a", "p", row=number))
            grid = grid_of(given.patches, ladder)
            draw = np.random.default_rng(number)
            tables = [draw.normal(size=(count, given.dim)) for count in grid.counts]
            write_own(own, f"{number}", grid, ladder, tables)
            write_trident(trident, f"{number}", grid, ladder, tables)
        counts = " and ".join(f"{count:,}" for count in grid.counts)
        print(f"{counts} x {given.dim:,}, {torch.get_num_threads()} threads")
        print("| layout | rows | steps per second | waiting |\n|---|---|---|---|")
        for layout, path in (("parfocal", own), ("TRIDENT", trident)):
            for way in ("HDF5", "at positions", "read ahead"):
                timing = train(path, slides, given.steps, ladder, way=way, device=given.device)
                rate, share = timing.steps / timing.seconds, timing.waiting / timing.seconds
                print(f"| {layout} | {way} | {rate:.2f} | {share:.1%} |", flush=True)


def train(
    path: Path,
    slides: list[CohortSlide],
    steps: int,
    ladder: tuple[float, ...],
    *,
    way: str,
    device: str,
) -> Timing:
    """Train a model on slides in turn, and time it."""
    settings = SlideSettings(ladder, PATCH_SIZE)
    inputs = StoredInputs(path, settings, device=torch.device(device))
    torch.manual_seed(0)
    zooms = {"num_magnifications": len(ladder)} if len(ladder) > 1 else {}
    name = "zoommil" if zooms else "abmil"
    model = MODELS[name].build(in_dim=inputs.encoders[0].dim, num_classes=2, **zooms).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    order = [step % len(slides) for step in range(steps + len(slides))]
    loader = DataLoader(order, batch_size=1, collate_fn=list)  # type: ignore[arg-type]
    batches = ReadAheadLoader(loader, slides, inputs) if way == "read ahead" else loader
    timing = Timing()
    with hdf5_only() if way == "HDF5" else no_change():
        for slide in slides:
            inputs.check(slide)  # as training does before the first step
        started = time.perf_counter()
        for step, (position,) in enumerate(batches):
            if step == len(slides):
                timing, started = Timing(), time.perf_counter()
            timer, begin = WaitTimer(), time.perf_counter()
            with inputs.open(slides[position]) as opened:
                timer.seconds += time.perf_counter() - begin
                logits = model(timed(opened.model_input, timer)).logits
                loss = F.cross_entropy(logits, torch.tensor(step % 2, device=device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss.item()
            timing.waiting += timer.seconds
            timing.steps += 1
    timing.seconds = time.perf_counter() - started
    return timing


@contextmanager
def hdf5_only() -> Iterator[None]:
    """Let HDF5 read all rows."""
    usual = rows.row_positions
    rows.row_positions = lambda dataset: None
    try:
        yield
    finally:
        rows.row_positions = usual


@contextmanager
def no_change() -> Iterator[None]:
    """Change nothing."""
    yield


def grid_of(patches: int, ladder: tuple[float, ...]) -> PatchGrid:
    """Return a grid of 100 patches in a row at the highest magnification, all of which exist."""
    ratio = round(ladder[-1] / ladder[0])
    columns = 100 // ratio
    row, column = np.divmod(np.arange(patches // ratio**2), columns)
    side = round(PATCH_SIZE * 10 / ladder[0] / SLIDE_MPP)
    return PatchGrid(
        mpps=tuple(10 / magnification for magnification in ladder),
        patch_size=PATCH_SIZE,
        slide_size=(columns * side, (int(row.max()) + 1) * side),
        slide_mpp=SLIDE_MPP,
        roots=np.stack([column, row], axis=1),
        sharpest_patches=patches // ratio**2 * ratio**2,
    )


def write_own(
    folder: Path,
    name: str,
    grid: PatchGrid,
    ladder: tuple[float, ...],
    tables: list[np.ndarray],
) -> None:
    """Write a feature file of parfocal."""
    spec = EncoderSpec(**{**SPEC, "dim": tables[0].shape[1]})
    settings = SlideSettings(ladder, PATCH_SIZE)
    header = Header((spec,) * len(ladder), settings, grid, name, f"{name:0>32}", "given")
    with create(folder / f"{name}.h5", header) as writer:
        for step, table in enumerate(tables):
            for start in range(0, len(table), 64):  # as batches come from an encoder
                block = table[start : start + 64].astype(np.float16)
                writer.write(step, np.arange(start, start + len(block)), block)


def write_trident(
    job: Path, name: str, grid: PatchGrid, ladder: tuple[float, ...], tables: list[np.ndarray]
) -> None:
    """Write the feature files of a slide as TRIDENT does, row by row of the slide."""
    for step, (magnification, table) in enumerate(zip(ladder, tables, strict=True)):
        folder = job / f"{magnification:g}x_{PATCH_SIZE}px_0px_overlap" / "features_benchmark"
        folder.mkdir(parents=True, exist_ok=True)
        width, coords = table.shape[1], grid.coords(step)
        order = np.lexsort(coords.T)
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for key, data in (("features", table.astype(np.float32)), ("coords", coords)):
                shape = (1, data.shape[1])
                file.create_dataset(
                    key, data=data[order], chunks=shape, maxshape=(None, data.shape[1])
                )
            assert file["features"].chunks == (1, width)
            file["features"].attrs["encoder"] = "benchmark"
            file["coords"].attrs.update(
                {
                    "patch_size": PATCH_SIZE,
                    "patch_size_level0": round(PATCH_SIZE * 40 / magnification),
                    "level0_magnification": 40,
                    "target_magnification": magnification,
                    "overlap": 0,
                }
            )


if __name__ == "__main__":
    main()
