"""The address of a slide: a path, or a URL whose text never shows credentials."""

import os
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

URL_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
COLLAPSED_URL = re.compile(r"(https?|s3|gs|gcs):/[^/]")  # what Path makes of a URL
WEB_SCHEMES = ("http", "https")
# Parameters of signed URLs, which differ each time the same file is signed.
SIGNATURE = re.compile(
    r"x-(amz|goog)-.+|sig|se|sp|sv|sr|st|spr|sip|ske|skt|sks|skv|skoid|sktid|signature|expires|"
    r"policy|key-pair-id|awsaccesskeyid|googleaccessid|(access_)?token"
)
# fsspec's names of what reads this computer, or leads to another URL.
REFUSED_SCHEMES = frozenset(
    [
        "file",
        "local",
        "data",
        "reference",
        "simplecache",
        "filecache",
        "blockcache",
        "cached",
        "dir",
        "generic",
        "zip",
        "tar",
        "libarchive",
        "archive",
        "dask",
        "async_wrapper",
    ]
)
DICOMWEB_SERIES = re.compile(r"/studies/[0-9.]+/series/([0-9.]+)/?$")


class UrlError(ValueError):
    """A text that is no usable URL of a slide."""


@dataclass(frozen=True)
class RemoteAccess:
    """How remote slides are read.

    Args:
        cache: folder that keeps the parts that were read; None to keep them in memory only.
        scratch: folder for whole files, of formats that cannot be read in place; None to refuse
            these.
        allow_hosts: hosts that the named one may redirect to, each with its port unless that is
            the usual one of http or https.
    """

    cache: Path | None = None
    scratch: Path | None = None
    allow_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class SlideUrl:
    """The URL of a slide. Its text and its `repr` have no user, password, query or fragment.

    Args:
        secret_url: the whole URL, with what may be a credential; never to be shown.
        access: how the slide is read.

    Raises:
        UrlError: it is no URL of a slide that can be read.
    """

    secret_url: str
    access: RemoteAccess = field(default_factory=RemoteAccess, compare=False)

    def __post_init__(self) -> None:
        """Check the URL."""
        scheme = self.secret_url.partition("://")[0].lower()
        if scheme in REFUSED_SCHEMES or "::" in self.secret_url.partition("?")[0]:
            raise UrlError(
                f"{shown_url(self.secret_url)}: slides are not read from {scheme}:// or through "
                "chains of file systems. Give a path, or an address such as https:// or s3://."
            )
        if any(ord(character) <= 32 or ord(character) == 127 for character in self.secret_url):
            raise UrlError(
                f"{shown_url(self.secret_url)!r}: a URL has no spaces. Write a space as %20."
            )
        try:
            usable = bool(self.parts.netloc and self.name) and (self.parts.port or 0) >= 0
        except ValueError:
            usable = False
        if not usable:
            raise UrlError(
                f"{shown_url(self.secret_url)}: the URL names no host or no file. Write it as "
                "https://HOST/FOLDER/SLIDE.svs."
            )

    @property
    def parts(self) -> SplitResult:
        """The parts of the whole URL."""
        return urlsplit(self.secret_url)

    @property
    def scheme(self) -> str:
        """Scheme in lower case, such as "https"."""
        return self.parts.scheme.lower()

    @property
    def host(self) -> str:
        """Host and port, or the bucket, without credentials."""
        return self.parts.netloc.rpartition("@")[2]

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(unquote(self.parts.path)).name

    @property
    def stem(self) -> str:
        """Last part of the path without its extension; the whole UID of a DICOM series."""
        is_series = self.series_uid is not None or self.is_folder
        return self.name if is_series else PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Extension of the last part of the path, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def series_uid(self) -> str | None:
        """UID of the series if this is a DICOMweb address; None if it is that of a file."""
        found = DICOMWEB_SERIES.search(self.parts.path)
        return found[1] if found and self.scheme in WEB_SCHEMES else None

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder in a store, which ends with a slash."""
        return self.parts.path.endswith("/") and self.scheme not in WEB_SCHEMES

    def __str__(self) -> str:
        return shown_url(self.secret_url)

    def __repr__(self) -> str:
        return f"SlideUrl({str(self)!r})"


SlidePath = Path | SlideUrl


def is_url(text: str) -> bool:
    """Return whether a text is a URL and not a path.

    >>> is_url("s3://bucket/a.svs"), is_url("folder/a.svs"), is_url("C://a.svs")
    (True, False, False)
    """
    return URL_START.match(text) is not None


def parse_slide_path(text: str | Path | SlideUrl, access: RemoteAccess | None = None) -> SlidePath:
    """Return the path or the URL that a text stands for.

    Args:
        text: a path, or a URL such as https://HOST/SLIDE.svs or s3://BUCKET/SLIDE.svs.
        access: how a URL is read; None for the defaults.

    Raises:
        UrlError: it is a URL that cannot be used.
    """
    if isinstance(text, SlideUrl):
        return text
    if isinstance(text, Path):
        if COLLAPSED_URL.match(str(text)):
            raise UrlError(
                f"{shown_url(str(text))}: a URL inside a Path has lost a slash. Pass a string, or "
                "use parse_slide_path."
            )
        return text
    return SlideUrl(text, access or RemoteAccess()) if is_url(text) else Path(text)


def recorded_path(path: SlidePath) -> str:
    """Return the text by which results name a slide: the absolute path, or the URL as shown."""
    return str(path) if isinstance(path, SlideUrl) else str(path.absolute())


def is_at_hand(path: SlidePath) -> bool:
    """Return whether a file exists; whether that of a URL does is only known when it is opened."""
    return isinstance(path, SlideUrl) or os.path.isfile(path)  # noqa: PTH113  # any length of name


def slide_key(path: SlidePath) -> str:
    """Return what is equal for two paths of one file, through links, and for two equal URLs."""
    return path.secret_url if isinstance(path, SlideUrl) else os.path.realpath(path)


def comparable_url(url: SlideUrl) -> tuple[object, ...]:
    """Return what all URLs of one file share: without signature, and in one spelling.

    >>> comparable_url(SlideUrl("https://H/a/../b%2Ec?sig=1")) == comparable_url(
    ...     SlideUrl("http://h:80/b.c#x")
    ... )
    True
    """
    parts, path = url.parts, unquote(url.parts.path)
    is_web = url.scheme in WEB_SCHEMES
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = sorted((key, value) for key, value in pairs if not SIGNATURE.fullmatch(key.lower()))
    port = None if parts.port in (80, 443) else parts.port
    # In a bucket, a path is a name, in which dots and slashes are ordinary characters.
    path = "/" + posixpath.normpath(path).lstrip("/") if is_web else path
    scheme = "web" if is_web else {"gcs": "gs"}.get(url.scheme, url.scheme)
    return scheme, parts.hostname or url.host, port, path, tuple(query)


def shown_url(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    scheme, separator, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition(":/")
    slashes = "/" if rest.startswith("/") else ""
    authority, slash, path = rest.removeprefix("/").partition("/")
    return f"{scheme}{separator}{slashes}{authority.rpartition('@')[2]}{slash}{path}"
