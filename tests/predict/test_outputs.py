"""Predictions replace neither slides nor predictions of other slides, and no row gets lost."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from parfocal.distribute.claims import ClaimError, hold
from parfocal.files import OutputError
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict import FailedSlide, predict_slides, table


@pytest.fixture
def slides(tmp_path: Path, slide: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    shutil.copy(slide, folder / "one.tif")
    return folder


@pytest.fixture
def other(tmp_path: Path, slide: Path) -> Path:
    """Another slide whose name is that of the first."""
    path = tmp_path / "other" / "one.tif"
    path.parent.mkdir()
    path.write_bytes(slide.read_bytes() + bytes(1))
    return path


def listed(out: Path) -> dict[str, str]:
    with (out / "predictions.csv").open(newline="") as file:
        return {row["slide_id"]: row["predicted"] for row in csv.DictReader(file)}


def test_the_folder_of_the_slides_is_refused_before_any_work(
    slides: Path, tmp_path: Path, untrained: Checkpoint
):
    (tmp_path / "link").symlink_to(slides)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "one.tif").symlink_to(slides / "one.tif")
    for path, out in (
        (slides / "one.tif", slides),
        (slides / "one.tif", tmp_path / "link"),
        (tmp_path / "link" / "one.tif", slides),
        (tmp_path / "linked" / "one.tif", slides),
        (tmp_path / "linked" / "one.tif", tmp_path / "linked"),
        (slides / "one.tif", slides / ".." / "slides"),
    ):
        with pytest.raises(OutputError, match=r"this folder holds the slide one\.tif"):
            next(predict_slides([path], untrained, out))
    assert [path.name for path in slides.iterdir()] == ["one.tif"]


def test_a_png_slide_is_not_replaced_by_its_map(tmp_path: Path, untrained: Checkpoint):
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(OutputError, match=f"{tmp_path}: .* Choose another --out"):
        next(predict_slides([tmp_path / "a.png"], untrained, tmp_path, mpp=1.0))
    assert (tmp_path / "a.png").read_bytes() == before


def test_the_folder_of_a_slide_that_is_a_folder_is_refused(tmp_path: Path, untrained: Checkpoint):
    (tmp_path / "series" / "out").mkdir(parents=True)
    (tmp_path / "mirax" / "a").mkdir(parents=True)
    (tmp_path / "mirax" / "a.mrxs").touch()
    for path, out in (
        (tmp_path / "series", tmp_path / "series"),
        (tmp_path / "series", tmp_path / "series" / "out"),
        (tmp_path / "mirax" / "a.mrxs", tmp_path / "mirax" / "a"),
    ):
        with pytest.raises(OutputError):
            next(predict_slides([path], untrained, out))


def test_another_slide_of_the_same_name_is_refused_unless_it_is_to_replace_the_first(
    slides: Path, other: Path, tmp_path: Path, untrained: Checkpoint
):
    out = tmp_path / "out"
    list(predict_slides([slides / "one.tif"], untrained, out))
    before = (out / "one.json").read_bytes()
    with pytest.raises(OutputError) as caught:
        next(predict_slides([other], untrained, out))
    assert str(caught.value) == (
        f"{out / 'one.json'}: this is the prediction of another slide, {slides / 'one.tif'}, "
        f"which {other} would replace. Choose another --out, or replace it with --replace."
    )
    assert (out / "one.json").read_bytes() == before
    (record,) = predict_slides([other], untrained, out, replace=True)
    assert record.slide.path == str(other)


def test_a_slide_that_moved_is_the_same_slide(slides: Path, tmp_path: Path, untrained: Checkpoint):
    list(predict_slides([slides / "one.tif"], untrained, tmp_path / "out"))
    slides.rename(tmp_path / "moved")
    assert list(predict_slides([tmp_path / "moved" / "one.tif"], untrained, tmp_path / "out"))


def test_two_jobs_on_one_folder_make_one_complete_table(
    slides: Path, tmp_path: Path, untrained: Checkpoint
):
    out = tmp_path / "out"
    shutil.copy(slides / "one.tif", slides / "two.tif")
    first = predict_slides([slides / "one.tif"], untrained, out)
    second = predict_slides([slides / "two.tif", slides / "none.tif"], untrained, out)
    next(first)  # both have begun before either has ended
    next(second)
    list(first)
    list(second)
    assert {name: label != "" for name, label in listed(out).items()} == {
        "none": False,
        "one": True,
        "two": True,
    }


def test_predictions_of_a_killed_call_are_in_the_table_of_the_next(
    slides: Path, tmp_path: Path, untrained: Checkpoint
):
    out = tmp_path / "out"
    shutil.copy(slides / "one.tif", slides / "two.tif")
    list(predict_slides([slides / "one.tif"], untrained, out))
    (out / "predictions.csv").unlink()
    (out / "notes.json").write_text("{}")
    (out / "copy.json").write_bytes((out / "one.json").read_bytes())  # its slide has another name
    list(predict_slides([slides / "two.tif"], untrained, out))
    assert sorted(listed(out)) == ["one", "two"]


def test_a_newer_prediction_replaces_the_row_of_a_failure(
    slides: Path, tmp_path: Path, untrained: Checkpoint
):
    out = tmp_path / "out"
    list(predict_slides([slides / "two.tif"], untrained, out))
    assert listed(out) == {"two": ""}
    shutil.copy(slides / "one.tif", slides / "two.tif")
    list(predict_slides([slides / "two.tif"], untrained, tmp_path / "elsewhere"))
    shutil.copy(tmp_path / "elsewhere" / "two.json", out)  # as another job, killed before its table
    list(predict_slides([slides / "one.tif"], untrained, out))
    assert all(listed(out).values())


def test_a_table_that_stays_busy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "MAX_WAIT_S", 0.1)
    with (
        hold(tmp_path / table.CLAIM_FILE),
        pytest.raises(ClaimError, match=f"{tmp_path}: in use by process"),
    ):
        table.update(tmp_path, ["normal"], {})


def test_a_model_without_a_finite_output_makes_no_prediction(
    slides: Path, tmp_path: Path, untrained: Checkpoint
):
    *_, weights = untrained.model.parameters()  # of the classifier
    before = weights.detach().clone()
    try:
        with torch.no_grad():
            weights.fill_(float("nan"))
        (found,) = predict_slides([slides / "one.tif"], untrained, tmp_path / "out")
    finally:
        with torch.no_grad():
            weights.copy_(before)
    assert isinstance(found, FailedSlide)
    assert "the model's output is not a finite number" in found.reason
    assert listed(tmp_path / "out") == {"one": ""}
    assert not (tmp_path / "out" / "one.json").exists()
