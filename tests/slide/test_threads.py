import os
from pathlib import Path

import pytest

from parfocal.slide import threads
from parfocal.slide.threads import cgroup_cores, thread_count


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "nonsense"}, None),
        ("0::/jobs/7", {"jobs/7/cpu.max": "max 100000", "jobs/cpu.max": "300000 100000"}, 3),
        ("0::/jobs/7", {"jobs/7/cpu.max": "100000 100000", "jobs/cpu.max": "300000 100000"}, 1),
        ("0::/docker/host/path", {"cpu.max": "400000 100000"}, 4),  # the path of the host
        (
            "4:cpu,cpuacct:/job\n1:name=systemd:/x\n0::/",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            "4:cpu,cpuacct:/docker/0123",
            {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:cpuset:/", {"cpuset/cpu.cfs_quota_us": "100000"}, None),
    ],
)
def test_a_quota_of_cpu_time_counts_as_cores(tmp_path, groups, files, cores):
    write(tmp_path, {"groups": groups, **{f"mounted/{name}": files[name] for name in files}})
    assert cgroup_cores(tmp_path / "groups", tmp_path / "mounted") == cores


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert cgroup_cores(tmp_path / "missing", tmp_path) is None


def test_the_quota_limits_the_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "cgroup_cores", lambda *_: 3)
    assert [thread_count(limit) for limit in (2, 5, 100)] == [2, 3, 3]
    monkeypatch.setattr(threads, "cgroup_cores", lambda *_: None)
    assert [thread_count(limit) for limit in (2, 5, 100)] == [2, 5, 8]


def test_the_cores_are_counted_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    monkeypatch.setattr(threads, "cgroup_cores", lambda *_: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert thread_count(100) == 4
