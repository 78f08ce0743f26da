"""Keep the result of each slide of a command as a line of JSON, so that a later call can go on."""

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from parfocal.files import write_whole

FORMAT = "parfocal journal"
FORMAT_VERSION = 1


class Journal:
    """The results of slides that a command has finished, in a file of JSON lines.

    The first line describes how the results were made. A line is on the disk before the next slide
    is processed, so an interruption loses at most one slide. Results that were made in another way
    or by another version of parfocal are not used, and are replaced when the first result is added.

    Args:
        path: the file.
        made_by: everything that the results depend on, except for the slides; values of JSON.
        again: whether to ignore the results in the file.
    """

    def __init__(self, path: Path, made_by: Mapping[str, object], *, again: bool = False) -> None:
        self._path = path
        self._header = _plain(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "parfocal": version("parfocal"),
                "made_by": made_by,
            }
        )
        self._lines: dict[str, dict[str, object]] = {} if again else self._read()
        self._is_whole = False  # whether the file has the header and these lines, and nothing else

    def find(self, slide: str, state: Mapping[str, object]) -> dict[str, object] | None:
        """Return the result of a slide; None if there is none for this state of the slide.

        Args:
            slide: id of the slide.
            state: what the result depends on, such as the fingerprint of the file.
        """
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
        if not self._is_whole:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, b"".join(map(_encode, (self._header, *self._lines.values()))))
            self._is_whole = True
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(_encode(line))
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._lines[slide] = line

    def _read(self) -> dict[str, dict[str, object]]:
        """Read the lines of the file, up to the first that is damaged."""
        lines: list[dict[str, object]] = []
        try:
            for text in self._path.read_bytes().splitlines():
                lines.append(_plain(json.loads(text)))
        except (OSError, ValueError, TypeError, RecursionError):
            pass  # no file yet, or an interruption cut the last line
        if not lines or lines[0] != self._header:
            return {}
        return {str(line.get("slide")): line for line in lines[1:]}


def _plain(value: Mapping[str, object]) -> dict[str, object]:
    """Return values as JSON has them: lists for tuples, strings for keys."""
    plain: dict[str, object] = json.loads(json.dumps(dict(value), allow_nan=False))
    return plain


def _encode(line: Mapping[str, object]) -> bytes:
    return (json.dumps(line) + "\n").encode()
