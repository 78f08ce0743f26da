from itertools import pairwise

import numpy as np
import pytest

from parfocal.slide.sources.pages import PAGE_BYTES as PAGE
from parfocal.slide.sources.pages import Joining, join_pages, touched_pages
from parfocal.slide.sources.remote import joining_for


def random_pages(seed):
    return sorted(np.random.default_rng(seed).choice(500, 60, replace=False).tolist())


@pytest.mark.parametrize("seed", range(20))
def test_runs_hold_every_page_once_and_begin_and_end_with_one(seed):
    pages = random_pages(seed)
    runs = join_pages(pages, Joining(max_gap=3, max_runs=8, max_waste=40, longest=1000))
    covered = [page for run in runs for page in range(*run)]
    assert covered == sorted(set(covered))
    assert set(pages) <= set(covered)
    assert all(first in pages and last - 1 in pages for first, last in runs)


@pytest.mark.parametrize("seed", range(20))
def test_no_more_than_max_gap_is_fetched_in_vain_between_two_pages_if_runs_are_few(seed):
    pages = random_pages(seed)
    runs = join_pages(pages, Joining(max_gap=3, max_runs=1000, max_waste=1000, longest=1000))
    starts = [pages[0]] + [b for a, b in pairwise(pages) if b - a > 4]
    assert [first for first, _ in runs] == starts


@pytest.mark.parametrize("seed", range(20))
def test_the_smallest_gaps_are_joined_until_the_waste_is_spent(seed):
    pages, waste = random_pages(seed), 25
    runs = join_pages(pages, Joining(max_gap=0, max_runs=1, max_waste=waste, longest=1000))
    gaps = sorted(b - a - 1 for a, b in pairwise(pages) if b - a > 1)
    affordable = sum(np.cumsum(gaps) <= waste)
    assert len(runs) == 1 + len(gaps) - affordable


def test_long_runs_are_divided_evenly():
    runs = join_pages(list(range(10)), Joining(0, 1, 0, longest=4))
    assert runs == [(0, 4), (4, 8), (8, 10)]


def test_pages_of_ranges_end_with_the_file():
    assert touched_pages([(PAGE - 1, 2)], 10 * PAGE) == [0, 1]
    assert touched_pages([(0, 99 * PAGE)], 2 * PAGE + 1) == [0, 1, 2]
    assert touched_pages([(5 * PAGE, 3), (0, 0)], 2 * PAGE) == []


def test_gaps_of_a_large_file_are_not_fetched():
    pages = [0, 3, 40, 90]
    assert join_pages(pages, joining_for(100 * 10**6)) == [(0, 41), (90, 91)]
    assert join_pages(pages, joining_for(10**9)) == [(0, 4), (40, 41), (90, 91)]
