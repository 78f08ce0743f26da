"""A cohort of small slides of two classes that differ in how dark their tissue is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from small import write_table

SLIDES = 12
SPLITS = ("train", "train", "train", "val", "test", "test")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(SLIDES):
        path = write_slide(folder / f"{number}.tif", dark=number % 2 == 1, seed=number)
        rows.append((str(number), path.name, ("pale", "dark")[number % 2], SPLITS[number // 2]))
    return write_table(folder / "cohort.csv", ("slide_id", "path", "label", "split"), *rows)
