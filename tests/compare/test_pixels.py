"""Models that take pixels, compared with one that takes features."""

from collections.abc import Callable
from pathlib import Path

import pytest

from parfocal.audit import AuditError, audit
from parfocal.compare import ComparisonRow, compare, load_candidates

pytestmark = pytest.mark.slow  # a network is trained for each

MODELS = ("zoommil", "jsma", "meanrgb")
OVERRIDES = (
    "zoommil:slide.magnifications=2.5,10",
    "zoommil:slide.patch_size=64",
    "zoommil:model.k=2",
    "jsma:slide.magnifications=5,10",
    "jsma:slide.patch_size=32",
    "jsma:model.backbone=small",
    "jsma:model.thumbnail_px=64",
    "jsma:model.k=2",
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["slide_id,path,label,split"]
    for number in range(8):
        write_slide(folder / f"{number}.tif", dark=number % 2 == 1, seed=number)
        split = ("train", "train", "val", "test")[number // 2]
        rows.append(f"{number},{number}.tif,{('normal', 'tumor')[number % 2]},{split}")
    (folder / "cohort.csv").write_text("\n".join(rows))
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def compared(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[ComparisonRow], Path]:
    out = tmp_path_factory.mktemp("compared")
    candidates = load_candidates(MODELS, overrides=OVERRIDES, epochs=1, encoder="tiny")
    return compare(
        cohort, candidates, out, cache=out / "cache", device="cpu", timed=1, resamples=20
    ), out


def test_each_has_scores_costs_and_seconds(compared):
    rows, _ = compared
    assert [row.result.reason for row in rows] == [None, None, None]
    for row in rows:
        assert [len(run.truth) for run in row.result.runs] == [2]
        assert row.result.macs > 0
        assert row.result.seconds["cpu"]["total"] > 0


def test_each_model_has_the_number_of_patches_it_visited(compared):
    zooming, joint, colors = (row.result for row in compared[0])
    assert joint.patches == 2
    assert zooming.patches > joint.patches
    assert colors.patches == 1


def test_features_are_extracted_only_for_the_model_that_takes_them(compared):
    _, out = compared
    assert [path.name for path in (out / "features").iterdir()] == ["tiny"]


def test_a_model_that_takes_pixels_cannot_be_audited(cohort, compared, tmp_path):
    _, out = compared
    with pytest.raises(
        AuditError, match="model jsma takes pixels, so it cannot be given every patch"
    ):
        audit(out / "jsma/seed-0", cohort, tmp_path, device="cpu")
