import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from parfocal.explain.read_record import read_prediction
from parfocal.explain.record import PredictionRecord
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.visit import given_budget
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
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
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


def test_predictions_by_another_model_are_not_mixed_or_replaced_without_a_word(
    tmp_path: Path, slide: Path, untrained: Checkpoint, caplog: pytest.LogCaptureFixture
):
    copy = tmp_path / "two.tif"
    copy.write_bytes(slide.read_bytes())
    out = tmp_path / "out"
    list(predict_slides([slide, copy], untrained, out))
    list(predict_slides([slide], untrained, out))
    assert "another model" not in caplog.text
    list(predict_slides([slide], given_budget(untrained, "patches=30"), out))
    assert "1 prediction by another model" in caplog.text
    assert "such as one.json; predictions are replaced if" in caplog.text
    assert "such as two.json; predictions.csv keeps their rows" in caplog.text


def test_the_json_file_holds_the_returned_record(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    (found,) = predict_slides([slide], untrained, tmp_path)
    assert isinstance(found, PredictionRecord)
    assert (tmp_path / "one.json").read_text() == found.to_json()


def test_two_slides_of_one_name_are_refused(tmp_path: Path, untrained: Checkpoint):
    paths = [tmp_path / "a" / "one.svs", tmp_path / "b" / "one.tif"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"II*\0")
    with pytest.raises(ValueError, match=r"a/one\.svs and .*b/one\.tif would both .* 'one'"):
        next(predict_slides(paths, untrained, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_slide_listed_twice_is_predicted_once(tmp_path: Path, slide: Path, untrained: Checkpoint):
    assert len(list(predict_slides([slide, slide], untrained, tmp_path / "out"))) == 1


def record_of(result: PredictionRecord | FailedSlide) -> PredictionRecord:
    assert isinstance(result, PredictionRecord)
    return result


@pytest.fixture
def copied(tmp_path: Path, slide: Path) -> Path:
    """A slide that a test may change."""
    path = tmp_path / "slides" / slide.name
    path.parent.mkdir()
    path.write_bytes(slide.read_bytes())
    return path


@pytest.fixture
def predicted(tmp_path: Path, copied: Path, untrained: Checkpoint) -> dict[str, bytes]:
    """The files of a first prediction into `out`."""
    list(predict_slides([copied], untrained, tmp_path / "out"))
    return {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")}


def test_a_slide_is_not_predicted_again(
    tmp_path: Path, copied: Path, untrained: Checkpoint, predicted: dict[str, bytes]
):
    (record,) = predict_slides([copied], untrained, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")} == predicted
    assert record_of(record).to_json().encode() == predicted["one.json"]


@pytest.mark.parametrize(
    "change", ["again", "mpp", "settings", "weights", "slide", "picture", "json", "version"]
)
def test_a_slide_is_predicted_again_if_anything_has_changed(
    tmp_path: Path, copied: Path, untrained: Checkpoint, predicted: dict[str, bytes], *, change: str
):
    out, options = tmp_path / "out", {}
    if change == "again":
        options = {"again": True}
    if change == "mpp":
        options = {"mpp": 1.0}
    if change == "settings":
        untrained = replace(untrained, slide=replace(untrained.slide, min_tissue=0.2))
    if change == "weights":
        untrained = replace(untrained, stored_hash="0" * 64)
    if change == "slide":
        copied.write_bytes(copied.read_bytes() + b" " * 2)
    if change == "picture":
        (out / "one.png").unlink()
    if change == "json":
        (out / "one.json").write_text("{")
    if change == "version":
        text = (
            (out / "one.json")
            .read_text()
            .replace('"parfocal_version": "', '"parfocal_version": "0')
        )
        (out / "one.json").write_text(text)
    (record,) = predict_slides([copied], untrained, out, **options)
    seconds = record_of(record).cost.seconds
    assert json.loads(predicted["one.json"])["cost"]["seconds"] != seconds


def test_the_path_of_a_slide_that_was_moved_is_updated(
    tmp_path: Path, copied: Path, untrained: Checkpoint, predicted: dict[str, bytes]
):
    moved = tmp_path / "moved" / copied.name
    moved.parent.mkdir()
    copied.rename(moved)
    (record,) = predict_slides([moved], untrained, tmp_path / "out")
    assert record_of(record).slide.path == str(moved)
    content = json.loads((tmp_path / "out" / "one.json").read_text())
    assert content["slide"].pop("path") == str(moved)
    first = json.loads(predicted["one.json"])
    del first["slide"]["path"]
    assert content == first


def test_a_failure_keeps_an_earlier_prediction(
    tmp_path: Path, copied: Path, untrained: Checkpoint, predicted: dict[str, bytes]
):
    copied.unlink()
    (result,) = predict_slides([copied], untrained, tmp_path / "out")
    assert isinstance(result, FailedSlide)
    assert (tmp_path / "out" / "one.json").read_bytes() == predicted["one.json"]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert "no such file" in row["failed"].lower()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a damaged field"), MemoryError(), OSError(5, "Input/output error")]
)
def test_any_error_is_the_failure_of_its_slide(
    tmp_path: Path,
    slide: Path,
    untrained: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
):
    def fail(path: Path, **_: object) -> None:
        raise error

    monkeypatch.setattr("parfocal.predict.folder.open_slide", fail)
    (result,) = predict_slides([slide], untrained, tmp_path / "out")
    assert isinstance(result, FailedSlide)


def test_a_full_disk_ends_the_batch_and_keeps_what_is_finished(
    tmp_path: Path, slide: Path, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
):
    second = tmp_path / "second.tif"
    second.write_bytes(slide.read_bytes())
    results = predict_slides([slide, second, tmp_path / "third.tif"], untrained, tmp_path / "out")
    next(results)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("parfocal.predict.folder.write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        next(results)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert [row["slide_id"] for row in csv.DictReader(file)] == ["one"]
    assert (tmp_path / "out" / "one.json").exists()


def test_a_name_that_is_not_utf_8_is_printable(tmp_path: Path, slide: Path, untrained: Checkpoint):
    odd = tmp_path / os.fsdecode(b"caf\xe9.tif")
    odd.write_bytes(slide.read_bytes())
    (record,) = predict_slides([odd], untrained, tmp_path / "out")
    assert record_of(record).slide.id == "caf%E9"
    table = (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8")
    assert f"caf%E9,{tmp_path}/caf%E9.tif" in table
    assert read_prediction(tmp_path / "out" / "caf%E9.json").slide.path == str(odd)
    (again,) = predict_slides([odd], untrained, tmp_path / "out")
    assert record_of(again).cost == record_of(record).cost


def test_after_an_interruption_the_table_lists_the_predicted_slides(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    results = predict_slides([slide, tmp_path / "never.tif"], untrained, tmp_path / "out")
    next(results)
    results.close()
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 2
