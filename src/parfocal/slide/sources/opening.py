"""Open the source of a slide's bytes."""

from functools import partial
from pathlib import Path

from parfocal.cost import CostMeter
from parfocal.slide.sources.local import LocalSource
from parfocal.slide.sources.source import ByteSource
from parfocal.slide.sources.transport import Transport
from parfocal.slide.sources.url import WEB_SCHEMES, SlidePath, SlideUrl


def open_source(path: SlidePath, cost_meter: CostMeter) -> ByteSource:
    """Open a slide file for reading by position.

    Args:
        path: the file.
        cost_meter: counts bytes and requests.

    Raises:
        OSError: a local file cannot be opened.
        RemoteError: a remote file cannot be read.
    """
    if isinstance(path, Path):
        return LocalSource(path, cost_meter)
    # Nothing of the network is imported for local files.
    from parfocal.slide.sources.disk_pages import open_pages  # noqa: PLC0415
    from parfocal.slide.sources.remote import RemoteSource  # noqa: PLC0415

    cache = path.access.cache
    return RemoteSource(
        path,
        partial(connect, path, cost_meter),
        cost_meter,
        open_disk=None if cache is None else open_pages(cache, path),
    )


def connect(url: SlideUrl, cost_meter: CostMeter) -> Transport:
    """Return what makes the requests for a remote file.

    Raises:
        RemoteError: the scheme is not supported.
    """
    if url.scheme in WEB_SCHEMES:
        from parfocal.slide.sources.http import HttpTransport  # noqa: PLC0415

        return HttpTransport(url, cost_meter)
    from parfocal.slide.sources.fsspec_transport import FsspecTransport  # noqa: PLC0415

    return FsspecTransport(url, cost_meter)
