"""Identify processes, so that files which a killed process left behind are recognized."""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MACHINE_DIGITS = 10


@dataclass(frozen=True)
class Process:
    """A process of some machine.

    Args:
        machine: hash of what process ids belong to: the machine since it was started, and the
            container on it.
        pid: process id.
        start: when the process started, in an unspecified unit, because process ids are used
            again; 0 if the system does not report it.
    """

    machine: str
    pid: int
    start: int

    @property
    def token(self) -> str:
        """The process as a part of a file name."""
        return f"{self.machine}-{self.pid}-{self.start}"

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; False if this cannot be found out here."""
        if self.machine != _machine() or os.name != "posix":
            return False  # os.kill(pid, 0) would end the process on Windows
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # a process of another user
            pass
        return self.start != 0 and _start(self.pid) not in (0, self.start)


def this_process() -> Process:
    """Return the process that calls this."""
    return _own_process(os.getpid())


@cache  # a fork has another id
def _own_process(pid: int) -> Process:
    return Process(_machine(), pid, _start(pid))


def parse_token(token: str) -> Process | None:
    """Return the process of a token; None if the text is not one."""
    parts = token.split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts[1:]):
        return None
    return Process(parts[0], int(parts[1]), int(parts[2]))


@cache
def _machine() -> str:
    """Return a hash that two processes share only if they see the same process ids."""
    from hashlib import sha256  # noqa: PLC0415 (loads OpenSSL, which --help need not wait for)

    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return sha256("\0".join(parts).encode()).hexdigest()[:MACHINE_DIGITS]


def _start(pid: int) -> int:
    """Return when a process started, in ticks since the machine did; 0 if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # The second field is the program's name, which may hold spaces and parentheses.
    state, *fields = text.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(fields[18])
