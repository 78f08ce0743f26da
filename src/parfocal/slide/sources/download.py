"""Download slides of formats that cannot be read in place."""

import logging
import os
import re
import shutil
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from parfocal.cost import CostMeter
from parfocal.files import whole_file
from parfocal.slide.sources.errors import RemoteError, TransientError
from parfocal.slide.sources.opening import connect
from parfocal.slide.sources.page_fetcher import TRIES
from parfocal.slide.sources.size import describe_bytes
from parfocal.slide.sources.transport import Reply
from parfocal.slide.sources.url import SlideUrl
from parfocal.slide.staging import Scratch, current_stage

KEY_DIGITS = 12
KEY = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}")  # folder of a download
IN_USE_S = 3600.0  # after its last use; another process may still read it

logger = logging.getLogger(__name__)


def download(url: SlideUrl, cost_meter: CostMeter) -> Path:
    """Download a whole file to the scratch folder of its URL, unless it is there already.

    The size is logged first. The file stays in the folder, for the next run, until its space is
    needed.

    Args:
        url: the file, whose `access.scratch` is a folder.
        cost_meter: counts bytes and requests.

    Raises:
        RemoteError: the file cannot be downloaded, or the disk has no room for it.
        OSError: the folder cannot be written to.
    """
    assert url.access.scratch is not None
    for failures in range(1, TRIES + 1):
        transport = connect(url, cost_meter)
        try:
            return _save(url, url.access.scratch, transport.fetch_whole(), cost_meter)
        except TransientError as error:
            if failures == TRIES:
                raise RemoteError(
                    url, f"the download from {url.host} failed {TRIES} times ({error}). Try later."
                ) from None
        finally:
            transport.cancel()
    raise AssertionError("the loop returns or raises")


def _make_room(folder: Path, size: int) -> int:
    """Remove downloads that were not used for the longest time, until there is room for another.

    Args:
        folder: scratch folder.
        size: bytes of the other one.

    Returns:
        The bytes that there is room for.
    """
    stage = current_stage()
    limit = Scratch(folder).max_bytes if stage is None else stage.scratch.max_bytes
    files = [
        file for each in folder.iterdir() if KEY.fullmatch(each.name) for file in each.glob("*")
    ]
    statuses = {file: file.stat() for file in files if file.is_file()}
    used = sum(status.st_size for status in statuses.values())
    oldest = sorted(statuses, key=lambda file: statuses[file].st_mtime)
    while True:
        room = min(limit - used, shutil.disk_usage(folder).free)
        if room >= size or not oldest or time.time() - statuses[oldest[0]].st_mtime < IN_USE_S:
            return max(0, room)
        file = oldest.pop(0)
        file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            file.parent.rmdir()
        used -= statuses[file].st_size


def _save(url: SlideUrl, folder: Path, reply: Reply, cost_meter: CostMeter) -> Path:
    key = sha256(f"{url.secret_url}\0{reply.identity}\0{reply.size}".encode()).hexdigest()
    path = folder / key[:KEY_DIGITS] / url.name
    cost_meter.set_file_bytes(reply.size)
    if path.is_file() and path.stat().st_size == reply.size:
        os.utime(path)  # used last now
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    room = _make_room(folder, reply.size)
    if room < reply.size:
        raise RemoteError(
            url,
            f"it has {describe_bytes(reply.size)}, and {folder} has room for "
            f"{describe_bytes(room)}. Choose another --scratch, or a larger --scratch-gb.",
        )
    logger.info(
        "%s: downloading %s from %s to %s", url.name, describe_bytes(reply.size), url.host, folder
    )
    with whole_file(path) as part, part.open("wb") as file:
        for chunk in reply.chunks:
            cost_meter.add_bytes(len(chunk))
            file.write(chunk)
    return path
