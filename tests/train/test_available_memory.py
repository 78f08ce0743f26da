"""The memory that a process can use, from what Linux reports."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parfocal.train import available_memory as module
from parfocal.train.available_memory import available_memory, memory_in_use

CPU = torch.device("cpu")
MB = 1024**2


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Replace /proc and /sys/fs/cgroup; the process uses 100 MB, and 900 MB are free."""
    monkeypatch.setattr(module, "PROC", tmp_path / "proc")
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/self/status", f"VmSize:\t {500 * 1024} kB\nVmRSS:\t {100 * 1024} kB\n")
    write("proc/meminfo", f"MemTotal: {2000 * 1024} kB\nMemAvailable: {900 * 1024} kB\n")
    return write


def test_free_memory_and_that_of_this_process_are_available(system):
    assert memory_in_use(CPU) == 100 * MB
    assert available_memory(CPU) == 1000 * MB


def test_a_control_group_limits_the_memory(system):
    system("proc/self/cgroup", "0::/job/step\n")
    system("cgroup/job/memory.max", str(400 * MB))
    system("cgroup/job/memory.current", str(300 * MB))
    system("cgroup/job/memory.stat", f"anon 5\ninactive_file {50 * MB}\n")
    system("cgroup/job/step/memory.max", "max\n")
    system("cgroup/job/step/memory.current", str(300 * MB))
    assert available_memory(CPU) == (100 + 400 - 300 + 50) * MB


def test_a_container_sees_its_limit_at_the_root(system):
    system("proc/self/cgroup", "0::/path/on/the/host\n")
    system("cgroup/memory.max", str(400 * MB))
    system("cgroup/memory.current", str(300 * MB))
    assert available_memory(CPU) == 200 * MB


def test_a_control_group_of_version_1_limits_the_memory(system):
    system("proc/self/cgroup", "5:cpu,cpuacct:/job\n4:memory:/job\n")
    system("cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    system("cgroup/memory/memory.usage_in_bytes", str(300 * MB))
    system("cgroup/memory/job/memory.limit_in_bytes", str(400 * MB))
    system("cgroup/memory/job/memory.usage_in_bytes", str(300 * MB))
    system("cgroup/memory/job/memory.stat", f"total_inactive_file {20 * MB}\n")
    assert available_memory(CPU) == (100 + 400 - 300 + 20) * MB


def test_a_group_over_its_limit_leaves_what_is_in_use(system):
    system("proc/self/cgroup", "0::/\n")
    system("cgroup/memory.max", str(200 * MB))
    system("cgroup/memory.current", str(300 * MB))
    assert available_memory(CPU) == 100 * MB


LIMITED = """
import resource, torch
from parfocal.train.available_memory import available_memory, _status_bytes
limit = _status_bytes("VmSize") + 200 * 1024**2
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(available_memory(torch.device("cpu")) - _status_bytes("VmRSS"))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_limit_of_the_address_space_counts():
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, check=True)
    assert 0 < int(run.stdout) <= 200 * MB


def test_without_proc_all_memory_of_the_machine_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROC", tmp_path)
    monkeypatch.setattr(module.os, "sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}.get)
    assert available_memory(CPU) == 40960


def test_where_nothing_is_reported_the_memory_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROC", tmp_path)
    monkeypatch.delattr(module.os, "sysconf")
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert available_memory(CPU) is None
