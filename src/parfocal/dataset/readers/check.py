"""Are the files of a data set here, and whole?"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.readers.listing import Listing, Row
from parfocal.slide.errors import SlideError
from parfocal.slide.tiff import read_extent

logger = logging.getLogger(__name__)

BLOCK = 2**20


@dataclass(frozen=True)
class Checked:
    """The rows whose files are whole, the slides that are not here, and the damaged ones.

    Args:
        whole: rows.
        missing: slide files by name.
        damaged: slide files by name, each with what was found.
    """

    whole: tuple[Row, ...]
    missing: tuple[str, ...]
    damaged: dict[str, str]


def check_files(listing: Listing, *, verify: bool) -> Checked:
    """Look at every slide file a listing names, without reading pixels.

    A file is held against its published size where there is one, and against what its own
    directories say it must hold.

    Args:
        listing: of a data set.
        verify: also read every byte for its sum, where sums are published.
    """
    paths = dict.fromkeys(row.path for row in listing.rows)
    here = [path for path in paths if path.exists()]
    faults = {path: _fault(path, listing, verify=verify) for path in here}
    return Checked(
        whole=tuple(row for row in listing.rows if faults.get(row.path, "missing") is None),
        missing=tuple(path.name + _partial(path) for path in paths if path not in faults),
        damaged={path.name: fault for path, fault in faults.items() if fault is not None},
    )


def md5_of(path: Path) -> str:
    """Give a file's MD5 sum, 1 MiB at a time."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _fault(path: Path, listing: Listing, *, verify: bool) -> str | None:
    """Say what is wrong with a file that is there; None if nothing is."""
    size = path.stat().st_size
    published = listing.sizes.get(path, size)
    if size != published:
        return f"{path.name}: {size:,} bytes of {published:,}, so the download broke off"
    try:
        needs = read_extent(path).needs
    except SlideError as error:
        return str(error)
    if needs > size:
        return f"{path.name}: {size:,} bytes where its pictures need {needs:,}, so it is cut short"
    if verify and path in listing.sums:
        if md5_of(path) != listing.sums[path]:
            return f"{path.name}: its MD5 sum is not the published one; download it again"
        logger.info("%s: its sum is the published one", path.name)
    return None


def _partial(path: Path) -> str:
    """Name what a download that was stopped may have left."""
    left = [
        file.name
        for pattern in (f"{path.name}.*", f".{path.name}.*")
        for file in path.parent.glob(pattern)
    ]
    return f" (only {', '.join(left)})" if left else ""
