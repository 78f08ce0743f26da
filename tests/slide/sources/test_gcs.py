"""Slides in a bucket of a Google Cloud Storage emulator; `gcsfs` and `gcp-storage-emulator`."""

import pytest

from parfocal.cost import CostMeter
from parfocal.slide import open_slide
from parfocal.slide.slide import Box
from parfocal.slide.sources.errors import RemoteError
from parfocal.slide.sources.opening import open_source
from parfocal.slide.sources.url import SlideUrl

gcsfs = pytest.importorskip("gcsfs")
server = pytest.importorskip("gcp_storage_emulator.server")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def bucket(noisy, monkeypatch):
    """Return the URL of noisy.tif in a bucket of the emulator, which needs no credentials."""
    running = server.create_server("127.0.0.1", 0, in_memory=True)
    running.start()
    host, port = running._api._httpd.socket.getsockname()[:2]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    files = gcsfs.GCSFileSystem(token="anon", project="test", skip_instance_cache=True)
    files.mkdir("slides")
    files.pipe_file("slides/noisy.tif", (noisy / "noisy.tif").read_bytes())
    yield "gs://slides/noisy.tif"
    running.stop()


def test_a_slide_in_a_bucket_is_read_in_place(bucket, noisy):
    with open_slide(bucket) as far, open_slide(noisy / "noisy.tif") as local:
        for box in (Box(700, 900, 300, 300), Box(0, 0, 2048, 2048)):
            assert (far.read(box, 2.0) == local.read(box, 2.0)).all()
        assert far.fingerprint == local.fingerprint
        assert far.cost_meter.total().file_bytes == (noisy / "noisy.tif").stat().st_size


def test_a_missing_object_is_named(bucket):
    with pytest.raises(RemoteError, match=r"no such file at gs://slides/other.tif"):
        open_source(SlideUrl("gs://slides/other.tif"), CostMeter())
