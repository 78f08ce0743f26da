"""Copy slides to a scratch folder on a local disk before they are used; remove the copies.

While `stage_slides` is in effect, `open_slide` opens a copy of a local file. The slide keeps the
name, the path and the fingerprint of the original.

SCRATCH/parfocal-PROCESS/NUMBER/NAME    the copies of one process
"""

import atexit
import logging
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from parfocal.files import is_folder
from parfocal.processes import parse_token, this_process
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import dicom_instances, is_dicom_name
from parfocal.slide.readers.dicom_header import is_dicom
from parfocal.slide.sources.daemon_pool import DaemonPool
from parfocal.slide.sources.size import describe_bytes
from parfocal.slide.sources.url import SlidePath

PREFIX = "parfocal-"
GIGABYTE = 10**9
DEFAULT_GB = 100.0
FREE_SHARE = 0.02  # of a disk, which copies leave free
MIRAX = ".mrxs"  # with a folder of the same name
SEVERAL_FILES = (".vms", ".vmu")  # that name others; read in place

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scratch:
    """A folder for copies of slides.

    Args:
        folder: the folder.
        max_bytes: maximum size of all copies in it, of all processes together.
    """

    folder: Path
    max_bytes: int = int(DEFAULT_GB * GIGABYTE)

    @classmethod
    def of_gigabytes(cls, folder: Path, gigabytes: float | None) -> "Scratch":
        """Return a folder whose size is given in GB; None for the default."""
        return cls(folder, int((gigabytes or DEFAULT_GB) * GIGABYTE))


@dataclass
class _Copy:
    """A copy that is made, or is being made.

    Args:
        done: the path to open instead of the slide; None if it has to be read in place.
        folder: folder of the copy.
        users: number of open slides that read it.
    """

    folder: Path
    done: "Future[Path | None]" = field(default_factory=Future)
    users: int = 0


class Stage:
    """The copies of one process.

    Args:
        scratch: where they are.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self._folder = scratch.folder / f"{PREFIX}{this_process().token}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._copies: OrderedDict[Path, _Copy] = OrderedDict()  # least recently used first
        self._number = 0
        self._lock = threading.Lock()
        self._pool = DaemonPool(1)
        _remove_left(scratch.folder)

    def open(self, path: Path) -> tuple[Path, Callable[[], None]]:
        """Return the path of the copy of a slide, made if needed, and a function that releases it.

        Args:
            path: the slide; it is returned itself if there is no room for a copy.
        """
        copy, is_new = self._copy_of(path, users=1)
        if is_new:
            self._fill(path, copy)
        copied = copy.done.result()
        if copied is None:
            self._release(copy)
            self._remove(path)
            return path, _nothing
        return copied, partial(self._release, copy)

    def ahead(self, paths: Callable[[], Sequence[SlidePath]]) -> None:
        """Copy slides in the background.

        Args:
            paths: returns the slides; called in the background.
        """
        self._pool.submit(lambda: self._copy_ahead(paths))

    def discard(self, paths: Sequence[SlidePath]) -> None:
        """Remove the copies of slides that are not open."""
        for path in paths:
            if isinstance(path, Path):
                self._remove(path)

    def end(self) -> None:
        """Remove all copies."""
        self._pool.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _copy_ahead(self, paths: Callable[[], Sequence[SlidePath]]) -> None:
        with suppress(Exception), in_place():  # the slide itself raises it when it is opened
            for path in paths():
                if not isinstance(path, Path):
                    continue
                copy, is_new = self._copy_of(path)
                if is_new:
                    self._fill(path, copy, ahead=True)
                    if copy.done.result() is None:  # there may be room when it is opened
                        self._remove(path)

    def _copy_of(self, path: Path, *, users: int = 0) -> tuple[_Copy, bool]:
        """Return the copy of a slide, and whether it has to be made by the caller."""
        with self._lock:
            copy = self._copies.get(path)
            is_new = copy is None
            if copy is None:
                self._number += 1
                copy = self._copies[path] = _Copy(self._folder / str(self._number))
            copy.users += users
            self._copies.move_to_end(path)
        return copy, is_new

    def _release(self, copy: _Copy) -> None:
        with self._lock:
            copy.users -= 1

    def _fill(self, path: Path, copy: _Copy, *, ahead: bool = False) -> None:
        """Make a copy; any failure leaves the slide where it is.

        Args:
            path: the slide.
            copy: its copy.
            ahead: whether the slide is not needed yet, so that no other copy is removed for it.
        """
        copied: Path | None = None
        try:
            copied = self._copied(path, copy, ahead=ahead)
        except (OSError, SlideError) as error:
            logger.debug("%s: not copied to %s: %s", path, self.scratch.folder, error)
        finally:
            if copied is None:
                shutil.rmtree(copy.folder, ignore_errors=True)
            copy.done.set_result(copied)

    def _copied(self, path: Path, copy: _Copy, *, ahead: bool) -> Path | None:
        files = _files_of(path)
        size = sum(source.stat().st_size for source in files.values())
        if not files:
            return None
        if not self._make_room(size, ahead=ahead) or not self._reserve(copy, files):
            if not ahead:
                logger.info(
                    "%s: %s has no room for its %s; it is read in place",
                    *(path.name, self.scratch.folder, describe_bytes(size)),
                )
            return None
        for name, source in files.items():
            with source.open("rb") as content, (copy.folder / name).open("r+b") as target:
                shutil.copyfileobj(content, target, 2**22)
        return copy.folder / path.name

    def _make_room(self, size: int, *, ahead: bool) -> bool:
        """Remove copies until there is room for another; return False if there is none."""
        while True:
            disk = shutil.disk_usage(self.scratch.folder)
            if size <= min(disk.free - FREE_SHARE * disk.total, self._room()):
                return True
            if ahead or not self._remove_oldest():
                return False

    def _reserve(self, copy: _Copy, files: dict[str, Path]) -> bool:
        """Create the files of a copy with their sizes; return False if there is no room."""
        for name, source in files.items():
            target = copy.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.truncate(source.stat().st_size)
        if self._room() < 0:  # another process has made a copy at the same moment
            shutil.rmtree(copy.folder, ignore_errors=True)
            return False
        return True

    def _room(self) -> int:
        """Return how many bytes may be added to the copies of all processes."""
        used = 0
        for folder in self.scratch.folder.glob(f"{PREFIX}*"):
            for file in folder.rglob("*"):
                with suppress(OSError):  # removed meanwhile
                    used += file.stat().st_size if file.is_file() else 0
        return self.scratch.max_bytes - used

    def _remove_oldest(self) -> bool:
        """Remove the least recently used copy that is not open; return False if there is none."""
        return any(self._remove(path) for path in list(self._copies))

    def _remove(self, path: Path) -> bool:
        """Remove the copy of a slide; return False if there is none, or it is in use."""
        with self._lock:
            copy = self._copies.get(path)
            if copy is None or copy.users or not copy.done.done():
                return False
            del self._copies[path]
        shutil.rmtree(copy.folder, ignore_errors=True)
        return True


_stages: dict[int, Stage] = {}  # by process, since a fork has none
_thread = threading.local()


def stage_slides(scratch: Scratch | None) -> None:
    """Open copies of slides in this process from now on; with None, remove the copies and stop.

    Raises:
        OSError: the folder cannot be written to.
    """
    stage = _stages.pop(os.getpid(), None)
    if stage is not None:
        stage.end()
    if scratch is not None:
        _stages[os.getpid()] = Stage(scratch)
        atexit.register(stage_slides, None)


def current_stage() -> Stage | None:
    """Return the copies of this process; None if slides are read in place."""
    return None if getattr(_thread, "in_place", False) else _stages.get(os.getpid())


def staged(path: SlidePath) -> tuple[SlidePath, Callable[[], None]]:
    """Return the file to open for a slide, a copy if possible, and a function that releases it."""
    stage = current_stage()
    if stage is None or not isinstance(path, Path):
        return path, _nothing
    return stage.open(path)


def _nothing() -> None:
    """Release nothing."""


@contextmanager
def in_place() -> Iterator[None]:
    """Open the original files of slides in this thread, within a block."""
    before = getattr(_thread, "in_place", False)
    _thread.in_place = True
    try:
        yield
    finally:
        _thread.in_place = before


def _files_of(path: Path) -> dict[str, Path]:
    """Return the files of a slide by their path in a copy; empty if the slide is not copied.

    Raises:
        SlideError: a folder holds no slide.
        OSError: a file cannot be read.
    """
    if path.suffix.lower() in SEVERAL_FILES:
        return {}
    if is_folder(path):
        return {f"{path.name}/{file.name}": file for file in dicom_instances(path)}
    if is_dicom_name(path.name) and is_dicom(path):
        return {file.name: file for file in dicom_instances(path)}
    files = {path.name: path} if path.is_file() else {}
    data = path.with_suffix("")
    if path.suffix.lower() == MIRAX and is_folder(data):
        inside = (file for file in data.rglob("*") if file.is_file())
        files |= {str(file.relative_to(path.parent)): file for file in inside}
    return files


def _remove_left(folder: Path) -> None:
    """Remove the copies that killed processes of this machine left behind."""
    for each in folder.glob(f"{PREFIX}*"):
        owner = parse_token(each.name.removeprefix(PREFIX))
        if owner is not None and owner.is_dead:
            shutil.rmtree(each, ignore_errors=True)
