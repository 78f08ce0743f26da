"""The id of a slide and the fingerprint of its file."""

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from parfocal.printable import printable
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import dicom_instances, is_dicom, series_name

HASHED_BYTES = 2**20  # at either end of a file
HASH_DIGITS = 32
DICOM_SUFFIXES = (".dcm", ".dicom", "")


def slide_id(path: Path | str) -> str:
    """Return the id of a slide: its file name without the extension, as printable text.

    A DICOM series of several files is called like its folder, or by its UID if the folder holds
    several.

    >>> slide_id("cohort/S-012.v2.svs"), slide_id("OS-1.ome.tif")
    ('S-012.v2', 'OS-1')
    """
    path = Path(path)
    if _is_folder(path):  # a DICOM series; a folder name has no extension
        return printable(path.resolve().name)
    if name := _series_name(path):
        return printable(name)
    return printable(path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem)


def unique_slides(paths: Iterable[Path]) -> list[Path]:
    """Return the paths of slides, of which each DICOM series is named once.

    Args:
        paths: slide files and folders; several may belong to one series.
    """
    unique: dict[tuple[Path, str], Path] = {}
    for path in paths:
        name = None if _is_folder(path) else _series_name(path)
        folder = path if _is_folder(path) else path.parent
        if _is_folder(path) or name is not None:
            key = folder.resolve(), name or folder.resolve().name
        else:
            key = path, ""
        unique.setdefault(key, path)
    return list(unique.values())


def file_fingerprint(path: Path) -> str:
    """Hash the size, the first MiB and the last MiB of a file; of all files of a DICOM series.

    Raises:
        SlideError: a folder holds no DICOM slide, or several, or a path is no regular file.
    """
    digest = hashlib.sha256()
    for file in dicom_instances(path) if _is_folder(path) or _is_dicom(path) else [path]:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for its writer
            raise SlideError(f"{file}: not a file but a device, pipe or socket. Name a slide file.")
        size = status.st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as opened:
            digest.update(opened.read(HASHED_BYTES))
            opened.seek(max(0, size - HASHED_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()[:HASH_DIGITS]


def _series_name(path: Path) -> str | None:
    """Return the name of a DICOM series of several files; None for any other file."""
    try:
        return series_name(path) if _is_dicom(path) else None
    except (OSError, SlideError):
        return None


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112  # Path.is_dir raises for a name that is too long


def _is_dicom(path: Path) -> bool:
    try:
        return path.suffix.lower() in DICOM_SUFFIXES and path.is_file() and is_dicom(path)
    except (OSError, ValueError):
        return False
