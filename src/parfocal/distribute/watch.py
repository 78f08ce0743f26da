"""Watch files that other processes touch while they are alive, by this process's clock alone."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sight:
    """What is seen of a file at one time.

    Args:
        content: its content.
        touched: when it was touched last, in ns by whatever clock; only changes matter.
    """

    content: bytes
    touched: int


@dataclass(frozen=True)
class _Watched:
    sight: Sight
    looked: float  # seconds of this process's clock
    quiet_s: float
    has_changed: bool


def see(path: Path) -> Sight | None:
    """Return what is seen of a small file now; None if there is no file.

    The file is opened, because network file systems ask their server only then.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            touched = os.fstat(file.fileno()).st_mtime_ns
            return Sight(file.read(), touched)
    except FileNotFoundError:
        return None


class Watch:
    """Remembers how long files have not changed while this process looked at them.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[Path, _Watched] = {}

    def quiet_s(self, path: Path, sight: Sight, *, longest_gap_s: float) -> float:
        """Return the seconds for which a file has been seen unchanged, and remember what is seen.

        Args:
            path: the file.
            sight: what is seen of it now.
            longest_gap_s: how much the time between two looks counts at most, so that a process
                that did not look, as in a busy hour or asleep, draws no conclusion from it.
        """
        now = time.monotonic()
        with self._lock:
            before = self._watched.get(path)
            if before is None or before.sight != sight:
                is_known = before is not None and before.sight.content == sight.content
                self._watched[path] = _Watched(sight, now, 0.0, is_known)
                return 0.0
            quiet_s = before.quiet_s + min(now - before.looked, longest_gap_s)
            self._watched[path] = _Watched(sight, now, quiet_s, before.has_changed)
            return quiet_s

    def is_alive(self, path: Path) -> bool:
        """Return whether a file with the same content has been seen to be touched again."""
        with self._lock:
            return path in self._watched and self._watched[path].has_changed
