import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from parfocal import threads
from parfocal.cli import main
from parfocal.threads import (
    cgroup_cores,
    let_threads_sleep,
    limit_threads,
    share_threads,
    thread_count,
)


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


def test_a_limit_for_the_process_replaces_the_number_of_cores(monkeypatch):
    monkeypatch.setattr(threads, "POOL_SIZES", ())
    kept = torch.get_num_threads()
    try:
        limit_threads(3)
        assert (torch.get_num_threads(), thread_count(8), thread_count(2)) == (3, 3, 2)
    finally:
        limit_threads(None)
        torch.set_num_threads(kept)
    with pytest.raises(ValueError, match="0 threads: at least one is needed"):
        limit_threads(0)


def test_threads_that_process_several_slides_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "cgroup_cores", lambda *_: None)
    with ThreadPoolExecutor(1, initializer=share_threads, initargs=(3,)) as pool:
        assert pool.submit(thread_count, 8).result() == 2
    with ThreadPoolExecutor(1, initializer=share_threads, initargs=(32,)) as pool:
        assert pool.submit(thread_count, 8).result() == 1
    assert thread_count(8) == 8


def test_the_cores_are_counted_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    monkeypatch.setattr(threads, "cgroup_cores", lambda *_: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert thread_count(100) == 4


def test_waiting_threads_sleep_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("KMP_BLOCKTIME", "")
    monkeypatch.delenv("KMP_BLOCKTIME")  # restored at the end
    let_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert os.environ["KMP_BLOCKTIME"] == "0"


def test_the_command_line_lets_waiting_threads_sleep(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr("sys.argv", ["parfocal", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
