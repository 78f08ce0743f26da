import io
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from parfocal.dataset import Cohort, CohortError, CohortSlide
from parfocal.dataset.leakage import refuse_copies
from parfocal.slide import identity
from parfocal.slide.readers.dicom_header import EXPLICIT, WHOLE_SLIDE_CLASS


def cohort_of(folder: Path, **contents: bytes) -> Cohort:
    slides = []
    for row, (name, content) in enumerate(contents.items(), start=2):
        (folder / name).write_bytes(content)
        label = "no" if row % 2 else "yes"
        slides.append(CohortSlide(f"id-{name}", folder / name, label, name, row))
    return Cohort(folder / "cohort.csv", tuple(slides), ("no", "yes"))


def instance(series: str) -> bytes:
    """Return the header of a DICOM file of a slide."""

    def element(group: int, number: int, text: str) -> bytes:
        value = text.encode() + b"\0" * (len(text) % 2)
        return struct.pack("<HH2sH", group, number, b"UI", len(value)) + value

    content = element(0x0002, 0x0010, EXPLICIT) + element(0x0008, 0x0016, WHOLE_SLIDE_CLASS)
    return bytes(128) + b"DICM" + content + element(0x0020, 0x000E, series)


@pytest.fixture
def any_file_is_a_slide(monkeypatch):
    """Take every file for a slide that can be opened."""
    monkeypatch.setattr("parfocal.dataset.same_file._is_slide", lambda _: True)


@pytest.mark.usefixtures("any_file_is_a_slide")
def test_a_copy_under_another_name_is_refused(tmp_path):
    cohort = cohort_of(tmp_path, a=b"one", b=b"two", c=b"one", d=b"three", e=b"one")
    message = (
        f"cohort.csv row 4: {tmp_path / 'c'} has the same content as the slide file of row 2 "
        "(slide_id 'id-a' and 'id-c'; 2 such rows), so a model could be trained and tested on"
    )
    with pytest.raises(CohortError, match=re.escape(message)):
        refuse_copies(cohort)
    with pytest.raises(CohortError, match=r"'id-b', label 'yes' and 'no'\), so a model"):
        refuse_copies(cohort_of(tmp_path, a=b"one", b=b"one"))


@pytest.mark.usefixtures("any_file_is_a_slide")
def test_files_of_equal_size_and_ends_are_no_copies_if_they_differ_between(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "HASHED_BYTES", 4)
    cohort = cohort_of(tmp_path, a=b"head-1-tail", b=b"head-2-tail", c=b"HEAD-3-tail")
    refuse_copies(cohort)
    with pytest.raises(CohortError, match=r"row 3: .*b has the same content as the slide file"):
        refuse_copies(cohort_of(tmp_path, a=b"head-1-tail", b=b"head-1-tail"))


@pytest.mark.usefixtures("any_file_is_a_slide")
@pytest.mark.parametrize("names", [("a/1.dcm", "a/2.dcm"), ("a", "a/2.dcm"), ("a", "b")])
def test_files_of_one_dicom_series_are_one_slide(tmp_path, names):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("1.dcm", "2.dcm"):
            (tmp_path / folder / name).write_bytes(instance("1.2"))
    cohort = cohort_of(tmp_path, x=b"", y=b"x")
    series = [replace(s, path=tmp_path / n) for s, n in zip(cohort.slides, names, strict=True)]
    with pytest.raises(CohortError, match=rf"row 3: .*{names[1]} has the same content as the sl"):
        refuse_copies(replace(cohort, slides=tuple(series)))


def test_equal_files_that_are_no_slides_fail_by_themselves(tmp_path):
    page = b"<!DOCTYPE html><title>403 Forbidden</title>"
    truncated = b"II*\0" + bytes(100)
    refuse_copies(cohort_of(tmp_path, **{"a.svs": page, "b.svs": page}))
    refuse_copies(cohort_of(tmp_path, **{"a.tif": truncated, "b.tif": truncated}))
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "PNG")
    pictures = {"a.png": encoded.getvalue(), "b.png": encoded.getvalue()}
    with pytest.raises(CohortError, match=r"b.png has the same content as the slide file of row 2"):
        refuse_copies(cohort_of(tmp_path, **pictures))


def test_files_that_do_not_exist_are_no_copies(tmp_path):
    cohort = cohort_of(tmp_path, a=b"one", b=b"two")
    (tmp_path / "a").unlink()
    (tmp_path / "b").unlink()
    refuse_copies(cohort)
    refuse_copies(cohort, tmp_path)  # nor are there feature files


def test_what_is_no_slide_file_is_no_copy(tmp_path):
    cohort = cohort_of(tmp_path, a=b"", b=b"", c=b"1", d=b"1")
    for slide in cohort.slides[2:]:
        slide.path.unlink()
        os.mkfifo(slide.path)
    too_long = [
        replace(slide, path=tmp_path / f"{slide.slide_id:x<300}") for slide in cohort.slides
    ]
    refuse_copies(replace(cohort, slides=(*cohort.slides, *too_long)))
