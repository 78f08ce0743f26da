"""Features are read in a thread before they are needed; errors are left to who opens a slide."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from parfocal.dataset.cohort import CohortSlide
from parfocal.features.errors import StoreError
from parfocal.features.read_ahead import ReadAhead
from parfocal.features.rows import StoredFeatures
from parfocal.train.read_ahead import ReadAheadLoader


class MemoryRows:
    """Rows in memory; reading them waits until it is allowed."""

    shape, tool, path, name = (3, 2), "test", Path("memory.h5"), "rows"

    def __init__(self, value: float = 1, *, error: bool = False) -> None:
        self.allowed, self.error, self.value = threading.Event(), error, value
        self.reads, self.done = 0, threading.Event()

    def read(self, rows: np.ndarray) -> np.ndarray:
        assert self.allowed.wait(10)
        self.reads += 1
        self.done.set()
        if self.error:
            raise StoreError("damaged")
        return np.full((len(rows), 2), self.value, np.float16)


def table(rows: MemoryRows) -> StoredFeatures:
    return StoredFeatures(rows, device=torch.device("cpu"))


def test_a_table_is_read_while_something_else_is_done():
    ahead, rows = ReadAhead(), MemoryRows(2.5)
    assert ahead.take("a") is None
    ahead.start({"a": lambda: table(rows)})
    rows.allowed.set()
    assert rows.done.wait(10)  # in the other thread
    found = ahead.take("a")
    assert found is not None
    assert found.dtype == torch.float32
    assert found.tolist() == [[2.5, 2.5]] * 3
    assert ahead.take("a") is None


def test_a_table_that_cannot_be_read_is_read_again_by_who_opens_it():
    ahead, rows = ReadAhead(), MemoryRows(error=True)
    rows.allowed.set()
    ahead.start({"a": lambda: table(rows)})
    assert ahead.take("a") is None
    with pytest.raises(StoreError, match="damaged"):
        table(rows).all()


def test_only_the_tables_of_the_last_call_are_kept():
    ahead, first, second = ReadAhead(), MemoryRows(1), MemoryRows(2)
    for rows in (first, second):
        rows.allowed.set()
    ahead.start({"a": lambda: table(first)})
    ahead.start({"b": lambda: table(second)})
    assert ahead.take("a") is None
    ahead.start({"b": lambda: table(second)})
    found = ahead.take("b")
    assert found is None or found[0, 0] == 2  # None if it was not begun
    assert second.reads <= 1


def test_a_loader_announces_the_batch_after_each_one():
    slides = [CohortSlide(name, Path(name), "a", "p", row=2) for name in "abc"]
    announced = []

    class Inputs:
        def read_ahead(self, slides: list[CohortSlide]) -> None:
            announced.append("".join(slide.slide_id for slide in slides))

    loader = DataLoader([2, 0, 1, 1], batch_size=1, collate_fn=list)  # type: ignore[arg-type]
    ahead = ReadAheadLoader(loader, slides, Inputs())
    assert len(ahead) == 4
    assert [position for (position,) in ahead] == [2, 0, 1, 1]
    assert announced == ["ca", "ab", "bb", "b"]
