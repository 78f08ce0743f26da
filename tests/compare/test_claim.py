"""One process at a time compares models in a folder."""

from pathlib import Path

import pytest

from parfocal.distribute.claims import ClaimError, hold
from parfocal.compare import compare, load_candidates
from small import write_table


def test_a_second_comparison_in_a_folder_is_refused(tmp_path: Path):
    rows = []
    for number in range(8):
        (tmp_path / f"{number}.tif").write_bytes(bytes([number]))
        split = ("train", "train", "val", "test")[number // 2]
        rows.append((str(number), f"{number}.tif", ("a", "b")[number % 2], split))
    cohort = write_table(tmp_path / "cohort.csv", ("slide_id", "path", "label", "split"), *rows)
    out = tmp_path / "out"
    out.mkdir()
    candidates = load_candidates(["abmil"])
    with hold(out / ".claim"), pytest.raises(ClaimError, match=f"{out}: in use by process"):
        compare(cohort, candidates, out)
    assert not (out / "features").exists()
