import numpy as np

from parfocal.features.ladder import ladder_report
from parfocal.grid import PatchGrid
from parfocal.slide.tissue import Tissue


def tissue(*squares: tuple[int, int]) -> Tissue:
    """Return squares of 64 level-0 pixels of tissue, on a slide of 1024 x 512."""
    mask = np.zeros((32, 64), dtype=bool)
    for column, row in squares:
        mask[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = True
    return Tissue(mask, 16.0, (1024, 512), 1.0, (1.0,))


def test_the_report_has_the_patches_and_the_reach():
    area = tissue((0, 0), (5, 0), (9, 3), (15, 7))
    report = ladder_report(PatchGrid.over(area, (4, 1), 64), (2.5, 10.0), k=2)
    assert report.patches == (4, 4)
    assert report.rows()[:2] == [
        ("patches", "4 at 2.5x, 4 at 10x"),
        ("reach", "0.0% of the tissue out of reach, 0.0% in patches with too little tissue"),
    ]
    assert report.rows()[2][1] == report.nothing_to_skip
    assert report.nothing_to_skip.startswith("nothing to skip on this slide: zooming into 2 patch")
    assert report.to_json()["unreachable"] == 0


def test_the_report_has_the_expected_share_where_zooming_saves():
    everything = tissue(*[(column, row) for column in range(16) for row in range(8)])
    report = ladder_report(PatchGrid.over(everything, (4, 1), 64), (2.5, 10.0), k=2)
    assert report.nothing_to_skip is None
    assert report.rows()[2] == (
        "zooming",
        "into 2 patches at each magnification: about 40 of 128 patches (31.2%)",
    )


def test_the_report_says_what_the_published_rule_loses():
    area = tissue((0, 0), (1, 0), (9, 3))
    grid = PatchGrid.over(area, (4, 1), 64, min_tissue=0.1, roots="share")
    report = ladder_report(grid, (2.5, 10.0), k=2)
    assert report.unreachable == 1 / 3
    assert report.rows()[1][1].startswith("33.3% of the tissue out of reach")


def test_the_report_says_that_no_patch_has_enough_tissue():
    mask = np.zeros((32, 64), dtype=bool)
    mask[0, 0] = True
    area = Tissue(mask, 16.0, (1024, 512), 1.0, (1.0,))
    report = ladder_report(PatchGrid.over(area, (4, 1), 64), (2.5, 10.0), k=2)
    assert not report.min_tissue_met
    assert (
        "no patch has slide.min_tissue, so all patches with any tissue are kept"
        in (report.rows()[1][1])
    )


def test_a_single_magnification_has_no_zoom():
    report = ladder_report(PatchGrid.over(tissue((0, 0)), (1,), 64), (10.0,), k=2)
    assert [name for name, _ in report.rows()] == ["patches", "reach"]
