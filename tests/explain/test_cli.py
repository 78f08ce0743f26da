"""The commands view and report, and the exports of predict."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from command_result import CommandResult
from parfocal.models.checkpoint import Checkpoint


@pytest.fixture
def viewer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from parfocal.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "view", str(folder), "--port", "0"]
    with subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        yield started
        started.kill()


def test_the_viewer_prints_its_address_and_ends_with_ctrl_c(viewer: subprocess.Popen[str]):
    assert viewer.stdout is not None
    line = viewer.stdout.readline()
    assert line.startswith("3 slides at http://127.0.0.1:")
    with urlopen(line.split()[3] + "api/slides", timeout=300) as answer:
        assert len(json.load(answer)["slides"]) == 3
    viewer.send_signal(signal.SIGINT)
    out, err = viewer.communicate(timeout=300)
    classes = "cohort.csv: 2 classes: normal 2, tumor 1 (3 slides, patients not given)\n"
    assert (viewer.returncode, out) == (0, "")
    assert classes in err
    assert "Traceback" not in err


def test_a_public_address_gives_a_warning(
    folder: Path, parfocal: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("parfocal.explain.viewer.serve", lambda library, listening, **_: None)
    open_to_all = parfocal("view", folder, "--host", "0.0.0.0", "--port", "0", "--no-browser")
    assert "other computers that reach this address see the slides" in open_to_all.err
    assert open_to_all.code == 0
    here = parfocal("view", folder, "--port", "0", "--no-browser")
    assert here.code == 0
    assert "other computers" not in here.err


def test_a_folder_without_predictions_is_an_error_of_one_line(
    tmp_path: Path, parfocal: Callable[..., CommandResult]
):
    found = parfocal("view", tmp_path, "--no-browser")
    assert found.code == 1
    assert found.err.startswith(f"parfocal: {tmp_path}: no predictions here")
    assert found.err.count("\n") == 1


def test_a_report_is_written(folder: Path, tmp_path: Path, parfocal: Callable[..., CommandResult]):
    out = tmp_path / "report.html"
    found = parfocal("report", folder, "--out", out)
    assert found.code == 0
    assert "<h2>Most confident errors</h2>" in out.read_text()
    printed = re.fullmatch(r"(.*): (\d+) kB\n", found.out)
    assert found.err == f"Next: open {out} in a browser\n"
    assert printed[1] == str(out)
    assert int(printed[2]) == round(out.stat().st_size / 1000) > 0


def test_predict_writes_the_requested_exports(
    tmp_path: Path,
    parfocal: Callable[..., CommandResult],
    untrained: Checkpoint,
    write_slide: Callable[..., Path],
):
    untrained.save(tmp_path / "run")
    slide, out = write_slide(tmp_path / "one.tif"), tmp_path / "out"
    options = ("--geojson", "--from-bounds", "--overlay")
    assert parfocal("predict", tmp_path / "run", slide, "--out", out, *options).code == 0
    assert json.loads((out / "one.geojson").read_text())["type"] == "FeatureCollection"
    assert (out / "one.ome.tif").stat().st_size > 0
