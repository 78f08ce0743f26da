"""Small bags are trained with one thread of torch, unless a number was given."""

import logging
from pathlib import Path

import pytest
import torch

from parfocal.dataset.cohort import CohortSlide
from parfocal.threads import limit_threads
from parfocal.train.small_bags import SMALL, largest_bag, threads_for

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads():
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    limit_threads(None)
    torch.set_num_threads(usual)


def test_small_bags_get_one_thread_for_a_block(caplog):
    caplog.set_level(logging.INFO, logger="parfocal")
    with threads_for(SMALL, CPU):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert caplog.messages == ["small bags: training with one thread; --threads 2 uses more"]


@pytest.mark.parametrize(("size", "device"), [(SMALL + 1, "cpu"), (1, "cuda")])
def test_large_bags_and_gpus_keep_the_threads(size, device):
    with threads_for(size, torch.device(device)):
        assert torch.get_num_threads() == 2


def test_a_given_number_of_threads_is_kept(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # restored at the end
    limit_threads(2)
    with threads_for(1, CPU):
        assert torch.get_num_threads() == 2


def test_the_share_of_a_worker_is_not_a_given_number(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "8")
    limit_threads(2, is_chosen=False)
    assert torch.get_num_threads() == 2
    with threads_for(1, CPU):
        assert torch.get_num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    limit_threads(2, is_chosen=False)
    assert torch.get_num_threads() == 1


class Counts:
    def count_patches(self, slide):
        return {"a": (4, 16), "b": (5, 10)}[slide.slide_id]


SLIDES = [CohortSlide(name, Path(f"{name}.svs"), "ill", name, 2) for name in "ab"]


def test_the_size_of_a_bag_counts_the_patches_that_are_sure_to_be_visited():
    assert largest_bag(SLIDES, Counts(), (10, 100), zooms=False) == 4 * 10 + 16 * 100
    assert largest_bag(SLIDES, Counts(), (10, 100), zooms=True) == 5 * 10
    assert largest_bag((), Counts(), (10,), zooms=False) == 0
