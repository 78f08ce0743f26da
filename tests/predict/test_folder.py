import csv
from dataclasses import replace
from pathlib import Path

import pytest

from parfocal.explain.record import PredictionRecord
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.folder import FailedSlide, predict_slides


def test_the_path_is_written_from_the_root(
    tmp_path: Path, slide: Path, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(slide.parent)
    record, failed = predict_slides([Path(slide.name), Path("none.tif")], untrained, tmp_path)
    assert isinstance(record, PredictionRecord)
    assert record.slide.path == str(slide)
    assert isinstance(failed, FailedSlide)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == [str(slide), str(slide.with_name("none.tif"))]


def test_a_slide_that_fails_does_not_stop_the_others(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(slide.read_bytes()[:5000])
    found = list(predict_slides([broken, slide], untrained, tmp_path / "out"))
    assert isinstance(found[0], FailedSlide)
    assert "broken" in found[0].reason
    assert isinstance(found[1], PredictionRecord)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("one.json", "one.png", "predictions.csv")
    ]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["slide_id"], row["predicted"] != "") for row in rows] == [
        ("broken", False),
        ("one", True),
    ]
    assert rows[0]["failed"] == found[0].reason
    assert float(rows[1]["prob_normal"]) + float(rows[1]["prob_tumor"]) == pytest.approx(1)


def test_the_table_keeps_slides_of_earlier_calls(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    later = tmp_path / "later.tif"
    list(predict_slides([later, tmp_path / "none.tif"], untrained, tmp_path / "out"))
    later.write_bytes(slide.read_bytes())
    list(predict_slides([slide, later], untrained, tmp_path / "out"))
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == ["later", "none", "one"]
    assert [row["failed"] != "" for row in rows] == [False, True, False]
    assert rows[0]["prob_tumor"] == rows[2]["prob_tumor"] != ""


def test_predictions_of_other_classes_are_refused(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    list(predict_slides([slide], untrained, tmp_path))
    other = replace(untrained, labels=("benign", "cancer"))
    with pytest.raises(
        ValueError, match=r"predictions\.csv: the columns are .*prob_normal.* benign, "
    ):
        next(predict_slides([slide], other, tmp_path))
    assert "prob_normal" in (tmp_path / "predictions.csv").read_text()


def test_the_json_file_holds_the_returned_record(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    (found,) = predict_slides([slide], untrained, tmp_path)
    assert isinstance(found, PredictionRecord)
    assert (tmp_path / "one.json").read_text() == found.to_json()


def test_two_slides_of_one_name_are_refused(tmp_path: Path, untrained: Checkpoint):
    paths = [tmp_path / "a" / "one.svs", tmp_path / "b" / "one.tif"]
    with pytest.raises(ValueError, match=r"a/one\.svs and .*b/one\.tif would both .* 'one'"):
        next(predict_slides(paths, untrained, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_slide_listed_twice_is_refused(tmp_path: Path, untrained: Checkpoint):
    paths = [tmp_path / "one.svs", tmp_path / "one.svs"]
    with pytest.raises(ValueError, match=r"one\.svs: the slide is listed twice; list it once"):
        next(predict_slides(paths, untrained, tmp_path / "out"))


def test_after_an_interruption_the_table_lists_the_predicted_slides(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    results = predict_slides([slide, tmp_path / "never.tif"], untrained, tmp_path / "out")
    next(results)
    results.close()
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 2
