"""The demonstration on few small slides: all steps run; learning is not tested."""

import json
import logging
from itertools import pairwise
from pathlib import Path

import pytest

from parfocal import demo


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "QUICK", demo.Scale(slides=16, side=1024, encoder="tiny", epochs=1))


@pytest.mark.usefixtures("toy")
def test_the_demonstration_writes_metrics_predictions_and_a_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    out = tmp_path / "demo"
    caplog.set_level(logging.INFO, "parfocal")
    said = [(line, len(caplog.records)) for line in demo.run_demo(out, quick=True)]
    silent = [
        line
        for (line, before), (_, after) in pairwise(said)
        if line[:4] in ("1/5 ", "2/5 ", "3/5 ", "4/5 ") and after < before + 2
    ]
    assert silent == []
    lines = [line for line, _ in said]
    assert lines[0] == lines[-1] == demo.QUICK_NOTE
    lines = lines[1:-1]
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert metrics["split"] == "test"
    predicted = sorted((out / "predictions").glob("*.json"))
    assert len(predicted) >= 4
    for path in predicted:
        assert json.loads(path.read_text())["cost"]["pixels_decoded"] > 0
        assert path.with_suffix(".png").exists()
    assert sum("visited" in line for line in lines) == len(predicted) + 3  # and step 5
    assert any(str(out / "predictions") in line for line in lines)
    assert str(out / "report.html") in lines[-1]
    assert "<h2>Accuracy against cost</h2>" in (out / "report.html").read_text()
    mean = json.loads((out / "evaluation-mean" / "metrics.json").read_text())
    assert mean["model"]["name"] == "mean"


def test_the_quick_demonstration_is_the_smaller_one():
    assert demo.QUICK.slides < demo.FULL.slides
    assert demo.QUICK.side < demo.FULL.side
    assert demo.QUICK.epochs < demo.FULL.epochs


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(demo.DemoError, match="already exists and is not empty"):
        next(demo.run_demo(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
