"""The example scripts run on tiny data."""

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def write_idx(path: Path, content: np.ndarray) -> None:
    sizes = np.array(content.shape, dtype=">u4").tobytes()
    stored = b"\0\0\x08" + bytes([content.ndim]) + sizes + content.tobytes()
    path.write_bytes(gzip.compress(stored) if path.suffix == ".gz" else stored)


@pytest.mark.slow
def test_megapixel_mnist_writes_the_error_of_each_estimator_by_epoch(tmp_path: Path):
    rng = np.random.default_rng(0)
    for part, suffix in (("train", ""), ("t10k", ".gz")):
        digits = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{suffix}", digits)
        labels = np.arange(40, dtype=np.uint8) % 10
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", labels)
    sizes = ["--side", "200", "--train", "4", "--test", "2", "--epochs", "2", "--batch", "2"]
    script, out = EXAMPLES / "megapixel_mnist.py", tmp_path / "errors.csv"
    command = [sys.executable, str(script), str(tmp_path), "--out", str(out), *sizes]
    subprocess.run(command, check=True, capture_output=True)
    with out.open() as opened:
        rows = [(row["estimator"], row["epoch"]) for row in csv.DictReader(opened)]
    assert rows == [(name, epoch) for name in ("unbiased", "published_gradient") for epoch in "12"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train-images-idx3-ubyte", "not an IDX file of bytes. Set DIGITS to"),
        ("else", "train-images-idx3-ubyte: no such file, nor with .gz. Set DIGITS to"),
    ],
)
def test_a_folder_without_idx_files_is_refused(tmp_path: Path, name: str, message: str):
    (tmp_path / name).write_bytes(b"no digits")
    script = EXAMPLES / "megapixel_mnist.py"
    command = [sys.executable, str(script), str(tmp_path), "--out", str(tmp_path / "errors.csv")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert message in done.stderr
