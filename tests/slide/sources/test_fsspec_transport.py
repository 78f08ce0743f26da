import sys
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from parfocal.cost import CostMeter
from parfocal.slide import open_slide
from parfocal.slide.slide import Box
from parfocal.slide.sources.errors import RemoteError
from parfocal.slide.sources.fsspec_transport import FsspecTransport
from parfocal.slide.sources.opening import open_source
from parfocal.slide.sources.url import SlideUrl


class LyingFiles(MemoryFileSystem):
    """Files whose reads fail in the way that `failure` says."""

    protocol = "lying"
    failure: Exception | bytes | None = None

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("lying://", "memory://"))

    def cat_file(self, path, start=None, end=None, **arguments):
        if isinstance(self.failure, Exception):
            raise self.failure
        return self.failure or super().cat_file(path, start=start, end=end)


@pytest.fixture
def stored(noisy):
    """Return the URL of noisy.tif in fsspec's file system in memory."""
    url = f"memory://{uuid.uuid4().hex}/folder/noisy.tif"
    with fsspec.open(url, "wb") as file:
        file.write((noisy / "noisy.tif").read_bytes())
    return url


@pytest.fixture
def lying(noisy, quick, monkeypatch):
    fsspec.register_implementation("lying", LyingFiles, clobber=True)
    with fsspec.open("lying://bucket/noisy.tif", "wb") as file:
        file.write((noisy / "noisy.tif").read_bytes())
    return lambda failure: monkeypatch.setattr(LyingFiles, "failure", failure)


def test_pixels_and_fingerprint_are_those_of_the_local_file(stored, noisy):
    with open_slide(stored) as far, open_slide(noisy / "noisy.tif") as local:
        box = Box(700, 900, 300, 300)
        assert (far.read(box, 0.5) == local.read(box, 0.5)).all()
        assert (far.fingerprint, far.id) == (local.fingerprint, "noisy")
        cost = far.cost_meter.total()
    assert cost.file_bytes == (noisy / "noisy.tif").stat().st_size
    assert 0 < cost.bytes_read <= cost.file_bytes + 2**20


def test_a_file_that_changes_is_noticed(stored):
    source = open_source(SlideUrl(stored), CostMeter())
    source.read(0, 10)
    with fsspec.open(stored, "wb") as file:
        file.write(bytes(source.size))
    with pytest.raises(RemoteError, match="changed while it was read"):
        source.read(1_500_000, 10)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (PermissionError("key SECRET"), "access to lying://bucket/noisy.tif was denied. Check the"),
        (FileNotFoundError("SECRET"), "no such file at lying://bucket/noisy.tif. Check the URL"),
        (OSError("token SECRET"), r"failed 8 times in a row \(OSError of the connector\)"),
        (b"short", r"failed 8 times in a row \(it sent fewer or more bytes than requested\)"),
        (
            type("NoCredentialsError", (Exception,), {})("SECRET"),
            "no credentials for lying:// were",
        ),
    ],
)
def test_what_a_connector_raises_is_one_clear_line(lying, failure, message):
    lying(failure)
    with pytest.raises(RemoteError, match=message) as caught:
        open_source(SlideUrl("lying://bucket/noisy.tif"), CostMeter())
    assert "SECRET" not in str(caught.value)


def test_a_folder_is_no_slide(stored):
    with pytest.raises(RemoteError, match=r"no such file at memory://.*/folder. Check the URL"):
        open_source(SlideUrl(stored.rpartition("/")[0]), CostMeter())


def test_an_unknown_scheme_is_refused():
    with pytest.raises(RemoteError, match=r"fsspec does not support nowhere://. Use https, s3, gs"):
        FsspecTransport(SlideUrl("nowhere://bucket/a.svs"), CostMeter())


@pytest.mark.parametrize("missing", ["s3fs", "fsspec"])
def test_a_missing_connector_says_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        RemoteError, match=r"s3:// needs a connector .*pip install 'parfocal\[remote"
    ):
        FsspecTransport(SlideUrl("s3://bucket/a.svs"), CostMeter())


@pytest.mark.parametrize(
    ("scheme", "package", "advice"),
    [
        ("az", "adlfs", "Install adlfs to access"),
        ("sftp", "paramiko", 'requires "paramiko" to be installed'),
    ],
)
def test_a_connector_that_the_extra_does_not_install_is_named(monkeypatch, scheme, package, advice):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.sftp", raising=False)
    with pytest.raises(RemoteError, match=f"{scheme}:// needs a connector .*{advice}") as caught:
        FsspecTransport(SlideUrl(f"{scheme}://host/a.svs"), CostMeter())
    assert "parfocal[" not in str(caught.value)


def test_a_connector_that_cannot_be_set_up_is_one_line():
    url = SlideUrl("ftp://anna:SECRET@127.0.0.1:1/a.tif")
    with pytest.raises(
        RemoteError,
        match=r"the connector for ftp://127.0.0.1:1/a.tif cannot be set up "
        r"\(ConnectionRefusedError: Connection refused\). Check the host",
    ) as caught:
        FsspecTransport(url, CostMeter())
    assert "SECRET" not in str(caught.value)
