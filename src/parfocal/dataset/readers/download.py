"""Fetches named CAMELYON slides from the owners' public bucket, over plain HTTP(S).

A file comes as `.NAME.part`, goes on from where it stopped, and takes its name when its MD5 sum is
the published one. Nothing is asked of the network before `plan_download` is called.
"""

import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.cohort import CohortError
from parfocal.dataset.readers import camelyon16, camelyon17
from parfocal.dataset.readers.bucket import SUMS, read_sums
from parfocal.dataset.readers.check import BLOCK, md5_of
from parfocal.files import sync

BUCKET = "https://camelyon-dataset.s3.us-west-2.amazonaws.com"
SETS = {
    "camelyon16": (camelyon16.SOURCE, camelyon16.REFERENCE),
    "camelyon17": (camelyon17.SOURCE, camelyon17.STAGES_FILE),
}
ATTEMPTS = 5  # at a file whose connection breaks, each going on from the last
TIMEOUT = 60  # seconds without a byte
# http.client's own errors are no OSErrors where a body ends too soon.
BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    Args:
        url: of the file.
        path: where it goes.
        size: in bytes, as the server states.
        md5: its published sum; None where none is.
    """

    url: str
    path: Path
    size: int
    md5: str | None

    @property
    def part(self) -> Path:
        """Give the file that holds what has come so far."""
        return self.path.with_name(f".{self.path.name}.part")

    @property
    def have(self) -> int:
        """Count the bytes that have come."""
        return self.part.stat().st_size if self.part.exists() else 0


@dataclass(frozen=True)
class Plan:
    """What is to be fetched, and what is here already."""

    files: tuple[Remote, ...]
    here: int

    @property
    def summary(self) -> str:
        """Say how much will come."""
        total = sum(remote.size for remote in self.files)
        left = total - sum(remote.have for remote in self.files)
        return (
            f"{len(self.files)} files of {_gigabytes(total)} to fetch, {_gigabytes(left)} still to "
            f"come; {self.here} are here already"
        )


def plan_download(name: str, folder: Path, slides: Sequence[str], bucket: str = BUCKET) -> Plan:
    """Ask how large slides are, with their annotations; fetches only the lists of the set.

    Args:
        name: camelyon16 or camelyon17.
        folder: where the set lies, or will.
        slides: their names, as tumor_001; "all" for all.
        bucket: the address of the store that has CAMELYON16/ and CAMELYON17/.

    Raises:
        CohortError: a slide is unknown, the disk too small, or the store does not answer.
        ValueError: the set is not in the bucket, or the address is none.
    """
    if name not in SETS:
        raise ValueError(f"{name!r} cannot be downloaded; {' and '.join(SETS)} can.")
    source, labels = SETS[name]
    if not bucket.startswith(("http://", "https://")):
        raise ValueError(f"bucket {bucket!r} is not an http:// or https:// address.")
    base = f"{bucket.rstrip('/')}/{name.upper()}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SUMS).exists():
        fetch(_remote(base, folder, SUMS, None))
    sums = read_sums(source, folder)
    keys = [labels, *_keys(name, slides, sums)]
    wanted = [key for key in keys if not (folder / key).exists()]
    plan = Plan(
        tuple(_remote(base, folder, key, sums.get(key)) for key in wanted),
        here=len(keys) - len(wanted),
    )
    _require_room(folder, plan)
    return plan


def fetch(remote: Remote) -> None:
    """Fetch a file, going on from what has come before.

    Raises:
        CohortError: the connection broke too often, or the sum is wrong.
    """
    remote.path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _go_on(remote)
            break
        except BROKEN as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if attempt == ATTEMPTS or refused:
                raise _unreachable(remote.url, error, remote.have) from None
    if remote.md5 is not None and (found := md5_of(remote.part)) != remote.md5:
        remote.part.unlink()
        raise CohortError(
            f"{remote.url}: its MD5 sum is {found}, not the published {remote.md5}; it was thrown "
            "away: run the command again."
        )
    sync(remote.part)
    remote.part.replace(remote.path)


def _go_on(remote: Remote) -> None:
    """Ask for the bytes that have not come, and add them."""
    if remote.have > remote.size:
        remote.part.unlink()  # of another file
    if remote.have == remote.size > 0:
        return
    request = urllib.request.Request(remote.url, headers={"Range": f"bytes={remote.have}-"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        # A server that knows no ranges sends the file from its beginning.
        mode = "ab" if answer.status == http.HTTPStatus.PARTIAL_CONTENT else "wb"
        with remote.part.open(mode) as file:
            shutil.copyfileobj(answer, file, BLOCK)
    if remote.have != remote.size:
        raise http.client.IncompleteRead(b"", remote.size - remote.have)


def _remote(base: str, folder: Path, key: str, md5: str | None) -> Remote:
    """Ask the server how large a file is."""
    url = f"{base}/{key}"
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            size = answer.headers["Content-Length"]
    except BROKEN as error:
        raise _unreachable(url, error, 0) from None
    if size is None:
        raise CohortError(
            f"{url}: the server does not say how large it is, so it is not the owners' bucket; "
            "check the address (--bucket)."
        )
    return Remote(url, folder / key, int(size), md5)


def _unreachable(url: str, error: Exception, have: int) -> CohortError:
    kept = f" {have:,} bytes are kept: run the command again to go on." if have else ""
    return CohortError(
        f"{url}: cannot be fetched ({' '.join(str(error).split())}); check the network and the "
        f"address (--bucket).{kept}"
    )


def _keys(name: str, slides: Sequence[str], sums: dict[str, str]) -> list[str]:
    """Give the keys of slides, each with its annotations where it has any."""
    known = [Path(key).stem for key in sums if key.startswith("images/") and key.endswith(".tif")]
    names = known if list(slides) == ["all"] else list(slides)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise CohortError(
            f"{name} has no slide {', '.join(unknown)}; its {len(known)} slides are named as "
            f"{', '.join(known[:3])}."
        )
    keys = [key for slide in names for key in (f"images/{slide}.tif", f"annotations/{slide}.xml")]
    return [key for key in keys if key in sums]


def _require_room(folder: Path, plan: Plan) -> None:
    left = sum(remote.size - remote.have for remote in plan.files)
    free = shutil.disk_usage(folder).free
    if left > free:
        raise CohortError(
            f"{folder}: {_gigabytes(left)} to come and {_gigabytes(free)} free; name fewer slides "
            "or another folder."
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
