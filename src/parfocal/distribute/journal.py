"""Keep the result of each slide of a command as a line of JSON, so that a later call can go on.

Several processes may add results at the same time. Each writes to a file of its own, a part, which
it adds to the journal at the end. Parts that killed processes left are read as well.
"""

import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from parfocal.distribute.claims import hold
from parfocal.distribute.work_folder import work_folder
from parfocal.files import write_whole
from parfocal.processes import parse_token, this_process

FORMAT = "parfocal journal"
FORMAT_VERSION = 1
MERGE_WAIT_S = 600.0

Line = dict[str, object]


@dataclass(frozen=True)
class _Source:
    """What is known of a file of results.

    Args:
        identity: number of the file, which changes if it is replaced.
        read: bytes that were read; whole lines.
        fits: whether its results were made in the same way.
    """

    identity: int
    read: int
    fits: bool


class Journal:
    """The results of slides that a command has finished, in a file of JSON lines.

    The first line describes how the results were made. A line is on the disk before the next slide
    is processed, so an interruption loses at most one slide. Results that were made in another way
    or by another version of parfocal are not used, and are replaced when results are added.

    Args:
        path: the file.
        made_by: everything that the results depend on, except for the slides; values of JSON.
        again: whether to ignore the results that are there now.
        parts: folder of the parts; None for a hidden one beside the file.
    """

    def __init__(
        self,
        path: Path,
        made_by: Mapping[str, object],
        *,
        again: bool = False,
        parts: Path | None = None,
    ) -> None:
        self._path = path
        self._parts = work_folder(path) if parts is None else parts
        self._header = _plain(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "parfocal": version("parfocal"),
                "made_by": made_by,
            }
        )
        self._sources: dict[Path, _Source] = {}
        self._lines: dict[str, Line] = {}
        self._own: Path | None = None
        self._lock = threading.Lock()
        self._read_new()
        if again:
            self._lines = {}

    def __enter__(self) -> "Journal":
        """Return the journal."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the journal; an error of the block is more important than one of closing."""
        try:
            self.close()
        except OSError:
            if kind is None:
                raise

    @property
    def is_outdated(self) -> bool:
        """Whether the file has results of another model or other settings, to be replaced."""
        source = self._sources.get(self._path)
        return source is not None and not source.fits

    def find(self, slide: str, state: Mapping[str, object]) -> Line | None:
        """Return the result of a slide; None if there is none for this state of the slide.

        Args:
            slide: id of the slide.
            state: what the result depends on, such as the fingerprint of the file.
        """
        with self._lock:
            self._read_new()
            line = self._lines.get(slide)
        if line is None or line.get("state") != _plain(state):
            return None
        result = line.get("result")
        return result if isinstance(result, dict) else None

    def add(self, slide: str, state: Mapping[str, object], result: Mapping[str, object]) -> None:
        """Append the result of a slide, and wait until it is on the disk.

        Args:
            slide: id of the slide.
            state: what the result depends on.
            result: the result; values of JSON.

        Raises:
            ValueError: a number is not finite.
            OSError: the file cannot be written.
        """
        line = _plain({"slide": slide, "state": state, "result": result})
        with self._lock:
            if self._own is None:
                self._own = self._new_part()
            _append(self._own, [line])
            self._lines[slide] = line

    def close(self) -> None:
        """Add the results of this process, and those that killed ones left, to the journal.

        Raises:
            OSError: the file cannot be written.
        """
        if self._own is None:
            return
        with hold(self._parts / f"claim-{self._path.name}", wait_s=MERGE_WAIT_S):
            self._read_new()
            parts = [self._own, *self._left_parts()]
            lines = [line for part in parts for line in _read_lines(part, self._header)]
            if self._is_whole():
                _append(self._path, lines)
            else:
                whole = _read_lines(self._path, self._header)
                write_whole(self._path, b"".join(map(_encode, (self._header, *whole, *lines))))
            for part in parts:
                part.unlink(missing_ok=True)
        self._own = None
        with suppress(OSError):  # other files are there
            self._parts.rmdir()

    def _new_part(self) -> Path:
        """Create the part of this process."""
        self._parts.mkdir(parents=True, exist_ok=True)
        number = 0
        while (part := self._part_path(number)).exists():
            number += 1
        write_whole(part, _encode(self._header))
        return part

    def _part_path(self, number: int) -> Path:
        return self._parts / f"{self._path.name}.{this_process().token}.{number}"

    def _left_parts(self) -> list[Path]:
        """Return the parts of processes that have ended."""
        left = []
        for part in self._all_parts():
            owner = parse_token(part.name.removeprefix(f"{self._path.name}.").rpartition(".")[0])
            if owner is not None and owner.is_dead:
                left.append(part)
        return left

    def _all_parts(self) -> list[Path]:
        if not self._parts.is_dir():
            return []
        prefix = f"{self._path.name}."
        return [part for part in sorted(self._parts.iterdir()) if part.name.startswith(prefix)]

    def _is_whole(self) -> bool:
        """Return whether lines can be appended to the journal."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return False
        return content.startswith(_encode(self._header)) and content.endswith(b"\n")

    def _read_new(self) -> None:
        """Read what was added to the journal and to the parts of other processes."""
        for path in (self._path, *self._all_parts()):
            if path != self._own:
                with suppress(OSError):  # removed meanwhile
                    self._read_source(path)

    def _read_source(self, path: Path) -> None:
        status = path.stat()
        known = self._sources.get(path)
        if known is None or known.identity != status.st_ino or status.st_size < known.read:
            known = _Source(status.st_ino, 0, fits=True)
        if status.st_size == known.read or not known.fits:
            self._sources[path] = known
            return
        with path.open("rb") as file:
            file.seek(known.read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1].splitlines()
        fits = known.read > 0 or not whole or _decode(whole.pop(0)) == self._header
        read = known.read + content.rfind(b"\n") + 1
        self._sources[path] = _Source(known.identity, read, fits)
        if fits:
            self._lines.update(_by_slide(whole))


def _read_lines(path: Path, header: Line) -> list[Line]:
    """Return the whole lines of a part; none if its results were made in another way."""
    try:
        first, *rows = path.read_bytes().splitlines(keepends=True)
    except (OSError, ValueError):
        return []
    if _decode(first) != header:
        return []
    return list(_by_slide(row for row in rows if row.endswith(b"\n")).values())


def _by_slide(rows: Iterable[bytes]) -> dict[str, Line]:
    lines = (_decode(row) for row in rows)
    return {str(line.get("slide")): line for line in lines if line is not None}


def _decode(row: bytes) -> Line | None:
    """Return a line; None if it is damaged."""
    try:
        line = json.loads(row)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _append(path: Path, lines: Iterable[Line]) -> None:
    """Append lines to a file that exists, and wait until they are on the disk."""
    try:
        with path.open("r+b", buffering=0) as file:  # no new file where the folder was removed
            file.seek(0, os.SEEK_END)
            file.write(b"".join(map(_encode, lines)))
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _plain(value: Mapping[str, object]) -> Line:
    """Return values as JSON has them: lists for tuples, strings for keys."""
    plain: Line = json.loads(json.dumps(dict(value), allow_nan=False))
    return plain


def _encode(line: Mapping[str, object]) -> bytes:
    return (json.dumps(line) + "\n").encode()
