"""Commands reach for no network, and need no home, no temporary folder and no particular user."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import parfocal
from network_guard import forbid_network
from parfocal.models.checkpoint import Checkpoint
from small import TINY, write_table

TESTS = Path(__file__).parent
# Telemetry is off in CI by itself; the guard has to hold without it.
HIDDEN = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "PYTEST_CURRENT_TEST", "HOME")
GUARDED = """
import sys
from network_guard import forbid_network
if not forbid_network():
    sys.exit(77)
"""
COMMAND = "from parfocal.cli import main; main()"
BARE = """
import pwd, tempfile

def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = unknown
tempfile._candidate_tempdir_list = lambda: ["/nowhere"]
"""


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    write_slide: Callable[..., Path],
    untrained: Checkpoint,
) -> Path:
    """A folder with a cohort and a run."""
    folder = tmp_path_factory.mktemp("place")
    rows = []
    for number in range(8):
        path = write_slide(folder / f"{number}.tif", dark=number % 2 == 1, seed=number)
        split = ("train", "train", "val", "test")[number // 2]
        rows.append((str(number), path.name, ("normal", "tumor")[number % 2], split))
    write_table(folder / "cohort.csv", ("slide_id", "path", "label", "split"), *rows)
    untrained.save(folder / "run")
    (folder / "home").mkdir()
    return folder


def run(place: Path, program: str, *arguments: object, home: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    environment["PYTHONPATH"] = f"{TESTS}:{Path(parfocal.__file__).parents[1]}"
    if home is not None:
        environment["HOME"] = str(home)
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, *map(str, arguments)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("the kernel cannot guard the network here")
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)


def test_the_guard_ends_a_process_that_looks_up_a_name_in_c_code():
    program = f"{GUARDED}import socket; socket.getaddrinfo('parfocal.invalid', 80)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=False,
        capture_output=True,
    )
    if done.returncode == 77:
        pytest.skip("the kernel cannot guard the network here")
    assert done.returncode == -signal.SIGSYS
    assert callable(forbid_network)


@pytest.mark.slow
def test_no_command_reaches_for_the_network_or_leaves_an_id_in_the_home(place: Path):
    home = place / "home"
    guarded = GUARDED + COMMAND
    common = ("--set", "slide.patch_size=64", "--set", "model.k=2", "--epochs", "1")
    run(place, guarded, "inspect", "0.tif", home=home)
    # The published encoder, in onnxruntime.
    run(
        place,
        guarded,
        *("extract", "cohort.csv", "--out", "features", "--magnifications", "5,10"),
        home=home,
    )
    encoder = ("--magnifications", "5,10", "--features", "features")
    run(place, guarded, "train", "cohort.csv", "--out", "trained", *encoder, *common[2:], home=home)
    run(place, guarded, "predict", "trained", "6.tif", "--out", "predictions", home=home)
    run(place, guarded, "evaluate", "trained", "cohort.csv", "--out", "evaluation", home=home)
    run(place, guarded, "report", "trained", "predictions", "--out", "report.html", home=home)
    run(place, guarded, "train", "cohort.csv", "--out", "live", *TINY, *common, home=home)
    written = [path for path in (place / "home").rglob("*") if path.is_file()]
    assert [path for path in written if "matplotlib" not in path.parts] == []  # its font list


@pytest.mark.slow
def test_a_user_without_name_home_or_temporary_folder_can_run_commands(place: Path):
    program, out = BARE + COMMAND, place / "any"
    common = (*TINY, "--set", "slide.patch_size=64", "--set", "model.k=2", "--epochs", "1")
    run(place, program, "inspect", "0.tif")
    run(place, program, "predict", "run", "0.tif", "--out", out / "predictions")
    run(place, program, "train", "cohort.csv", "--out", out / "run", *common)
    run(place, program, "evaluate", out / "run", "cohort.csv", "--out", out / "scores")
    run(place, program, "report", out, "--out", out / "report.html")
