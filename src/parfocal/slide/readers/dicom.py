"""The files of a DICOM slide.

A slide is a series: one file for each level, all in one folder, which may hold other files.
"""

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Protocol, runtime_checkable

from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom_header import (
    WHOLE_SLIDE_CLASS,
    DicomHeader,
    is_dicom,
    read_header,
)

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", "")


@runtime_checkable
class Instance(Protocol):
    """A part of a DICOM slide: a file, or what a server has in place of one."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def header(self) -> DicomHeader:
        """Its header."""


@dataclass(frozen=True)
class DicomFile:
    """A file of a DICOM slide, with its header."""

    path: Path
    header: DicomHeader

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name


@dataclass(frozen=True)
class DicomFolder:
    """The DICOM files of a folder.

    Args:
        series: files of each slide, sorted by name, by series UID.
        damaged: files whose header is damaged, with the error.
    """

    series: dict[str, list[DicomFile]] = field(default_factory=dict)
    damaged: dict[Path, SlideError] = field(default_factory=dict)


def dicom_series(path: Path) -> list[DicomFile]:
    """Return the files of a DICOM slide, sorted by name.

    Args:
        path: a file of the slide, or a folder that holds one slide.

    Raises:
        SlideError: the folder holds no DICOM slide or several, or a DICOM file is damaged.
    """
    if not path.is_dir():
        header = read_header(path)
        return _series_of(header, list_folder(path.parent)) or [DicomFile(path, header)]
    folder = list_folder(path)
    for error in folder.damaged.values():
        raise error
    if len(folder.series) == 1:
        return next(iter(folder.series.values()))
    if folder.series:
        names = ", ".join(files[0].path.name for files in folder.series.values())
        raise SlideError(
            f"{path}: this folder holds {len(folder.series)} DICOM slides. Name one of {names}."
        )
    holds = "no slide" if any(path.iterdir()) else "nothing"
    raise SlideError(f"{path}: this folder holds {holds}. Name slide files, or a folder of slides.")


def dicom_instances(path: Path) -> list[Path]:
    """Return the paths of the files of a DICOM slide; see `dicom_series`."""
    return [file.path for file in dicom_series(path)]


def series_name(path: Path) -> str | None:
    """Return the name of the series that a DICOM file belongs to; None if it is its only file.

    A series is called like its folder, or by its UID if the folder holds other DICOM slides.
    """
    folder, uid = list_folder(path.parent), read_header(path).series_uid
    if len(folder.series.get(uid, ())) < 2:
        return None
    return uid if len(folder.series) > 1 else path.resolve().parent.name


def list_folder(folder: Path) -> DicomFolder:
    """Return the DICOM files of a folder; a file that has not changed is not read again."""
    listed = DicomFolder()
    for path in _dicom_files(folder):
        try:
            header = read_header(path)
        except SlideError as error:
            listed.damaged[path] = error
            continue
        if header.class_uid == WHOLE_SLIDE_CLASS:
            listed.series.setdefault(header.series_uid, []).append(DicomFile(path, header))
    return listed


def _series_of(header: DicomHeader, folder: DicomFolder) -> list[DicomFile]:
    """Return the files of a series; none if the header is of no slide.

    A damaged file beside it may be a level of a series of several files, but has nothing to do with
    a slide that is a single file.
    """
    files = folder.series.get(header.series_uid, [])
    if len(files) > 1:
        for error in folder.damaged.values():
            raise error
    return files


def is_dicom_name(name: str) -> bool:
    """Return whether a DICOM file may be called so; many are called by their UID.

    >>> [is_dicom_name(name) for name in ("a.dcm", "IM0001", "1.2.840.10008", "a.svs")]
    [True, True, True, False]
    """
    suffix = PurePath(name).suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix[1:].isdecimal()


def _dicom_files(folder: Path) -> list[Path]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if is_dicom_name(entry.name) and entry.is_file():
                    status = entry.stat()
                    if _has_signature(entry.path, status.st_size, status.st_mtime_ns):
                        names.append(entry.name)
            except OSError:
                continue  # a link that leads nowhere, or a file that must not be read
    return [folder / name for name in sorted(names)]


@lru_cache(maxsize=2**16)
def _has_signature(path: str, _size: int, _changed: int) -> bool:
    return is_dicom(Path(path))
