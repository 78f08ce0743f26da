"""Count the writes, renames and claims of a process, or let it kill itself at one of them.

A command that `kills.py` forks calls `at_points` itself. Worker processes and actors of Ray start
interpreters of their own, which inherit the environment: `hook_workers` lets these follow a plan.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

POINTS = {"fsync": "write", "replace": "rename", "link": "claim"}  # functions of os
VARIABLE = "KILL_POINT"
WORKER_MODULE = "parfocal.distribute.worker"  # Ray has other processes, which do no work
SITE = """\
import sys
sys.path.append({folder!r})
import kill_points
kill_points.follow_environment()
"""


def at_points(before: Callable[[str], None], after: Callable[[str], None]) -> None:
    """Call functions before and after everything that makes a file, with its kind."""
    for name, kind in POINTS.items():
        usual = getattr(os, name)

        def hooked(*arguments: object, usual=usual, kind=kind, **options: object) -> object:
            before(kind)
            result = usual(*arguments, **options)
            after(kind)
            return result

        setattr(os, name, hooked)


def nothing(_: str) -> None:
    """Do nothing at a point."""


@dataclass(frozen=True)
class KillPoint:
    """Where a process kills itself.

    Args:
        kind: kind of the point.
        number: number of points of this kind that it passes before.
        early: whether it dies before the point rather than after it.
        mark: file that it makes when it dies, so that no other process does; empty if there is
            no other.
    """

    kind: str
    number: int
    early: bool
    mark: str = ""

    def set_up(self) -> None:
        """Let this process kill itself."""
        left = [self.number]

        def count(found: str) -> None:
            if found == self.kind and is_at_work():
                left[0] -= 1
                if left[0] < 0 and self._is_first():
                    os.kill(os.getpid(), signal.SIGKILL)

        at_points(*((count, nothing) if self.early else (nothing, count)))

    def _is_first(self) -> bool:
        if not self.mark:
            return True
        try:
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class Counting:
    """Where a process counts its points.

    Args:
        path: file to append a line to at each point.
    """

    path: str

    def set_up(self) -> None:
        """Let this process count."""

        def count(kind: str) -> None:
            if is_at_work():
                with open(self.path, "a") as file:  # noqa: PTH123 (before pathlib is imported)
                    file.write(f"{kind}\n")

        at_points(count, nothing)


def is_at_work() -> bool:
    """Return whether this process runs a command or is a worker of one."""
    return WORKER_MODULE in sys.modules or VARIABLE not in os.environ


def hook_workers(plan: KillPoint | Counting, folder: Path) -> None:
    """Let the interpreters that this process starts follow a plan.

    Args:
        plan: what they do at their points.
        folder: folder for a module that Python imports when it starts.
    """
    folder.mkdir(exist_ok=True)
    site = SITE.format(folder=str(Path(__file__).parent))
    (folder / "sitecustomize.py").write_text(site)
    os.environ[VARIABLE] = json.dumps(asdict(plan))
    paths = (str(folder), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def follow_environment() -> None:
    """Do what the environment says in this interpreter, which has just started."""
    fields = json.loads(os.environ.get(VARIABLE, "{}"))
    if fields:
        (KillPoint if "kind" in fields else Counting)(**fields).set_up()
