import json

import numpy as np
import pytest

from parfocal.explain.inspection import inspect_slide
from parfocal.slide.errors import NoTissueError, SlideError


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
    assert report.mpp_source == "file: openslide.mpp-x and mpp-y"
    assert [level.mpp for level in report.levels] == pytest.approx([0.97, 1.94])
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
    assert loaded["levels"][1] == {"width": 400, "height": 300, "downsample": 2.0, "mpp": 1.0}
    assert loaded["reachable"][0] == {"magnification": 1.25, "mpp": 8.0}


def test_a_report_is_printed_in_lines(stained):
    lines = inspect_slide(stained).lines().splitlines()
    assert lines[0] == f"slide: {stained}"
    assert "  size           800 x 600 px, 0.8 x 0.6 mm" in lines
    assert "  levels         800 x 600 at 0.97, 400 x 300 at 1.94 um/px" in lines
    assert "  magnifications 1.25x (8), 2.5x (4), 5x (2), 10x (0.97)" in lines


def test_a_scan_too_coarse_for_all_magnifications_has_none(stained):
    assert "  magnifications none of 1.25x to 40x" in inspect_slide(stained, mpp=29.0).lines()


def test_an_empty_slide_is_refused(pyramid):
    with pytest.raises(NoTissueError, match=r"slide\.tif: no tissue found"):
        inspect_slide(pyramid([np.full((300, 300, 3), 240, dtype=np.uint8)]))


def test_the_error_about_a_missing_file_is_raised(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        inspect_slide(tmp_path / "S.svs")


def test_the_report_of_a_real_slide_has_its_objective(real):
    report = inspect_slide(real("slides/CMU-1-Small-Region.svs"))
    assert "  format         aperio, objective 20x" in report.lines().splitlines()
    assert report.reachable[-1].mpp == 0.499
