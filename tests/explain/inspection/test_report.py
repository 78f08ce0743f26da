import json
import logging

import numpy as np
import pytest
from PIL import Image

from parfocal.explain.inspection import inspect_slide
from parfocal.features.header import SlideSettings
from parfocal.slide.errors import NoTissueError, SlideError
from parfocal.slide.slide import open_slide
from parfocal.slide.tissue import find_tissue


@pytest.fixture
def stained(tmp_path, write_slide):
    """A slide with tissue in its upper left quarter."""
    pixels = np.full((600, 800, 3), 240, dtype=np.uint8)
    pixels[:300, :400] = (190, 90, 160)
    return write_slide(tmp_path / "slide.tif", pixels, mpp=0.97)


def test_a_report_describes_the_file(stained):
    report = inspect_slide(stained)
    assert (report.path, report.id, report.vendor) == (str(stained), "slide", "generic-tiff")
    assert report.size == (800, 600)
    assert report.mpp == pytest.approx(0.97)
    assert report.mpp_source == "file: XResolution and YResolution"
    assert [level.mpp for level in report.levels] == pytest.approx([0.97, 3.88])
    assert report.objective_power is None
    assert report.tissue_share == pytest.approx(0.25, abs=0.02)
    assert report.tissue_mm2 == pytest.approx(0.29 * 0.388, rel=0.1)


def test_reachable_magnifications_end_at_the_scans_own(stained):
    reachable = [(reach.magnification, reach.mpp) for reach in inspect_slide(stained).reachable]
    assert reachable == [(1.25, 8.0), (2.5, 4.0), (5.0, 2.0), (10.0, pytest.approx(0.97))]


def test_a_report_is_saved_as_json(stained):
    report = inspect_slide(stained, mpp=0.5)
    loaded = json.loads(json.dumps(report.to_json()))
    assert loaded["mpp"] == 0.5
    assert loaded["mpp_source"] == "given"
    assert loaded["levels"][1] == {"width": 200, "height": 150, "downsample": 4.0, "mpp": 2.0}
    assert loaded["reachable"][0] == {"magnification": 1.25, "mpp": 8.0}


def test_a_report_is_printed_in_lines(stained):
    lines = inspect_slide(stained).lines().splitlines()
    assert lines[0] == f"slide: {stained}"
    assert "  size           800 x 600 px, 0.8 x 0.6 mm" in lines
    assert "  levels         800 x 600 at 0.97, 200 x 150 at 3.88 µm/px" in lines
    assert "  magnifications 1.25x (8), 2.5x (4), 5x (2), 10x (0.97)" in lines


def test_a_scan_too_coarse_for_all_magnifications_has_none(stained):
    assert "  magnifications none of 1.25x to 40x" in inspect_slide(stained, mpp=29.0).lines()


def test_an_empty_slide_is_refused(tmp_path, write_slide):
    with pytest.raises(NoTissueError, match=r"slide\.tif: no tissue found"):
        inspect_slide(
            write_slide(tmp_path / "slide.tif", np.full((300, 300, 3), 240, dtype=np.uint8))
        )


def test_the_error_about_a_missing_file_is_raised(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        inspect_slide(tmp_path / "S.svs")


def test_the_patches_of_the_requested_magnifications_are_counted(stained):
    settings = SlideSettings((2.5, 10.0), patch_size=64)
    report = inspect_slide(stained, settings=settings)
    assert report.patches.magnifications == (2.5, 10.0)
    assert report.patches.patches == (4, 35)
    assert report.patches.unreachable == 0
    assert "  patches        4 at 2.5x, 35 at 10x" in report.lines().splitlines()
    assert report.to_json()["patches"]["patches"] == (4, 35)


def test_magnifications_that_do_not_fit_are_a_row_of_the_report(stained):
    report = inspect_slide(stained)
    assert report.patches is None
    assert "776 x 582 um" in report.patches_problem
    assert f"  patches        none: {report.patches_problem}" in report.lines().splitlines()


def test_the_report_has_the_warning_about_the_tissue(tmp_path, write_slide, caplog):
    pixels = np.full((300, 300, 3), (190, 90, 160), dtype=np.uint8)
    with caplog.at_level(logging.WARNING):
        report = inspect_slide(write_slide(tmp_path / "slide.tif", pixels))
    assert "with --tissue." in report.tissue_warning
    assert caplog.messages == [report.tissue_warning]  # without advice to run this very command
    assert json.loads(json.dumps(report.to_json()))["tissue_warning"] == report.tissue_warning


def test_the_report_names_the_file_of_the_tissue(tmp_path, stained):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((60, 80), 255, dtype=np.uint8)).save(mask)
    report = inspect_slide(stained, tissue=mask)
    assert report.tissue_source == "mask.png"
    expected = "of the scan (from mask.png; it contains 100% of the tissue that is found)"
    assert f"100.0% {expected}" in report.lines()


def test_given_tissue_that_is_not_where_tissue_is_found_has_a_warning(tmp_path, stained, caplog):
    found = inspect_slide(stained).tissue_share
    with open_slide(stained) as slide:
        mask = find_tissue(slide).mask
    Image.fromarray((~mask).astype(np.uint8)).save(tmp_path / "mask.png")
    report = inspect_slide(stained, tissue=tmp_path / "mask.png")
    assert report.found_inside < 0.1 < found
    assert "of the tissue that is found on the scan. Check" in report.tissue_warning
    assert report.tissue_warning in caplog.text
    assert inspect_slide(stained).tissue_source == "found"
