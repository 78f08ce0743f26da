"""A finished output folder may be read-only; an unfinished one is refused in one line."""

from command_result import assert_refused
from shared_work import make_read_only
from small import SLIDES, TINY

EXTRACT = (*TINY, "--patch-size", "64")


def test_features_that_are_all_there(parfocal, cohort, extracted, monkeypatch):
    make_read_only(extracted, monkeypatch)
    result = parfocal("extract", cohort, "--out", extracted, *EXTRACT)
    assert result.out == f"0 slides extracted, {SLIDES} already in {extracted}\n"
    assert result.code == 0


def test_a_folder_in_which_a_slide_is_left(parfocal, cohort, features, monkeypatch):
    (features / "003.h5").unlink()
    make_read_only(features, monkeypatch)
    result = parfocal("extract", cohort, "--out", features, *EXTRACT)
    assert_refused(result, f"1 of {SLIDES} slides are left to do, and the folder cannot be written")


def test_predictions_that_are_all_there(parfocal, run, slide, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = parfocal("predict", run, slide, "--out", out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    make_read_only(out, monkeypatch)
    again = parfocal("predict", run, slide, "--out", out)
    assert (again.code, again.out) == (0, first.out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_empty_folder_is_refused_at_once(parfocal, run, slide, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    make_read_only(tmp_path / "out", monkeypatch)
    result = parfocal("predict", run, slide, "--out", tmp_path / "out")
    assert_refused(result, str(tmp_path / "out"), "Read-only file system")
