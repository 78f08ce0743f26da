"""Open a slide in a child process first, where damage may end the process that opens it.

OpenSlide and its libraries abort the process when they cannot allocate what a damaged file asks
for, and a file whose records lead back to themselves keeps them busy forever. Neither can be caught
in the process itself.
"""

import signal
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from parfocal.slide.errors import SlideError

TIME_LIMIT_S = 30.0
CPU_LIMIT_S = 10  # also where waiting for a disk takes long, this is plenty
MEMORY_LIMIT = 4 * 2**30  # bytes of address space; a whole slide is opened in less than 1 GiB
READ_PX = 512
XCPU: int | None = getattr(signal, "SIGXCPU", None)  # Windows has none
WINDOWS_CRASH = 2**30  # exit codes from here on are those of crashes
# The parent also gets the errors that OpenSlide raises, and reports them with more detail.
CHILD = f"""
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, ({CPU_LIMIT_S}, {CPU_LIMIT_S}))
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_LIMIT}, {MEMORY_LIMIT}))
except (ImportError, OSError, ValueError):
    pass  # a system without these limits
from openslide import OpenSlide, OpenSlideError
try:
    slide = OpenSlide(sys.argv[1])
    width, height = slide.level_dimensions[-1]
    size = min(width, {READ_PX}), min(height, {READ_PX})
    slide.read_region((0, 0), slide.level_count - 1, size)
except OpenSlideError:
    pass
"""


def probe(path: Path, files: Iterable[Path]) -> None:
    """Check in a child process that OpenSlide survives a slide.

    A slide whose files have not changed is tried once in a process.

    Args:
        path: the slide.
        files: the files that it consists of.

    Raises:
        SlideError: the child process was ended, or took too much time or memory.
    """
    states = []
    for file in files:
        status = file.stat()
        states.append((status.st_size, status.st_mtime_ns))
    problem = _problem(path, tuple(states))
    if problem:
        raise SlideError(
            f"{path.name}: OpenSlide cannot open this slide: in a process of its own, {problem}. "
            "Copy it again from its source, with all files that belong to it."
        )


@lru_cache(maxsize=4096)
def _problem(path: Path, _states: tuple[tuple[int, int], ...]) -> str:
    """Return what happened to the child process; empty if nothing did."""
    command = [sys.executable, "-P", "-c", CHILD, str(path)]
    nothing = subprocess.DEVNULL
    try:
        child = subprocess.run(
            command,
            stdin=nothing,
            stdout=nothing,
            stderr=subprocess.PIPE,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not finish within {TIME_LIMIT_S:.0f} s"
    except OSError:
        return ""  # this process may not start others
    if b"MemoryError" in child.stderr or b"failed to allocate" in child.stderr:
        return f"it needed more than {MEMORY_LIMIT / 2**30:.0f} GiB of memory"
    if XCPU is not None and child.returncode == -XCPU:
        return f"it did not finish within {CPU_LIMIT_S} s of computing"
    if child.returncode < 0 or child.returncode > WINDOWS_CRASH:
        return f"it crashed (code {child.returncode})"
    return ""
