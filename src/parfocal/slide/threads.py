"""How many threads work at once."""

import os


def threads(most: int) -> int:
    """Give one for each core this process may use, up to `most`."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone tells which those are
        return min(most, len(os.sched_getaffinity(0)))
    return min(most, os.cpu_count() or 1)
