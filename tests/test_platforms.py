"""Commands do without what Windows and macOS lack: this is simulated, as far as it can be."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import parfocal
from parfocal.models.checkpoint import Checkpoint
from small import TINY, write_table

# Other packages are imported first: they have ways of their own on other systems.
LESS = """
import os, pathlib, signal, sys
import h5py, imagecodecs, matplotlib.figure, openslide, pytorch_lightning, scipy.ndimage
import shapely, sklearn.metrics, tifffile, torch, typer, uvicorn

for name in ("pread", "posix_fallocate", "sched_getaffinity", "fork", "geteuid", "getuid"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGALRM", "pthread_sigmask"):
    delattr(signal, name)
for name in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[name] = None

def refuse(*_, **__):
    raise OSError(1, "Operation not permitted")

pathlib.Path.hardlink_to = refuse
from parfocal.cli import main
main()
"""


def run(place: Path, *arguments: object) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(parfocal.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", LESS, *map(str, arguments)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stderr)


@pytest.mark.slow
def test_commands_do_without_what_other_systems_lack(
    tmp_path: Path, write_slide: Callable[..., Path], untrained: Checkpoint
):
    rows = []
    for number in range(8):
        path = write_slide(tmp_path / f"{number}.tif", dark=number % 2 == 1, seed=number)
        split = ("train", "train", "val", "test")[number // 2]
        rows.append((str(number), path.name, ("normal", "tumor")[number % 2], split))
    write_table(tmp_path / "cohort.csv", ("slide_id", "path", "label", "split"), *rows)
    untrained.save(tmp_path / "run")
    run(tmp_path, "inspect", "0.tif")
    run(tmp_path, "predict", "run", "0.tif", "--out", "predictions")
    extract = ("--encoder", "tiny", "--magnifications", "2.5,10", "--patch-size", "64")
    run(tmp_path, "extract", "cohort.csv", "--out", "features", *extract)
    settings = ("--set", "slide.patch_size=64", "--set", "model.k=2", "--epochs", "1")
    run(tmp_path, "train", "cohort.csv", "--out", "trained", *TINY, *settings)
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        *("0.json", "0.png", "predictions.csv")
    ]
