import json
import shutil

import pytest

from explain.demo_folder import write_json
from parfocal.explain.library import load_library
from parfocal.explain.truths import LibraryError


def test_a_folder_like_that_of_demo_is_found_completely(folder):
    library = load_library([folder])
    assert [slide.id for slide in library.slides.values()] == ["a", "b", "c"]
    assert library.problems == []
    assert next(iter(library.slides.values())).truth.label == "tumor"


def test_a_single_prediction_can_be_shown(folder):
    (slide,) = load_library([folder / "predictions" / "b.json"]).slides.values()
    assert (slide.id, slide.truth.label) == ("b", None)


def test_labels_are_read_from_the_given_cohort_table(folder):
    cohort = folder / "cohort" / "cohort.csv"
    slides = load_library([folder / "predictions"], cohort=cohort).slides.values()
    assert [slide.truth.label for slide in slides] == ["tumor", "normal", "normal"]


def test_labels_are_read_from_the_split_of_a_run(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "split.csv").write_text("slide_id,patient_id,label,split\nb,b,tumor,test\n")
    slides = load_library([folder / "predictions", run]).slides.values()
    assert [slide.truth.label for slide in slides] == [None, "tumor", None]


def test_tables_that_disagree_on_a_label_are_refused(folder, tmp_path):
    (tmp_path / "split.csv").write_text("slide_id,patient_id,label,split\na,a,normal,test\n")
    with pytest.raises(
        LibraryError, match=r"a: labeled 'tumor' in .*cohort.csv and 'normal' in .*sp"
    ):
        load_library([folder, tmp_path])


def test_a_slide_alone_can_be_shown(folder):
    (slide,) = load_library([folder / "cohort" / "a.tif"]).slides.values()
    assert (slide.predictions, slide.size, slide.problem) == ((), (1500, 1500), None)


def test_a_slide_and_its_prediction_are_one_entry(folder):
    library = load_library([folder / "cohort" / "b.tif", folder / "predictions" / "b.json"])
    (slide,) = library.slides.values()
    assert len(slide.predictions) == 1


def test_a_moved_slide_is_reported_and_found_in_the_given_folder(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    content["slide"]["path"] = "/gone/a.tif"
    file = write_json(tmp_path / "a.json", content)
    (slide,) = load_library([file]).slides.values()
    assert slide.problem is not None
    assert (
        "a: the slide is no longer at /gone/a.tif; name the folder it is in with --slides"
        in slide.problem
    )
    (tmp_path / "new" / "deep").mkdir(parents=True)
    shutil.copy(folder / "cohort" / "a.tif", tmp_path / "new" / "deep")
    (found,) = load_library([file], moved_to=[tmp_path / "new"]).slides.values()
    assert found.problem is None
    assert found.path == tmp_path / "new" / "deep" / "a.tif"


@pytest.mark.parametrize("recorded", ["/gone/demo/slides/a.tif", "demo/slides/a.tif"])
def test_a_slide_that_moved_together_with_its_prediction_is_found(folder, tmp_path, recorded):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    content["slide"]["path"] = recorded
    file = write_json(tmp_path / "demo" / "predictions" / "a.json", content)
    (tmp_path / "demo" / "slides").mkdir()
    shutil.copy(folder / "cohort" / "a.tif", tmp_path / "demo" / "slides")
    (found,) = load_library([file]).slides.values()
    assert found.problem is None
    assert found.path == tmp_path / "demo" / "slides" / "a.tif"


def test_a_missing_folder_of_moved_slides_is_refused(folder, tmp_path):
    with pytest.raises(
        LibraryError, match="nowhere: no such folder; give one that holds slides to --slides"
    ):
        load_library([folder], moved_to=[tmp_path / "nowhere"])


def test_unreadable_predictions_are_listed_and_the_others_shown(folder, tmp_path):
    shutil.copy(folder / "predictions" / "a.json", tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    write_json(tmp_path / "new.json", content | {"format_version": 9})
    (tmp_path / "cut.json").write_text("{")
    library = load_library([tmp_path])
    assert len(library.slides) == 1
    assert "cut.json: cannot be read (not valid JSON)" in library.problems[0]
    assert "new.json: prediction format version 9 is not supported" in library.problems[1]


def test_a_folder_without_predictions_is_refused(tmp_path):
    write_json(tmp_path / "metrics.json", {})
    with pytest.raises(LibraryError, match="no predictions here or in the direct subfolders"):
        load_library([tmp_path])


def test_if_no_prediction_can_be_read_the_error_has_the_reason(tmp_path):
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(LibraryError, match=r"cut\.json: cannot be read"):
        load_library([tmp_path])


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(LibraryError, match="nowhere: no such file or folder"):
        load_library([tmp_path / "nowhere"])
