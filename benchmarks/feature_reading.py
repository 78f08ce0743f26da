"""Steps per second of ABMIL on stored features, and the share of a step spent waiting for them.

    python benchmarks/feature_reading.py [--slides 8] [--patches 10000] [--dim 1536] [--steps 40]

Writes slides of random features in two layouts to a temporary folder: that of parfocal (float16,
256 rows in a chunk) and that of TRIDENT (float32, one row in a chunk). Each is trained on in three
ways: rows read by HDF5; rows read at their positions in the file; and read ahead, while the step
before runs, as `parfocal train` does. The files were just written, so they come from memory, not
from the disk. A step is one slide: forward, backward and Adam, in single precision.
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

from parfocal.bag import StoredBag
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import StoredInputs
from parfocal.encoders.spec import ANY_MPP, EncoderSpec
from parfocal.features import rows
from parfocal.features.header import Header, SlideSettings
from parfocal.features.writer import create
from parfocal.grid import PatchGrid
from parfocal.models import ABMIL
from parfocal.train.read_ahead import ReadAheadLoader

MAGNIFICATION, PATCH_SIZE, SIDE = 20.0, 256, 512
WARM_UP = 4  # steps that are not timed
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
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own, trident = Path(folder) / "own", Path(folder) / "features_benchmark"
        slides = []
        for number in range(given.slides):
            slides.append(CohortSlide(f"{number}", Path(f"{number}.svs"), "a", "p", row=number))
            features = np.random.default_rng(number).normal(size=(given.patches, given.dim))
            write_own(own, f"{number}", features.astype(np.float16))
            write_trident(trident, f"{number}", features.astype(np.float32))
        print(f"{given.patches:,} x {given.dim:,}, {torch.get_num_threads()} threads")
        print("| layout | rows | steps per second | waiting |\n|---|---|---|---|")
        for layout, path in (("parfocal", own), ("TRIDENT", trident)):
            for way in ("HDF5", "at positions", "read ahead"):
                timing = train(path, slides, given.steps, way=way, device=given.device)
                rate, share = timing.steps / timing.seconds, timing.waiting / timing.seconds
                print(f"| {layout} | {way} | {rate:.2f} | {share:.1%} |", flush=True)


def train(path: Path, slides: list[CohortSlide], steps: int, *, way: str, device: str) -> Timing:
    """Train ABMIL on slides in turn, and time it."""
    settings = SlideSettings((MAGNIFICATION,), PATCH_SIZE)
    inputs = StoredInputs(path, settings, device=torch.device(device))
    torch.manual_seed(0)
    model = ABMIL(inputs.encoders[0].dim, 2).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    order = [step % len(slides) for step in range(steps + WARM_UP)]
    loader = DataLoader(order, batch_size=1, collate_fn=list)  # type: ignore[arg-type]
    batches = ReadAheadLoader(loader, slides, inputs) if way == "read ahead" else loader
    timing = Timing()
    with hdf5_only() if way == "HDF5" else no_change():
        for slide in slides:
            inputs.check(slide)  # as training does before the first step
        started = time.perf_counter()
        for step, (position,) in enumerate(batches):
            if step == WARM_UP:
                timing, started = Timing(), time.perf_counter()
            begin = time.perf_counter()
            with inputs.open(slides[position]) as opened:
                features = opened.model_input.features()
            timing.waiting += time.perf_counter() - begin
            loss = F.cross_entropy(
                model(StoredBag((features,))).logits, torch.tensor(step % 2, device=device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
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


def grid_of(patches: int) -> PatchGrid:
    """Return a grid of 100 patches in a row."""
    row, column = np.divmod(np.arange(patches), 100)
    return PatchGrid(
        mpps=(10 / MAGNIFICATION,),
        patch_size=PATCH_SIZE,
        slide_size=(100 * SIDE, (patches // 100 + 1) * SIDE),
        slide_mpp=0.25,
        roots=np.stack([column, row], axis=1),
        sharpest_patches=patches,
    )


def write_own(folder: Path, name: str, features: np.ndarray) -> None:
    """Write a feature file of parfocal."""
    spec = EncoderSpec(**{**SPEC, "dim": features.shape[1]})
    settings = SlideSettings((MAGNIFICATION,), PATCH_SIZE)
    header = Header((spec,), settings, grid_of(len(features)), name, f"{name:0>32}", "given")
    with create(folder / f"{name}.h5", header) as writer:
        for start in range(0, len(features), 64):  # as batches come from an encoder
            block = features[start : start + 64]
            writer.write(0, np.arange(start, start + len(block)), block)


def write_trident(folder: Path, name: str, features: np.ndarray) -> None:
    """Write a feature file as TRIDENT does."""
    folder.mkdir(exist_ok=True)
    width = features.shape[1]
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file.create_dataset("features", data=features, chunks=(1, width), maxshape=(None, width))
        coords = grid_of(len(features)).coords(0)
        file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2))
        file["features"].attrs["encoder"] = "benchmark"
        file["coords"].attrs.update(
            {
                "patch_size": PATCH_SIZE,
                "patch_size_level0": SIDE,
                "level0_magnification": 40,
                "target_magnification": MAGNIFICATION,
                "overlap": 0,
            }
        )


if __name__ == "__main__":
    main()
