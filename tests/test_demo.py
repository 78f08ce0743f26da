"""The demonstration at toy size: that it goes the whole road, not that it learns."""

import json
from pathlib import Path

import pytest

from parfocal import demo


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SLIDES", 16)
    monkeypatch.setattr(demo, "SIDE", 2048)
    monkeypatch.setattr(demo, "ENCODER", "tiny")
    for settings in (demo.ZOOMING, demo.EVERYWHERE):
        monkeypatch.setitem(settings, "train.epochs", 1)


@pytest.mark.usefixtures("toy")
def test_the_demonstration_ends_with_metrics_and_live_predictions(tmp_path: Path):
    out = tmp_path / "demo"
    lines = list(demo.run_demo(out))
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert metrics["split"] == "test"
    predicted = sorted((out / "predictions").glob("*.json"))
    assert len(predicted) >= 4
    for path in predicted:
        assert json.loads(path.read_text())["cost"]["pixels_decoded"] > 0
        assert path.with_suffix(".png").exists()
    assert sum("looked at" in line for line in lines) == len(predicted) + 2
    assert any(str(out / "predictions") in line for line in lines)
    assert str(out / "report.html") in lines[-2]
    assert "<h2>Accuracy against cost</h2>" in (out / "report.html").read_text()
    assert lines[-1].endswith(f"parfocal view {out}")
    everywhere = json.loads((out / "evaluation-mean" / "metrics.json").read_text())
    assert everywhere["model"]["name"] == "mean"


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(demo.DemoError, match="there already, and not empty"):
        next(demo.run_demo(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
