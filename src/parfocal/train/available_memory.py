"""Memory that this process can use: what is free, and the limits that apply to it."""

import os
from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # larger limits mean that there is none


def memory_in_use(device: torch.device) -> int:
    """Return the bytes that this process uses now: of RAM, or of the memory of a GPU.

    Args:
        device: "cpu", or a CUDA device.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status_bytes("VmRSS")


def available_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can use in total, including what it uses now.

    Of RAM, this is what is free on the machine, and the limits of the control groups of the process
    (set by containers and Slurm) and of `ulimit -v`. Of a GPU, it is what is free.

    Args:
        device: "cpu", or a CUDA device.

    Returns:
        The number of bytes; None if the system does not report it.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that torch holds without using it is free, too.
        return free + torch.cuda.memory_reserved(device)
    limits = [_free_on_machine(), *_free_in_cgroups(), _free_address_space()]
    known = [limit for limit in limits if limit is not None]
    return memory_in_use(device) + max(0, min(known)) if known else None


def _free_on_machine() -> int | None:
    """Return the bytes that new processes can use without swapping."""
    for line in _lines(PROC / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # Windows has no sysconf
        return None


def _free_in_cgroups() -> list[int]:
    """Return the bytes that are left in each control group of this process that has a limit."""
    free = []
    for line in _lines(PROC / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names, root = ("memory.max", "memory.current", "inactive_file"), CGROUPS
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = CGROUPS / "memory"
        else:
            continue
        # The limits of all groups above apply as well. Inside a container, the path may be that of
        # the host, and only the root exists.
        parts = Path(path.strip("/")).parts
        for depth in range(len(parts) + 1):
            free += _free_in_cgroup(root.joinpath(*parts[:depth]), *names)
    return free


def _free_in_cgroup(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> list[int]:
    limit, usage = _first_number(folder / limit_name), _first_number(folder / usage_name)
    if limit is None or usage is None or limit >= UNLIMITED:
        return []
    statistics = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat"))
    return [limit - usage + int(statistics.get(cache_name, 0))]  # cached files can be dropped


def _free_address_space() -> int | None:
    """Return the bytes that are left of `ulimit -v`; None if there is no limit."""
    try:
        import resource  # noqa: PLC0415 (Windows does not have it)
    except ModuleNotFoundError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return limit - _status_bytes("VmSize")


def _status_bytes(name: str) -> int:
    """Return an entry of /proc/self/status in bytes; 0 where there is no such file."""
    for line in _lines(PROC / "self/status"):
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return 0


def _first_number(path: Path) -> int | None:
    """Return the number in a file; None if it is missing, or "max"."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
