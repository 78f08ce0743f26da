"""Open remote slides: a TIFF in place, other formats by downloading them, if that is allowed."""

from collections.abc import Callable
from contextlib import ExitStack

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom_header import PREAMBLE_BYTES, SIGNATURE
from parfocal.slide.readers.scan import Scan
from parfocal.slide.readers.tiff_checks import MissingTiles, check_directories
from parfocal.slide.readers.tiff_directories import is_tiff, read_directories
from parfocal.slide.readers.tiff_pixels import UnsupportedPixelsError
from parfocal.slide.readers.tiff_vendors import scanner_vendor
from parfocal.slide.readers.tiled_tiff import open_tiled_tiff
from parfocal.slide.sources.errors import NoRangesError, RemoteError
from parfocal.slide.sources.opening import open_source
from parfocal.slide.sources.size import describe_bytes
from parfocal.slide.sources.source import ByteSource
from parfocal.slide.sources.url import WEB_SCHEMES, SlidePath, SlideUrl

SEVERAL_FILES = (".mrxs", ".vmu", ".vms")  # formats of which one file is not enough


def open_url(
    url: SlideUrl,
    cost_meter: CostMeter,
    missing_tiles: MissingTiles,
    open_local: Callable[[SlidePath, CostMeter], Scan],
) -> Scan:
    """Open a remote slide.

    Args:
        url: the slide.
        cost_meter: counts bytes and requests.
        missing_tiles: what to do with tiles that are not stored; see `open_scan`.
        open_local: opens a file that was downloaded.

    Raises:
        RemoteError: the file cannot be read, or has to be downloaded and that is not allowed.
        SlideError: the file is not a slide, or is damaged.
    """
    if url.suffix.lower() in SEVERAL_FILES:
        raise RemoteError(
            url,
            f"a slide of this format ({url.suffix}) is several files, which are not read over the "
            "network. Copy all of them, and give the path.",
        )
    # The readers of remote DICOM are imported when they are needed.
    if url.series_uid is not None:
        from parfocal.slide.readers.remote_dicom import open_dicomweb  # noqa: PLC0415

        return open_dicomweb(url, cost_meter)
    if url.is_folder:
        from parfocal.slide.readers.remote_dicom import open_folder  # noqa: PLC0415

        return open_folder(url, cost_meter)
    with ExitStack() as stack:
        try:
            source = open_source(url, cost_meter)
        except NoRangesError:
            if url.access.scratch is None:
                raise
            return _open_download(url, cost_meter, open_local)
        stack.callback(source.close)
        if is_tiff(source):
            format_, scan = _open_tiff(url, source, missing_tiles)
            if scan is not None:
                stack.pop_all()  # the scan closes it
                return scan
        elif source.read(PREAMBLE_BYTES, len(SIGNATURE)) == SIGNATURE:
            raise RemoteError(
                url,
                "a DICOM slide has one file for each level, and this is one of them. Give the "
                f"folder in the store, {url.scheme}://.../ with a slash at its end, or the address "
                "of the series on a DICOMweb server."
                if url.scheme not in WEB_SCHEMES
                else "a DICOM slide has one file for each level, and this is one of them. A web "
                "server does not list the others: give the address of the series on a DICOMweb "
                "server, or copy all files to a folder, and give the folder.",
            )
        else:
            format_ = f"{url.suffix or 'this kind of'} file"
    if url.access.scratch is None:
        raise RemoteError(
            url,
            f"a {format_} cannot be read in place. Add --scratch DIR to download its "
            f"{describe_bytes(source.size)} first.",
        )
    return _open_download(url, cost_meter, open_local)


def _open_tiff(
    url: SlideUrl, source: ByteSource, missing_tiles: MissingTiles
) -> tuple[str, Scan | None]:
    """Open a TIFF in place; return what it is instead if only OpenSlide reads it."""
    directories = read_directories(url, source)
    page = directories[0].page
    check_directories(url, source.size, directories, is_ndpi=bool(page.is_ndpi))
    vendor = None if page.is_ome else scanner_vendor(directories)
    if vendor is not None:
        return f"TIFF of {vendor}", None
    try:
        scan = open_tiled_tiff(url, directories, source, missing_tiles=missing_tiles)
    except UnsupportedPixelsError as error:
        if error.only_here:
            return "TIFF in this encoding", None
        raise SlideError(f"{url.name}: the file has {error}") from error
    return "TIFF", scan


def _open_download(
    url: SlideUrl, cost_meter: CostMeter, open_local: Callable[[SlidePath, CostMeter], Scan]
) -> Scan:
    from parfocal.slide.sources.download import download  # noqa: PLC0415  # uses the network

    path = download(url, cost_meter)
    return open_local(path, CostMeter())
