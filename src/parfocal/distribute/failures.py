"""Items that failed: a small file for each, so that the reason is found without reading logs."""

import json
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from parfocal.distribute.work_folder import file_name
from parfocal.files import part_path
from parfocal.processes import this_process

NAME = "failed"


@dataclass(frozen=True)
class FailedItem:
    """An item that failed.

    Args:
        item: the item.
        reason: why.
        by: process and machine that tried it.
        time: when, in seconds since 1970.
        key: identifier of this failure.
        made_by: what was done, by which model and settings; empty if the folder is of one task.
    """

    item: str
    reason: str
    by: str
    time: float
    key: str
    made_by: str = ""


class Failures:
    """The failures in a work folder.

    Those that are there at the beginning are of an earlier command, whose items are tried again.

    Args:
        folder: work folder; it must exist.
        made_by: what is done; failures of something else do not count.
    """

    def __init__(self, folder: Path, made_by: str = "") -> None:
        self._folder, self._made_by = folder / NAME, made_by
        self._folder.mkdir(exist_ok=True)
        self._earlier = {each.key for each in read_failures(folder)}

    def find(self, item: str, *, earlier: bool = False) -> str | None:
        """Return why an item failed since the beginning; None if it did not.

        Args:
            item: the item.
            earlier: whether the failures of earlier commands count as well.
        """
        failed = _read(self._folder / file_name(item))
        if failed is None or failed.made_by != self._made_by:
            return None
        return None if failed.key in self._earlier and not earlier else failed.reason

    def add(self, item: str, reason: str) -> None:
        """Keep the reason of a failure.

        Raises:
            OSError: it cannot be written.
        """
        by = f"process {this_process().pid} on {platform.node()}"
        failed = FailedItem(item, reason, by, time.time(), uuid4().hex, self._made_by)
        path = self._folder / file_name(item)
        draft = part_path(path)
        try:
            draft.write_text(json.dumps(asdict(failed)), encoding="utf-8")
            draft.replace(path)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def remove(self, item: str) -> None:
        """Remove the failure of an item that is done now."""
        if self._earlier:
            (self._folder / file_name(item)).unlink(missing_ok=True)


def read_failures(folder: Path) -> list[FailedItem]:
    """Return all failures in a work folder."""
    with suppress(FileNotFoundError):
        found = (
            _read(path) for path in sorted((folder / NAME).iterdir()) if path.suffix != ".part"
        )
        return [failed for failed in found if failed is not None]
    return []


def _read(path: Path) -> FailedItem | None:
    try:
        return FailedItem(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
