import os

import pytest

from parfocal.slide.threads import threads


def test_there_is_a_thread_for_each_core_up_to_the_most(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert (threads(2), threads(8)) == (2, 3)


def test_where_a_system_does_not_tell_its_cores_all_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (threads(4), threads(8)) == (4, 6)
