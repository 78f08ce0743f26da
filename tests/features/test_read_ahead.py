"""Features are read in a thread before they are needed; errors are left to who opens a slide."""

import threading
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from parfocal.dataset.cohort import CohortSlide
from parfocal.features.errors import StoreError
from parfocal.features.read_ahead import AheadTable, ReadAhead, Reading, rows_of
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


def reading(rows: MemoryRows, **settings) -> list[Reading]:
    return [Reading(lambda: table(rows), **settings)]


def take(ahead: ReadAhead, slide_id: str) -> torch.Tensor | None:
    pending = ahead.take(slide_id)
    read = pending[0].result() if pending else None
    return None if read is None else read.features


def test_a_table_is_read_while_something_else_is_done():
    ahead, rows = ReadAhead(), MemoryRows(2.5)
    assert take(ahead, "a") is None
    ahead.start({"a": reading(rows)})
    rows.allowed.set()
    assert rows.done.wait(10)  # in the other thread
    found = take(ahead, "a")
    assert found is not None
    assert found.dtype == torch.float32
    assert found.tolist() == [[2.5, 2.5]] * 3
    assert take(ahead, "a") is None


def test_a_table_that_cannot_be_read_is_read_again_by_who_opens_it():
    ahead, rows = ReadAhead(), MemoryRows(error=True)
    rows.allowed.set()
    ahead.start({"a": reading(rows)})
    assert take(ahead, "a") is None
    with pytest.raises(StoreError, match="damaged"):
        table(rows).all()


def test_only_the_tables_of_the_last_call_are_kept():
    ahead, first, second = ReadAhead(), MemoryRows(1), MemoryRows(2)
    for rows in (first, second):
        rows.allowed.set()
    ahead.start({"a": reading(first)})
    ahead.start({"b": reading(second)})
    assert take(ahead, "a") is None
    ahead.start({"b": reading(second)})
    found = take(ahead, "b")
    assert found is None or found[0, 0] == 2  # None if it was not begun
    assert second.reads <= 1


def ahead_table(
    numbers: np.ndarray, rows: np.ndarray | None, **settings
) -> tuple[AheadTable, list[int]]:
    """Return a table of which some rows were read ahead, and the list of rows read since."""
    values, ahead = Numbers(numbers), ReadAhead()
    found = StoredFeatures(values, device=torch.device("cpu"))
    ahead.start({"a": [Reading(lambda: found, rows, **settings)]})
    (pending,) = ahead.take("a")
    wait([pending._future])
    values.reads.clear()
    return AheadTable(found, pending), values.reads


class Numbers:
    """Rows of given numbers, which notes what is read."""

    tool, path, name = "test", Path("memory.h5"), "rows"

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers, self.shape, self.reads = numbers, numbers.shape, []

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.reads += rows.tolist()
        return self.numbers[rows]


NUMBERS = np.arange(24, dtype=np.float16).reshape(12, 2) / 7


@pytest.mark.parametrize(
    ("ahead", "wanted", "read"),
    [
        (None, [3, 1, 3], []),  # all were read ahead
        ([1, 3, 5], [3, 1, 3], []),
        ([1, 3, 5], [5, 4, 1, 11], [4, 11]),  # the others are read when they are needed
        ([1, 3, 5], [0, 2], [0, 2]),
        ([], [2, 2], [2]),  # nothing is known before the first visit
    ],
)
def test_rows_that_were_not_read_ahead_are_read_from_the_file(ahead, wanted, read):
    rows = None if ahead is None else np.array(ahead, dtype=np.int64)
    table, reads = ahead_table(NUMBERS, rows)
    features = table[torch.tensor(wanted)]
    assert features.float().numpy().tolist() == NUMBERS[wanted].astype(np.float32).tolist()
    assert reads == read
    assert rows_of(table.visited).tolist() == sorted(set(wanted))


def test_more_rows_than_fit_are_not_read_ahead():
    table, reads = ahead_table(NUMBERS, None, most_bytes=12 * 2 * 4 - 1)
    assert table[torch.tensor([7])].tolist() == NUMBERS[[7]].tolist()
    assert reads == [7]


def test_a_loader_announces_the_batch_after_each_one():
    slides = [CohortSlide(name, Path(name), "a", "p", row=2) for name in "abc"]
    announced = []

    class Inputs:
        def read_ahead(self, slides: list[CohortSlide], *, whole: bool = False) -> None:
            announced.append("".join(slide.slide_id for slide in slides) + "*" * whole)

    loader = DataLoader([2, 0, 1, 1], batch_size=1, collate_fn=list)  # type: ignore[arg-type]
    ahead = ReadAheadLoader(loader, slides, Inputs())
    assert len(ahead) == 4
    assert [position for (position,) in ahead] == [2, 0, 1, 1]
    assert announced == ["ca", "ab", "bb", "b"]
    assert len([*ReadAheadLoader(loader, slides, Inputs(), whole=True)]) == 4
    assert announced[4:] == ["ca*", "ab*", "bb*", "b*"]
