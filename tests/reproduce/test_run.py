"""Failures are listed in the table."""

import re
from dataclasses import replace

import pytest

from parfocal.dataset import CohortError
from parfocal.models import CLAM
from parfocal.reproduce import reproduce

from .conftest import small

OPTIONS = {"device": "cpu", "timed": 0}


@pytest.fixture(scope="module")
def broken(camelyon16, tmp_path_factory):
    """Two rows of CAMELYON16: one fails, one slide is truncated, one is damaged inside."""

    def fail(*_: object) -> None:
        raise RuntimeError("CLAM is\nbroken")

    data, out = camelyon16(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("out")
    slide = data / "images" / "test_003.tif"
    slide.write_bytes(slide.read_bytes()[:-99])
    inside = data / "images" / "test_002.tif"
    content = inside.read_bytes()
    third = len(content) // 3
    inside.write_bytes(content[:third] + bytes(400) + content[third + 400 :])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLAM, "forward", fail)
        whole = small("zoommil-camelyon16")
        few = {name: whole.experiments[name] for name in ("clam-sb", "abmil")}
        found = reproduce(
            replace(whole, experiments=few, overrides=("slide.patch_size=64",)),
            data,
            out,
            seeds=1,
            partial=True,
            **OPTIONS,
        )
    return found, out


def test_a_failed_row_does_not_stop_the_others(broken, cells):
    found, out = broken
    assert found.failed == {"clam-sb": "RuntimeError: CLAM is broken"}
    text = (out / "table.md").read_text()
    assert re.search(r"\| CLAM-SB \(20x\) \[1\] \| failed \| 83\.3 ± 1\.5 \| failed \|", text)
    assert "[1] Failed (clam-sb): RuntimeError: CLAM is broken." in text
    assert cells(out)["ABMIL (20x)", "accuracy"]["ours"]


def test_a_truncated_slide_is_listed_below_the_table(broken):
    found, out = broken
    assert list(found.made.damaged) == ["test_003.tif"]
    assert "- Test_003.tif is damaged and left out: test_003.tif: " in (
        (out / "table.md").read_text()
    )


def test_a_slide_damaged_inside_is_listed_below_the_table(broken):
    text = (broken[1] / "table.md").read_text()
    assert "because their files are damaged: 1 slide (test_002)." in text
    assert "- abmil: 1 test predictions are missing" in text


def test_cells_that_were_not_timed_or_run_are_empty(broken, cells):
    found = cells(broken[1])
    assert found["ABMIL (20x)", "s"]["ours"] == ""
    assert found["TransMIL (20x)", "accuracy"]["ours"] == ""


def test_a_partial_download_is_refused(camelyon16, tmp_path):
    with pytest.raises(CohortError, match=r"391 of 399 slides are missing or damaged"):
        reproduce(
            *(small("zoommil-camelyon16"), camelyon16(tmp_path / "data"), tmp_path / "out"),
            **OPTIONS,
        )


def test_another_data_set_is_refused(camelyon16, tmp_path):
    with pytest.raises(CohortError, match="BRIGHT is at"):
        reproduce(
            small("zoommil-bright"), camelyon16(tmp_path / "data"), tmp_path / "out", **OPTIONS
        )
