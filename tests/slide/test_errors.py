import os
from pathlib import Path

import pytest

from parfocal.slide.errors import (
    ImplausibleMppError,
    MissingMppError,
    NoTissueError,
    SlideError,
    Told,
    name_once,
)
from parfocal.slide.slide import open_slide


def test_every_kind_is_a_slide_error():
    for kind in (MissingMppError, ImplausibleMppError, NoTissueError):
        assert issubclass(kind, SlideError)


def test_errors_name_the_slide_and_say_what_to_do_on_one_line():
    for error in (MissingMppError(Path("d/S.svs")), ImplausibleMppError(Path("d/S.svs"), 352.8)):
        assert str(error).startswith("S.svs: ")
        assert "Give" in str(error)
        assert "\n" not in str(error)


def test_where_to_give_mpp_fits_what_the_slide_came_by():
    slide, kinds = Path("S.svs"), ((MissingMppError, "40"), (ImplausibleMppError, 352.8))
    for kind, found in kinds:
        alone, listed = str(kind(slide, found)), str(kind(slide, found, listed=True))
        assert "with --mpp (a 40x scan" in alone
        assert "cohort" not in alone
        assert "in the cohort's mpp column (a 40x scan" in listed
        assert "--mpp" not in listed


@pytest.mark.parametrize(
    ("slide", "reason", "name"),
    [
        ("007", "007.svs: it is so", "007.svs"),
        ("a/007.svs", "007.svs: it is so", "a/007.svs"),
        ("a/OS-1.ome.tif", "OS-1: it is so", "a/OS-1.ome.tif"),
        ("007", "/b/007.svs: it is so", "/b/007.svs"),
    ],
)
def test_a_slide_is_named_once_by_the_name_that_tells_more(slide, reason, name):
    assert name_once(slide, reason) == Told(name, "it is so")


def test_a_reason_that_names_another_file_keeps_its_name():
    assert name_once("P-17", "scan.svs: it is so") == Told("P-17", "scan.svs: it is so")


def test_a_missing_file_is_named_with_its_path(tmp_path):
    with pytest.raises(SlideError, match=r"gone/S.svs: there is no such file; check the path"):
        open_slide(tmp_path / "gone" / "S.svs")


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "S.svs").touch()
    with pytest.raises(SlideError, match=r"S.svs: the file is empty \(0 bytes\)"):
        open_slide(tmp_path / "S.svs")


def test_a_file_that_may_not_be_read_says_why(tmp_path, monkeypatch):
    path = tmp_path / "S.svs"
    path.write_bytes(b"x")

    def refuse(*_):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SlideError, match=r"S.svs: cannot be read \(Permission denied\)"):
        open_slide(path)
