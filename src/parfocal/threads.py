"""Choose the number of threads."""

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

CGROUP_ROOT = Path("/sys/fs/cgroup")

POOL_SIZES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

# Of GNU's and Intel's OpenMP, which read them when torch is imported.
SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


class _Limit(NamedTuple):
    """A number of threads, and whether a user has chosen it."""

    number: int
    is_chosen: bool


_limits: list[_Limit] = []  # at most one, set for the process
_share = threading.local()


def limit_threads(count: int | None, *, is_chosen: bool = True) -> None:
    """Set the number of threads of this process: those that read, and those of torch.

    It may be more than there are cores. Torch is not imported for it.

    Args:
        count: number of threads; None for no limit but the cores, which leaves torch as it is.
        is_chosen: whether a user has chosen the number. If False, as for the share of a worker
            process, torch uses fewer threads if OMP_NUM_THREADS is lower, and training on small
            bags uses one.

    Raises:
        ValueError: the number is below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} threads: at least one is needed.")
    _limits[:] = [] if count is None else [_Limit(count, is_chosen)]
    if count is None:
        return
    of_torch = count if is_chosen else min(count, _threads_of_environment() or count)
    os.environ.update(dict.fromkeys(POOL_SIZES, str(of_torch)))  # read when torch is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(of_torch)


def _threads_of_environment() -> int | None:
    """Return the number of threads that OMP_NUM_THREADS asks for; None if it asks for none."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # others are nested
    return int(first) or None if first.isascii() and first.isdecimal() else None


def let_threads_sleep() -> None:
    """Let threads of torch sleep while they wait for each other, in processes that import it later.

    By default, they keep a core busy for a while; beside another program that uses a core, they
    then mostly keep each other from working (`benchmarks/threads.py`). Variables of the environment
    that are set are kept.
    """
    for name, value in SLEEP.items():
        os.environ.setdefault(name, value)


def share_threads(count: int) -> None:
    """Let this thread count only its share of the cores, beside others that work as it does.

    Args:
        count: number of threads that share the cores.
    """
    _share.count = count


def thread_count(limit: int) -> int:
    """Return the number of cores this process may use, at most `limit`.

    These are the cores that it is bound to, or fewer if a container or a job has a quota of CPU
    time, or the number given to `limit_threads`; divided among the threads of `share_threads`.
    """
    return max(1, min(limit, _cores() // getattr(_share, "count", 1)))


def chosen_threads() -> int | None:
    """Return the number of threads that a user has chosen; None if there is none."""
    return _limits[0].number if _limits and _limits[0].is_chosen else None


def _cores() -> int:
    return _limits[0].number if _limits else available_cores()


def available_cores() -> int:
    """Return the number of cores that this process may use, whatever the limit of threads."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, cgroup_cores(Path("/proc/self/cgroup"), CGROUP_ROOT) or cores)


@cache
def cgroup_cores(groups: Path, root: Path) -> int | None:
    """Return the number of cores that the quota of a control group is worth, rounded up.

    Args:
        groups: file that lists the control groups of a process, of version 1 and 2.
        root: folder where their file systems are mounted.

    Returns:
        The smallest number of the group and those that it is in; None if there is no quota.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    shares: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            shares += map(_share_v2, _with_parents(root, path))
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu"):
                shares += map(_share_v1, _with_parents(root / mount, path))
    quota = min(shares, default=math.inf)
    return None if math.isinf(quota) else max(1, math.ceil(quota))


def _with_parents(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of the groups that it is in."""
    folder = root.joinpath(*Path(path).parts[1:])
    # In a container, the path may be that of the host, and only the root exists.
    yield from (folder, *(parent for parent in folder.parents if parent.is_relative_to(root)))


def _share_v2(folder: Path) -> float:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)  # "max" is no number: no limit
    return math.inf


def _share_v1(folder: Path) -> float:
    with suppress(OSError, ValueError):
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii"))
            for name in ("quota", "period")
        )
        return quota / period if quota > 0 else math.inf
    return math.inf
