"""Download CAMELYON slides from the public bucket over HTTP(S).

A file is written as `.NAME.part`, resumed after an interruption, and renamed when its MD5 checksum
is the published one. There is no network access before `plan_download` is called.
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
ATTEMPTS = 5  # per file; each resumes the one before
TIMEOUT = 60  # seconds without a byte
# A response that ends early is an HTTPException, not an OSError.
CONNECTION_ERRORS = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Remote:
    """A file to download.

    Args:
        url: address of the file.
        path: file to write.
        size: size in bytes, as stated by the server.
        md5: published checksum; None if there is none.
    """

    url: str
    path: Path
    size: int
    md5: str | None

    @property
    def part(self) -> Path:
        """The file with the bytes received so far."""
        return self.path.with_name(f".{self.path.name}.part")

    @property
    def received(self) -> int:
        """Number of bytes received so far."""
        return self.part.stat().st_size if self.part.exists() else 0


@dataclass(frozen=True)
class Plan:
    """The files to download, and the number of files that exist already."""

    files: tuple[Remote, ...]
    num_existing: int

    @property
    def summary(self) -> str:
        """Number and size of the files, in one line."""
        total = sum(remote.size for remote in self.files)
        left = total - sum(remote.received for remote in self.files)
        return (
            f"{len(self.files)} files of {_gigabytes(total)} to download, {_gigabytes(left)} "
            f"remaining; {self.num_existing} files exist already"
        )


def plan_download(name: str, folder: Path, slides: Sequence[str], bucket: str = BUCKET) -> Plan:
    """List the files of slides and their annotations with their sizes.

    Only the list of checksums is downloaded.

    Args:
        name: camelyon16 or camelyon17.
        folder: folder of the data set; created if it does not exist.
        slides: names of slides, for example tumor_001; "all" for every slide.
        bucket: address of the store that holds CAMELYON16/ and CAMELYON17/.

    Raises:
        CohortError: a slide is unknown, the disk is too small, or the store cannot be reached.
        ValueError: the data set is not in the bucket, or the address is invalid.
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
        num_existing=len(keys) - len(wanted),
    )
    _require_room(folder, plan)
    return plan


def fetch(remote: Remote) -> None:
    """Download a file, resuming an earlier download.

    Raises:
        CohortError: the connection failed too often, or the checksum is wrong.
    """
    remote.path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _resume(remote)
            break
        except CONNECTION_ERRORS as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if attempt == ATTEMPTS or refused:
                raise _unreachable(remote.url, error, remote.received) from None
    if remote.md5 is not None and (found := md5_of(remote.part)) != remote.md5:
        remote.part.unlink()
        raise CohortError(
            f"{remote.url}: its MD5 checksum is {found}, not the published {remote.md5}. The file "
            "was deleted; run the command again."
        )
    sync(remote.part)
    remote.part.replace(remote.path)


def _resume(remote: Remote) -> None:
    """Request the missing bytes and append them."""
    if remote.received > remote.size:
        remote.part.unlink()  # of another file
    if remote.received == remote.size > 0:
        return
    request = urllib.request.Request(remote.url, headers={"Range": f"bytes={remote.received}-"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        # A server without support for ranges sends the whole file.
        mode = "ab" if response.status == http.HTTPStatus.PARTIAL_CONTENT else "wb"
        with remote.part.open(mode) as file:
            shutil.copyfileobj(response, file, BLOCK)
    if remote.received != remote.size:
        raise http.client.IncompleteRead(b"", remote.size - remote.received)


def _remote(base: str, folder: Path, key: str, md5: str | None) -> Remote:
    """Request the size of a file."""
    url = f"{base}/{key}"
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            size = response.headers["Content-Length"]
    except CONNECTION_ERRORS as error:
        raise _unreachable(url, error, 0) from None
    if size is None:
        raise CohortError(
            f"{url}: the server does not state the size of the file, so it is not the public "
            "bucket; check the address (--bucket)."
        )
    return Remote(url, folder / key, int(size), md5)


def _unreachable(url: str, error: Exception, received: int) -> CohortError:
    kept = f" {received:,} bytes are kept; run the command again to resume." if received else ""
    return CohortError(
        f"{url}: cannot be downloaded ({' '.join(str(error).split())}); check the network and the "
        f"address (--bucket).{kept}"
    )


def _keys(name: str, slides: Sequence[str], sums: dict[str, str]) -> list[str]:
    """Return the keys of slides and of their annotations, where they exist."""
    known = [Path(key).stem for key in sums if key.startswith("images/") and key.endswith(".tif")]
    names = known if list(slides) == ["all"] else list(slides)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise CohortError(
            f"{name} has no slide {', '.join(unknown)}; it has {len(known)} slides, for example "
            f"{', '.join(known[:3])}."
        )
    keys = [key for slide in names for key in (f"images/{slide}.tif", f"annotations/{slide}.xml")]
    return [key for key in keys if key in sums]


def _require_room(folder: Path, plan: Plan) -> None:
    left = sum(remote.size - remote.received for remote in plan.files)
    free = shutil.disk_usage(folder).free
    if left > free:
        raise CohortError(
            f"{folder}: {_gigabytes(left)} to download but only {_gigabytes(free)} free; choose "
            "fewer slides or another folder."
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
