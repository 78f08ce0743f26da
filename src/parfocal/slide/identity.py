"""The id of a slide and the fingerprint of its file."""

import hashlib
import os
import unicodedata
from pathlib import Path

HASHED_BYTES = 2**20  # at either end of a file
HASH_DIGITS = 32


def slide_id(path: Path | str) -> str:
    """Return the id of a slide: its file name without the extension, as printable text.

    >>> slide_id("cohort/S-012.v2.svs"), slide_id("OS-1.ome.tif")
    ('S-012.v2', 'OS-1')
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112  # a DICOM series; Path.is_dir raises for a long name
        return printable(path.resolve().name)  # a folder name has no extension
    return printable(path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem)


def printable(text: str) -> str:
    r"""Replace what cannot be printed or written as UTF-8 by the hexadecimal codes of its bytes.

    This is control characters, and the bytes of a file name that is not UTF-8, which Python
    represents by lone surrogates.

    >>> printable("caf\udce9\n.svs"), printable("café.svs")
    ('caf%E9%0A.svs', 'café.svs')
    """
    return "".join(
        f"%{ord(character) & 0xFF:02X}"
        if unicodedata.category(character) in ("Cc", "Cs")
        else character
        for character in text
    )


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
