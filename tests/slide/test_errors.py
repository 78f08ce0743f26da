import os
from pathlib import Path

import pytest

from parfocal.slide.errors import (
    ImplausibleMppError,
    MissingMppError,
    NoTissueError,
    SlideError,
    SlideFailure,
    group_failures,
    name_failure,
)
from parfocal.slide.slide import open_slide


def test_every_kind_is_a_slide_error():
    for kind in (MissingMppError, ImplausibleMppError, NoTissueError):
        assert issubclass(kind, SlideError)


def test_errors_name_the_slide_and_the_remedy_on_one_line():
    for error in (MissingMppError(Path("d/S.svs")), ImplausibleMppError(Path("d/S.svs"), 352.8)):
        assert str(error).startswith("S.svs: ")
        assert "Set" in str(error)
        assert "\n" not in str(error)


def test_the_place_to_set_mpp_depends_on_where_the_slide_was_named():
    slide, kinds = Path("S.svs"), ((MissingMppError, "40"), (ImplausibleMppError, 352.8))
    for kind, value in kinds:
        alone, listed = str(kind(slide, value)), str(kind(slide, value, from_cohort=True))
        assert "with --mpp (a 40x scan" in alone
        assert "cohort" not in alone
        assert "in the cohort's mpp column (a 40x scan" in listed
        assert "--mpp" not in listed


@pytest.mark.parametrize(
    ("slide", "reason", "name"),
    [
        ("007", "007.svs: the reason", "007.svs"),
        ("a/007.svs", "007.svs: the reason", "a/007.svs"),
        ("a/OS-1.ome.tif", "OS-1: the reason", "a/OS-1.ome.tif"),
        ("007", "/b/007.svs: the reason", "/b/007.svs"),
    ],
)
def test_a_slide_is_named_once_by_its_longer_name(slide, reason, name):
    assert name_failure(slide, reason) == SlideFailure(name, "the reason")


def test_a_reason_that_names_another_file_keeps_that_name():
    assert name_failure("P-17", "scan.svs: the reason") == SlideFailure(
        "P-17", "scan.svs: the reason"
    )


def test_a_missing_file_is_named_with_its_path(tmp_path):
    with pytest.raises(SlideError, match=r"gone/S.svs: no such file. Check the path"):
        open_slide(tmp_path / "gone" / "S.svs")


def test_an_empty_file_is_refused_as_empty(tmp_path):
    (tmp_path / "S.svs").touch()
    with pytest.raises(SlideError, match=r"S.svs: the file is empty \(0 bytes\)"):
        open_slide(tmp_path / "S.svs")


def test_the_error_about_an_unreadable_file_gives_the_reason(tmp_path, monkeypatch):
    path = tmp_path / "S.svs"
    path.write_bytes(b"x")

    def refuse(*_):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SlideError, match=r"S.svs: the file cannot be read \(Permission denied\)"):
        open_slide(path)


def test_failures_are_grouped_only_if_their_texts_are_equal_without_the_name_of_the_slide():
    scan = "10x is sharper than the scan, which is {}x"
    failed = {"a.tif": scan.format(2.5), "b.tif": scan.format(0.345), "c.tif": scan.format(2.5)}
    assert group_failures(failed) == [
        f"a.tif, c.tif: {scan.format(2.5)}",
        f"b.tif: {scan.format(0.345)}",
    ]
    assert group_failures({"1.tif": "x=1", "2.tif": "x=2"}) == ["1.tif: x=1", "2.tif: x=2"]
    missing = {name: f"no such file at s3://b/{name}.svs" for name in ("s1", "s2")}
    assert group_failures(missing) == ["s1, s2: no such file at s3://b/NAME.svs"]
