import os

import pytest

from parfocal.slide.threads import thread_count


def test_there_is_a_thread_for_each_core_up_to_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert (thread_count(2), thread_count(8)) == (2, 3)


def test_all_cores_are_counted_without_sched_getaffinity(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (thread_count(4), thread_count(8)) == (4, 6)
