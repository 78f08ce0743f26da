"""Pages of a file: which of them ranges touch, and which requests fetch them together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from parfocal.slide.sources.source import Range

PAGE_BYTES = 2**10  # on average, half of it is fetched unused at each end of a request
Run = tuple[int, int]  # first page, and the one after the last


def touched_pages(ranges: Iterable[Range], size: int) -> list[int]:
    """Return the pages that ranges touch, sorted, each once.

    >>> touched_pages([(5000, 5000), (0, 5)], size=11000)
    [0, 1, 2]
    """
    pages: set[int] = set()
    for offset, length in ranges:
        end = min(offset + length, size)
        if offset < end:
            pages.update(range(offset // PAGE_BYTES, -(-end // PAGE_BYTES)))
    return sorted(pages)


@dataclass(frozen=True)
class Joining:
    """Which pages one request fetches.

    Args:
        max_gap: pages between others that cost no more than a request.
        max_runs: number of requests at a time to aim for.
        max_waste: largest number of pages that are fetched for fewer requests.
        longest: pages after which a request is divided, to be fetched side by side.
    """

    max_gap: int
    max_runs: int
    max_waste: int
    longest: int


def join_pages(pages: Sequence[int], joining: Joining) -> list[Run]:
    """Join pages into runs, each of which is one request.

    Runs that lie close together are joined. If there are too many, those with the smallest gaps
    between them are also joined, as long as not too many unneeded pages are fetched.

    Args:
        pages: the pages, sorted, each once.
        joining: how much to join.

    >>> join_pages([0, 1, 4, 20, 40], Joining(max_gap=2, max_runs=2, max_waste=100, longest=99))
    [(0, 21), (40, 41)]
    """
    if not pages:
        return []
    gaps = [after - before - 1 for before, after in pairwise(pages)]
    splits = sorted(
        (index for index, gap in enumerate(gaps) if gap > joining.max_gap), key=gaps.__getitem__
    )
    waste = 0
    while len(splits) >= joining.max_runs and waste + gaps[splits[0]] <= joining.max_waste:
        waste += gaps[splits.pop(0)]
    starts = [0, *(index + 1 for index in sorted(splits)), len(pages)]
    runs = [(pages[first], pages[last - 1] + 1) for first, last in pairwise(starts)]
    return [part for run in runs for part in _split(run, joining.longest)]


def _split(run: Run, longest: int) -> list[Run]:
    """Split a long run into equal parts."""
    first, last = run
    side = -(-(last - first) // -(-(last - first) // longest))
    return [(start, min(start + side, last)) for start in range(first, last, side)]
