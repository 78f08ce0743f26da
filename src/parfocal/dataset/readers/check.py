"""Check that the slide files of a data set exist and are complete."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.readers.listing import Listing, Row
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.tiff_directories import read_extent

logger = logging.getLogger(__name__)

BLOCK = 2**20


@dataclass(frozen=True)
class Checked:
    """The result of checking the files of a listing.

    Args:
        complete: rows with a complete file.
        missing: names of missing slide files.
        damaged: names of damaged slide files, each with the problem.
    """

    complete: tuple[Row, ...]
    missing: tuple[str, ...]
    damaged: dict[str, str]


def check_files(listing: Listing, *, verify: bool) -> Checked:
    """Check every slide file of a listing without reading pixels.

    The size of a file must be the published one, if any, and large enough for the data that its
    TIFF directories refer to.

    Args:
        listing: the slides of a data set.
        verify: whether to check published MD5 checksums too, which reads every byte.
    """
    paths = dict.fromkeys(row.path for row in listing.rows)
    here = [path for path in paths if path.exists()]
    faults = {path: _fault(path, listing, verify=verify) for path in here}
    return Checked(
        complete=tuple(row for row in listing.rows if faults.get(row.path, "missing") is None),
        missing=tuple(path.name + _partial(path) for path in paths if path not in faults),
        damaged={path.name: fault for path, fault in faults.items() if fault is not None},
    )


def md5_of(path: Path) -> str:
    """Compute the MD5 checksum of a file, 1 MiB at a time."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _fault(path: Path, listing: Listing, *, verify: bool) -> str | None:
    """Return the problem of an existing file, or None."""
    size = path.stat().st_size
    published = listing.sizes.get(path, size)
    if size != published:
        return (
            f"{path.name}: {size:,} bytes of {published:,}, so the download is incomplete; "
            "download it again"
        )
    try:
        required = read_extent(path).required_bytes
    except SlideError as error:
        return str(error)
    if required > size:
        return f"{path.name}: {size:,} bytes of {required:,}, so it is truncated; download it again"
    if verify and path in listing.sums:
        if md5_of(path) != listing.sums[path]:
            return (
                f"{path.name}: its MD5 checksum differs from the published one; download it again"
            )
        logger.info("%s: its MD5 checksum is the published one", path.name)
    return None


def _partial(path: Path) -> str:
    """Return the partial files of an interrupted download, as text."""
    partial = [
        file.name
        for pattern in (f"{path.name}.*", f".{path.name}.*")
        for file in path.parent.glob(pattern)
    ]
    return f" (only {', '.join(partial)})" if partial else ""
