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

from parfocal.cli import main
from parfocal.models.checkpoint import Checkpoint


@pytest.fixture
def parfocal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["parfocal", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    return run


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
    folder: Path,
    parfocal: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("parfocal.explain.viewer.serve", lambda library, listening: None)
    assert parfocal("view", folder, "--host", "0.0.0.0", "--port", "0", "--no-browser") == 0
    assert "whoever can reach this address can see these slides" in capsys.readouterr().err
    assert parfocal("view", folder, "--port", "0", "--no-browser") == 0
    assert capsys.readouterr().err == ""


def test_nothing_to_view_is_a_line(
    tmp_path: Path, parfocal: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert parfocal("view", tmp_path, "--no-browser") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"parfocal: {tmp_path}: no predictions here")
    assert said.count("\n") == 1


def test_a_report_is_written(
    folder: Path,
    tmp_path: Path,
    parfocal: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "report.html"
    assert parfocal("report", folder, "--out", out) == 0
    assert "<h2>Worst mistakes</h2>" in out.read_text()
    told = re.fullmatch(r"(.*): (\d+) kB; open it in a browser\n", capsys.readouterr().out)
    assert told[1] == str(out)
    assert int(told[2]) == round(out.stat().st_size / 1000) > 0


def test_predict_writes_for_other_viewers_when_asked(
    tmp_path: Path,
    parfocal: Callable[..., int],
    untrained: Checkpoint,
    write_slide: Callable[..., Path],
):
    untrained.save(tmp_path / "run")
    slide, out = write_slide(tmp_path / "one.tif"), tmp_path / "out"
    options = ("--geojson", "--from-bounds", "--overlay")
    assert parfocal("predict", tmp_path / "run", slide, "--out", out, *options) == 0
    assert json.loads((out / "one.geojson").read_text())["type"] == "FeatureCollection"
    assert (out / "one.ome.tif").stat().st_size > 0
