"""The demonstration on few small slides: all steps run; learning is not tested."""

import json
from pathlib import Path

import pytest

from parfocal import demo


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SLIDES", 16)
    monkeypatch.setattr(demo, "SIDE", 2048)
    monkeypatch.setattr(demo, "ENCODER", "tiny")
    for settings in (demo.ZOOM_SETTINGS, demo.EXHAUSTIVE_SETTINGS):
        monkeypatch.setitem(settings, "train.epochs", 1)


@pytest.mark.usefixtures("toy")
def test_the_demonstration_writes_metrics_predictions_and_a_report(tmp_path: Path):
    out = tmp_path / "demo"
    lines = list(demo.run_demo(out))
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert metrics["split"] == "test"
    predicted = sorted((out / "predictions").glob("*.json"))
    assert len(predicted) >= 4
    for path in predicted:
        assert json.loads(path.read_text())["cost"]["pixels_decoded"] > 0
        assert path.with_suffix(".png").exists()
    assert sum("visited" in line for line in lines) == len(predicted) + 3  # and step 5
    assert any(str(out / "predictions") in line for line in lines)
    assert str(out / "report.html") in lines[-2]
    assert "<h2>Accuracy against cost</h2>" in (out / "report.html").read_text()
    assert lines[-1].endswith(f"parfocal view {out}")
    mean = json.loads((out / "evaluation-mean" / "metrics.json").read_text())
    assert mean["model"]["name"] == "mean"


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(demo.DemoError, match="already exists and is not empty"):
        next(demo.run_demo(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
