"""The id of a slide and the fingerprint of its file."""

import hashlib
from pathlib import Path

HASHED_BYTES = 2**20  # at either end of a file
HASH_DIGITS = 32


def slide_id(path: Path | str) -> str:
    """Return the id of a slide: its file name without the extension.

    >>> slide_id("cohort/S-012.v2.svs"), slide_id("OS-1.ome.tif")
    ('S-012.v2', 'OS-1')
    """
    path = Path(path)
    if path.is_dir():  # a DICOM series; a folder name has no extension
        return path.resolve().name
    return path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem


def file_fingerprint(path: Path) -> str:
    """Hash the size, the first MiB and the last MiB of a file; of all files, for a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as opened:
            digest.update(opened.read(HASHED_BYTES))
            opened.seek(max(0, size - HASHED_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()[:HASH_DIGITS]
