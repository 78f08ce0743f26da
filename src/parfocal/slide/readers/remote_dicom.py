"""Read DICOM slides over a network: a series on a DICOMweb server, or its files in a store."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom_checks import JPEG_BASELINE, check_levels, find_levels
from parfocal.slide.readers.dicom_frames import (
    Frames,
    has_table,
    join_items,
    locate_frames,
)
from parfocal.slide.readers.dicom_header import (
    PREAMBLE_BYTES,
    SIGNATURE,
    WHOLE_SLIDE_CLASS,
    DicomHeader,
    parse_header,
)
from parfocal.slide.readers.dicom_json import header_from_json
from parfocal.slide.readers.scan import Metadata
from parfocal.slide.readers.tiled_dicom import TiledDicomScan, has_colors, is_direct, tiled_level
from parfocal.slide.readers.tiled_tiff import TiledTiffScan
from parfocal.slide.sources.dicomweb import DicomWebSeries, FrameSource
from parfocal.slide.sources.errors import RemoteError
from parfocal.slide.sources.fsspec_transport import list_files
from parfocal.slide.sources.opening import open_source
from parfocal.slide.sources.page_fetcher import PARALLEL_REQUESTS
from parfocal.slide.sources.source import ByteSource, SourceFile
from parfocal.slide.sources.url import SlideUrl

FEW_FRAMES = 16  # which are found one by one
START_OF_IMAGE = b"\xff\xd8"
RETRIEVE = "Retrieve all files of the series to a folder, and give the folder."


@dataclass(frozen=True)
class RemoteInstance:
    """An instance of a DICOM slide that is read over a network.

    Args:
        name: its UID, or the name of its file.
        header: its header.
    """

    name: str
    header: DicomHeader


@dataclass(frozen=True)
class RemoteFile(RemoteInstance):
    """A file of a DICOM slide in a store.

    Args:
        source: its bytes.
    """

    source: ByteSource


InstanceT = TypeVar("InstanceT", bound=RemoteInstance)


def open_dicomweb(url: SlideUrl, cost_meter: CostMeter) -> TiledDicomScan:
    """Open a series on a DICOMweb server; frames are requested when they are read.

    Args:
        url: address of the series, .../studies/UID/series/UID.
        cost_meter: counts bytes and requests.

    Raises:
        RemoteError: the server does not send the metadata, or the frames are encoded in a way that
            is only read from files.
        SlideError: the series is no slide, or is damaged.
    """
    series = DicomWebSeries(url, cost_meter)
    try:
        metadata, _ = series.metadata()
    finally:
        series.cancel()
    instances = []
    for attributes in metadata:
        uid = str(next(iter(attributes.get("00080018", {}).get("Value", [])), ""))
        instances.append(RemoteInstance(uid, header_from_json(uid or url.name, attributes)))
    levels = _find_levels(url, instances)
    cost_meter.add_bytes(0)

    def open_level(number: int) -> TiledTiffScan:
        level = levels[number]
        frames = level.header.frames
        located = Frames(np.arange(frames), np.ones(frames, dtype=np.int64))
        tiles = tiled_level(level.header, located, _checked_jpeg(url, level))
        source = FrameSource(url, level.name, frames, cost_meter)
        return TiledTiffScan(url, [tiles], Metadata("dicom"), source)

    return TiledDicomScan([level.header for level in levels], open_level)


def dicomweb_fingerprint(url: SlideUrl) -> str:
    """Return the SHA-256 of the metadata of a series, which lists its instances.

    Raises:
        RemoteError: the server does not send it.
    """
    series = DicomWebSeries(url, CostMeter())
    try:
        return series.metadata()[1]
    finally:
        series.cancel()


def open_folder(url: SlideUrl, cost_meter: CostMeter) -> TiledDicomScan:
    """Open the DICOM slide whose files are in a folder of an object store.

    Args:
        url: address of the folder, which ends with a slash.
        cost_meter: counts bytes and requests.

    Raises:
        RemoteError: the folder cannot be listed, holds no DICOM slide or several, or the slide is
            encoded in a way that is only read from local files.
        SlideError: a file is damaged.
    """
    with ExitStack() as stack:
        files = _open_files(url, cost_meter, stack)
        if len({file.header.series_uid for file in files}) != 1:
            count = len({file.header.series_uid for file in files}) or "no"
            raise RemoteError(
                url,
                f"this folder holds {count} DICOM slides, and one is read at a time. Give the "
                "folder of the files of one slide.",
            )
        levels = _find_levels(url, files)
        cost_meter.set_file_bytes(sum(file.source.size for file in files))
        for level in levels:
            _require_table(url, level)
        opened = stack.pop_all()

    def open_level(number: int) -> TiledTiffScan:
        level = levels[number]
        located = locate_frames(level.name, level.header, level.source)
        check = _checked_jpeg(url, level)
        tiles = tiled_level(level.header, located, lambda encoded: check(join_items(encoded)))
        return TiledTiffScan(url, [tiles], Metadata("dicom"), level.source)

    sources = [file.source for file in files]
    headers = [level.header for level in levels]
    return TiledDicomScan(headers, open_level, sources=sources, close=opened.close)


def folder_sources(url: SlideUrl, stack: ExitStack) -> list[ByteSource]:
    """Open the DICOM files in a folder of an object store, sorted by name.

    Args:
        url: address of the folder.
        stack: closes them.
    """
    return [file.source for file in _open_files(url, CostMeter(), stack)]


def _open_files(url: SlideUrl, cost_meter: CostMeter, stack: ExitStack) -> list[RemoteFile]:
    """Open the files of DICOM slides in a folder side by side, sorted by name."""
    children = list_files(url)
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        opened = [pool.submit(open_source, child, cost_meter) for child in children]
    for each in opened:
        if each.exception() is None:
            stack.callback(each.result().close)
    read = (_read_file(child, each.result()) for child, each in zip(children, opened, strict=True))
    return [file for file in read if file is not None]


def _read_file(url: SlideUrl, source: ByteSource) -> RemoteFile | None:
    """Read the header of a file of a folder; return None if it belongs to no DICOM slide."""
    if source.read(PREAMBLE_BYTES, len(SIGNATURE)) != SIGNATURE:
        return None
    header = parse_header(url.name, SourceFile(source), source.size)
    if header.class_uid != WHOLE_SLIDE_CLASS:
        return None
    return RemoteFile(url.name, header, source)


def _require_table(url: SlideUrl, level: RemoteFile) -> None:
    """Raise if the frames of a file can only be found by reading all of it."""
    if level.header.frames > FEW_FRAMES and not has_table(level.header, level.source):
        raise RemoteError(
            url,
            f"{level.name} has no table of the positions of its {level.header.frames} frames, so "
            f"the whole file would have to be read. {RETRIEVE}",
        )


def _find_levels(url: SlideUrl, instances: Sequence[InstanceT]) -> list[InstanceT]:
    """Return the levels of a series, sharpest first, all of which are read in place.

    Raises:
        RemoteError: they are encoded in a way that is only read from local files.
        SlideError: the series is no slide, or is damaged.
    """
    slides = [each for each in instances if each.header.class_uid == WHOLE_SLIDE_CLASS]
    if not slides:
        raise SlideError(f"{url.name}: the DICOM series is no whole-slide image. Choose another.")
    levels = find_levels(url.name, slides)
    check_levels(levels)
    for level in levels:
        if level.header.syntax_uid != JPEG_BASELINE:
            raise RemoteError(
                url,
                f"the frames of {level.name} are encoded as {level.header.syntax_uid}; over a "
                f"network, only JPEG is read. {RETRIEVE}",
            )
        if not is_direct(level.header):
            raise RemoteError(
                url,
                f"the tiles of {level.name} are not all stored in order as 8-bit colors, so they "
                f"are only read from files. {RETRIEVE}",
            )
    return levels


def _checked_jpeg(url: SlideUrl, level: RemoteInstance) -> Callable[[bytes], bytes]:
    """Return a function that returns a frame if it is a JPEG image in the colors of the header."""

    def check(encoded: bytes) -> bytes:
        if not encoded.startswith(START_OF_IMAGE):
            raise RemoteError(
                url,
                f"the frames of {level.name} are not JPEG, as its metadata says. {RETRIEVE}",
            )
        if not has_colors(level, encoded):
            raise RemoteError(
                url, f"the colors of the frames of {level.name} are ambiguous. {RETRIEVE}"
            )
        return encoded

    return check
