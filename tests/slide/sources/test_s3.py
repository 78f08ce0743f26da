"""Slides in an S3 bucket of moto's server; `pip install parfocal[remote] moto[s3,server]`."""

import pytest

from parfocal.cost import CostMeter
from parfocal.slide import open_slide
from parfocal.slide.slide import Box
from parfocal.slide.sources.errors import RemoteError
from parfocal.slide.sources.opening import open_source
from parfocal.slide.sources.url import SlideUrl

s3fs = pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def bucket(noisy, monkeypatch):
    """Return the URL of noisy.tif in a bucket, with credentials as S3's own tools find them."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anna")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.makedirs("slides", exist_ok=True)
    files.put_file(str(noisy / "noisy.tif"), "slides/noisy.tif")
    yield "s3://slides/noisy.tif"
    running.stop()


def test_a_slide_in_a_bucket_is_read_in_place(bucket, noisy):
    with open_slide(bucket) as far, open_slide(noisy / "noisy.tif") as local:
        for box in (Box(700, 900, 300, 300), Box(0, 0, 2048, 2048)):
            assert (far.read(box, 2.0) == local.read(box, 2.0)).all()
        assert far.fingerprint == local.fingerprint
        assert far.cost_meter.total().file_bytes == (noisy / "noisy.tif").stat().st_size


def test_an_object_that_is_replaced_is_noticed(bucket):
    source = open_source(SlideUrl(bucket), CostMeter())
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.pipe_file("slides/noisy.tif", bytes(source.size))
    with pytest.raises(RemoteError, match="changed while it was read"):
        source.read(1_500_000, 10)
    source.close()


def test_a_missing_object_is_named(bucket):
    with pytest.raises(RemoteError, match=r"no such file at s3://slides/other.tif"):
        open_source(SlideUrl("s3://slides/other.tif"), CostMeter())
