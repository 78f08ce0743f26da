"""Choose the number of threads."""

import os


def thread_count(limit: int) -> int:
    """Return the number of cores this process may use, at most `limit`."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return min(limit, len(os.sched_getaffinity(0)))
    return min(limit, os.cpu_count() or 1)
