"""The id of a slide and the fingerprint of its file."""

import hashlib
import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path

from parfocal.cost import CostMeter
from parfocal.printable import printable
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom import dicom_instances, is_dicom_name, series_name
from parfocal.slide.readers.dicom_header import is_dicom
from parfocal.slide.sources.errors import NoRangesError
from parfocal.slide.sources.opening import open_source
from parfocal.slide.sources.source import ByteSource
from parfocal.slide.sources.url import SlidePath, SlideUrl, parse_slide_path

HASHED_BYTES = 2**20  # at either end of a file
HASH_DIGITS = 32


def slide_id(path: SlidePath | str) -> str:
    """Return the id of a slide: its file name without the extension, as printable text.

    That of a URL is the last part of its path, without the extension.

    A DICOM series of several files is called like its folder, or by its UID if the folder holds
    several.

    >>> slide_id("cohort/S-012.v2.svs"), slide_id("OS-1.ome.tif")
    ('S-012.v2', 'OS-1')
    """
    path = parse_slide_path(path)
    if isinstance(path, SlideUrl):
        return _without_extension(path)
    if _is_folder(path):  # a DICOM series; a folder name has no extension
        return printable(path.resolve().name)
    if name := _series_name(path):
        return printable(name)
    return _without_extension(path)


def unique_slides(paths: Iterable[SlidePath]) -> list[SlidePath]:
    """Return the paths of slides, of which each DICOM series is named once.

    Args:
        paths: slide files, folders and URLs; several may belong to one series.
    """
    unique: dict[tuple[SlidePath, str], SlidePath] = {}
    for path in paths:
        if isinstance(path, SlideUrl):
            unique.setdefault((path, ""), path)
            continue
        name = None if _is_folder(path) else _series_name(path)
        folder = path if _is_folder(path) else path.parent
        if _is_folder(path) or name is not None:
            key = folder.resolve(), name or folder.resolve().name
        else:
            key = path, ""
        unique.setdefault(key, path)
    return list(unique.values())


def file_fingerprint(path: SlidePath) -> str:
    """Hash the size, the first MiB and the last MiB of a file; of all files of a DICOM series.

    Args:
        path: the file or folder; or a URL, of which both ends are fetched.

    Raises:
        SlideError: a folder holds no DICOM slide, or several, or a path is no regular file.
    """
    if isinstance(path, SlideUrl):
        return _url_fingerprint(path)
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


def _url_fingerprint(url: SlideUrl) -> str:
    """Return the fingerprint of a remote file; of its download, if its server sends no parts.

    That of a series on a DICOMweb server is a hash of its metadata.
    """
    # The readers of remote DICOM are imported for URLs only.
    if url.series_uid is not None:
        from parfocal.slide.readers.remote_dicom import dicomweb_fingerprint  # noqa: PLC0415

        return dicomweb_fingerprint(url)[:HASH_DIGITS]
    if url.is_folder:
        from parfocal.slide.readers.remote_dicom import folder_sources  # noqa: PLC0415

        with ExitStack() as stack:
            return source_fingerprint(folder_sources(url, stack))
    try:
        with closing(open_source(url, CostMeter())) as source:
            return source_fingerprint([source])
    except NoRangesError:
        if url.access.scratch is None:
            raise
    from parfocal.slide.sources.download import download  # noqa: PLC0415  # uses the network

    return file_fingerprint(download(url, CostMeter()))


def source_fingerprint(sources: Iterable[ByteSource]) -> str:
    """Return the fingerprint of the files that sources read; see `file_fingerprint`."""
    digest = hashlib.sha256()
    for source in sources:
        tail = max(0, source.size - HASHED_BYTES)
        digest.update(source.size.to_bytes(8, "little"))
        for content in source.read_many([(0, HASHED_BYTES), (tail, HASHED_BYTES)]):
            digest.update(content)
    return digest.hexdigest()[:HASH_DIGITS]


def _without_extension(path: SlidePath) -> str:
    return printable(path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem)


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
        return is_dicom_name(path.name) and path.is_file() and is_dicom(path)
    except (OSError, ValueError):
        return False
