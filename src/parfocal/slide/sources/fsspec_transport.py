"""Read parts of a file through fsspec: s3://, gs:// and whatever else it has a connector for.

Credentials are found as each connector does, in its files and variables. fsspec and the connectors
come with the extra `remote`.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from parfocal.cost import CostMeter
from parfocal.slide.errors import one_line
from parfocal.slide.sources.errors import RemoteError, TransientError
from parfocal.slide.sources.transport import Reply
from parfocal.slide.sources.url import SlideUrl

IDENTITY_KEYS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "mtime")
WHOLE_BLOCK = 2**22
INSTALLED_SCHEMES = ("s3", "gs", "gcs")  # whose connectors the extra installs
INSTALL = "Install it with `pip install 'parfocal[remote]'`."


class FsspecTransport:
    """Requests for one file; see `Transport`.

    Args:
        url: the file.
        cost_meter: counts the requests.

    Raises:
        RemoteError: there is no connector for the scheme, or it cannot be set up.
    """

    def __init__(self, url: SlideUrl, cost_meter: CostMeter) -> None:
        self._url, self._cost_meter = url, cost_meter
        self._files, self._path = _connect(url)

    def fetch(self, offset: int, length: int) -> Reply:
        """Ask for bytes from a position, then for the file's identity; see `Transport`."""
        content = self._call("cat_file", start=offset, end=offset + length)
        size, identity = self._describe()
        if not isinstance(content, bytes) or len(content) != min(length, size - offset):
            raise TransientError("it sent fewer or more bytes than requested")
        return Reply(size, identity, iter([content]))

    def fetch_whole(self) -> Reply:
        """Ask for the whole file, in parts; see `Transport`."""
        size, identity = self._describe()
        return Reply(size, identity, self._blocks(size))

    def cancel(self) -> None:
        """Do nothing: the threads of fsspec cannot be stopped, but nobody waits for them."""

    def _blocks(self, size: int) -> Iterator[bytes]:
        for start in range(0, size, WHOLE_BLOCK):
            content = self._call("cat_file", start=start, end=min(start + WHOLE_BLOCK, size))
            assert isinstance(content, bytes)
            yield content

    def _describe(self) -> tuple[int, str]:
        found = self._call("info")
        if not isinstance(found, dict) or found.get("type") != "file":
            raise RemoteError(
                self._url, f"{self._url} is not a file. Give the URL of a slide file."
            )
        identity = next((str(found[key]) for key in IDENTITY_KEYS if found.get(key)), str(found))
        return int(found["size"]), identity

    def _call(self, method: str, **arguments: int) -> object:
        """Call a method of the file system, and name what goes wrong without its message."""
        self._cost_meter.add_bytes(0, requests=1)
        try:
            return getattr(self._files, method)(self._path, **arguments)
        except FileNotFoundError:
            raise RemoteError(self._url, f"no such file at {self._url}. Check the URL.") from None
        except PermissionError:
            raise RemoteError(
                self._url,
                f"access to {self._url} was denied. Check the credentials of "
                f"{self._url.scheme}://; they are found where its own tools look for them.",
            ) from None
        except RemoteError:
            raise
        except Exception as error:  # connectors raise anything; their messages may hold secrets
            if "credential" in type(error).__name__.lower():
                raise RemoteError(
                    self._url,
                    f"no credentials for {self._url.scheme}:// were found. Set them up as for "
                    "its own tools; a public bucket may need `anon: true` in fsspec's settings.",
                ) from None
            raise TransientError(f"{type(error).__name__} of the connector") from None


def list_files(url: SlideUrl) -> list[SlideUrl]:
    """Return the files in a folder of a store, sorted by name.

    Args:
        url: the folder.

    Raises:
        RemoteError: it cannot be listed.
    """
    files, path = _connect(url)
    try:
        entries = files.ls(path, detail=True)
    except FileNotFoundError:
        raise RemoteError(url, f"no such folder: {url}. Check the URL.") from None
    except Exception as error:  # connectors raise anything; their messages may hold secrets
        raise RemoteError(
            url,
            f"{url} cannot be listed ({type(error).__name__}). Check the credentials of "
            f"{url.scheme}://; they are found where its own tools look for them.",
        ) from None
    names = sorted(
        PurePosixPath(entry["name"]).name for entry in entries if entry.get("type") == "file"
    )
    parts = url.parts
    return [
        SlideUrl(
            parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}").geturl(), url.access
        )
        for name in names
    ]


def _connect(url: SlideUrl) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        RemoteError: there is no connector for the scheme, or it cannot be set up.
    """
    try:
        import fsspec  # noqa: PLC0415  # optional dependency

        connector = fsspec.get_filesystem_class(url.scheme)
    except ImportError as error:
        raise RemoteError(
            url,
            f"{url.scheme}:// needs a connector of fsspec that is missing{_remedy(url, error)}",
        ) from error
    except ValueError:
        raise RemoteError(
            url,
            f"fsspec does not support {url.scheme}://. Use https, s3, gs or another of its "
            "schemes.",
        ) from None
    try:  # as fsspec.open does
        # Not one of another thread or of the process that was forked.
        files = connector(
            **connector._get_kwargs_from_urls(url.secret_url),
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        return files, files._strip_protocol(url.secret_url)
    except Exception as error:  # connectors raise anything; their messages may hold secrets
        system = getattr(error, "strerror", None)  # the words of the system hold none
        found = type(error).__name__ + (f": {system}" if system else "")
        raise RemoteError(
            url,
            f"the connector for {url} cannot be set up ({found}). Check the host, and set up "
            f"access to {url.scheme}:// as for its own tools.",
        ) from None


def _remedy(url: SlideUrl, error: ImportError) -> str:
    """Return how to install a missing connector, as the end of a sentence and what follows."""
    if error.name == "fsspec" or url.scheme in INSTALLED_SCHEMES:
        return f". {INSTALL}"
    return f": {one_line(error)}."  # fsspec names the package
