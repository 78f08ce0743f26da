"""What the command line shows: view, report, and what predict writes for other viewers."""

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
    command = [sys.executable, "-m", "parfocal.cli", "view", str(folder), "--port", "0"]
    with subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        yield started
        started.kill()


def test_the_viewer_says_where_it_is_and_ends_with_ctrl_c(viewer: subprocess.Popen[str]):
    assert viewer.stdout is not None
    line = viewer.stdout.readline()
    assert line.startswith("3 slides at http://127.0.0.1:")
    with urlopen(line.split()[3] + "api/slides", timeout=60) as answer:
        assert len(json.load(answer)["slides"]) == 3
    viewer.send_signal(signal.SIGINT)
    out, err = viewer.communicate(timeout=60)
    assert (viewer.returncode, out, err) == (0, "", "")


def test_an_address_others_can_reach_is_warned_of(
    folder: Path, parfocal: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("parfocal.explain.viewer.serve", lambda library, listening: None)
    open_to_all = parfocal("view", folder, "--host", "0.0.0.0", "--port", "0", "--no-browser")
    assert "whoever can reach this address can see these slides" in open_to_all.err
    assert open_to_all.code == 0
    here = parfocal("view", folder, "--port", "0", "--no-browser")
    assert (here.code, here.err) == (0, "")


def test_nothing_to_view_is_a_line(tmp_path: Path, parfocal: Callable[..., CommandResult]):
    found = parfocal("view", tmp_path, "--no-browser")
    assert found.code == 1
    assert found.err.startswith(f"parfocal: {tmp_path}: no predictions here")
    assert found.err.count("\n") == 1


def test_a_report_is_written(folder: Path, tmp_path: Path, parfocal: Callable[..., CommandResult]):
    out = tmp_path / "report.html"
    found = parfocal("report", folder, "--out", out)
    assert found.code == 0
    assert "<h2>Worst mistakes</h2>" in out.read_text()
    told = re.fullmatch(r"(.*): (\d+) kB; open it in a browser\n", found.out)
    assert told[1] == str(out)
    assert int(told[2]) == round(out.stat().st_size / 1000) > 0


def test_predict_writes_for_other_viewers_when_asked(
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
