import gc
import logging
import os
import random
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from parfocal.cost import CostMeter
from parfocal.slide import open_slide
from parfocal.slide.errors import SlideError
from parfocal.slide.identity import file_fingerprint
from parfocal.slide.readers import tiff_long_arrays
from parfocal.slide.slide import Box
from parfocal.slide.sources import http_client, remote
from parfocal.slide.sources.disk_pages import delete_oldest
from parfocal.slide.sources.errors import RemoteError
from parfocal.slide.sources.opening import open_source
from parfocal.slide.sources.url import RemoteAccess, SlideUrl
from range_server import Behavior, serve

WHOLE, LOWEST = Box(0, 0, 2048, 2048), 2.0
PATCHES = [Box(x, y, 300, 300) for x, y in ((0, 0), (1500, 60), (700, 900), (100, 1700))]
TLS = Path(__file__).parents[2] / "fixtures" / "tls"
SECRET = "X-Sig=SECRET"


def source_of(served, name="noisy.tif", **access):
    url = SlideUrl(f"{served.address}/{name}?{SECRET}", RemoteAccess(**access))
    return open_source(url, CostMeter())


def read_whole(served, name="noisy.tif", **access):
    source = source_of(served, name, **access)
    return source.read(0, source.size)


def read_error(served, name="noisy.tif", **access):
    """Return the message of the error that opening and reading raise."""
    with pytest.raises(RemoteError) as caught:
        read_whole(served, name, **access)
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is read, and its cost ---


@pytest.mark.parametrize("long_bytes", [2**17, 64])
def test_pixels_and_fingerprint_are_those_of_the_local_file(noisy, monkeypatch, long_bytes):
    monkeypatch.setattr(tiff_long_arrays, "LONG_BYTES", long_bytes)  # 64: all are read later
    with (
        serve(noisy) as served,
        open_slide(noisy / "noisy.tif") as local,
        open_slide(f"{served.address}/noisy.tif") as far,
    ):
        assert far.reads_ahead
        assert not local.reads_ahead
        assert far.read_ahead(PATCHES, 0.5) == len(PATCHES)
        for box in PATCHES:
            assert (far.read(box, 0.5) == local.read(box, 0.5)).all()
        assert (far.read(WHOLE, LOWEST) == local.read(WHOLE, LOWEST)).all()
        assert far.fingerprint == local.fingerprint
        assert (far.id, far.levels, far.mpp) == (local.id, local.levels, local.mpp)


def test_bytes_and_requests_are_those_that_the_server_counts(noisy):
    with serve(noisy) as served, open_slide(f"{served.address}/noisy.tif") as slide:
        slide.read(PATCHES[2], 0.5)
        cost = slide.cost_meter.total()
        assert cost.requests == len(served.requests)
        assert cost.bytes_read == served.bytes_sent
        assert cost.file_bytes == (noisy / "noisy.tif").stat().st_size
        assert 0 < cost.share_bytes < 1


def test_regions_read_ahead_take_one_round_of_few_requests(noisy, monkeypatch):
    monkeypatch.setattr(remote, "END_BYTES", 2**14)
    boxes = [Box(x, 512, 256, 256) for x in range(0, 2048, 256)]
    with serve(noisy) as served, open_slide(f"{served.address}/noisy.tif") as slide:
        opened = {*served.requests}
        slide.read_ahead(boxes, 0.5)  # one row of tiles, which follow one another in the file
        for box in boxes:
            slide.read(box, 0.5)
    starts = {each: int(each.removeprefix("bytes=").split("-")[0]) for each in served.requests}
    directories = min(starts[each] for each in opened if starts[each])  # at the end of the file
    assert sum(0 < start < directories for start in starts.values()) == 1
    assert len(starts) == len(served.requests)


def test_opening_takes_few_requests(noisy):
    with serve(noisy) as served, open_slide(f"{served.address}/noisy.tif"):
        assert len(served.requests) <= 12


def test_the_memory_is_bounded(noisy, monkeypatch):
    monkeypatch.setattr("parfocal.slide.sources.page_fetcher.MEMORY_PAGES", 64)
    monkeypatch.setattr("parfocal.slide.sources.page_fetcher.AHEAD_PAGES", 32)
    content = (noisy / "noisy.tif").read_bytes()
    ranges = [(start, 50_000) for start in range(0, len(content), 90_000)]
    with serve(noisy) as served:
        source = source_of(served)
        assert source.read_ahead(ranges) < len(ranges)
        assert source.read_many(ranges) == [content[a : a + n] for a, n in ranges]
        (fetcher,) = source._fetchers.values()
        source.read(0, 10)
        assert sum(page.done() for page in fetcher._pages.values()) <= 64 + 16


def test_reads_end_with_the_file(noisy):
    size = (noisy / "noisy.tif").stat().st_size
    with serve(noisy) as served:
        source = source_of(served)
        assert (source.size, len(source.read(size - 3, 99)), source.read(size, 5)) == (size, 3, b"")


def test_threads_share_a_source(noisy):
    content = (noisy / "noisy.tif").read_bytes()
    with serve(noisy) as served:
        source, wrong = source_of(served), []

        def read(seed):
            draw = random.Random(seed)
            for _ in range(50):
                start = draw.randrange(len(content))
                if source.read(start, 5000) != content[start : start + 5000]:
                    wrong.append(start)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_source_works_after_a_fork(noisy):
    content = (noisy / "noisy.tif").read_bytes()
    with serve(noisy) as served:
        source = source_of(served)
        source.read(1_400_000, 10)
        child = os.fork()
        if child == 0:
            os._exit(0 if source.read(2_000_000, 70_000) == content[2_000_000:2_070_000] else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert source.read(1_500_000, 70_000) == content[1_500_000:1_570_000]


# --- servers that fail ---


@pytest.mark.slow
# A connection that breaks while its thread is stopped is sometimes left to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_500_flaky_answers_give_the_right_bytes_or_one_clear_line(noisy, quick, monkeypatch):
    monkeypatch.setattr(http_client, "MAX_RETRY_AFTER_S", 0.0)
    content, draw = (noisy / "noisy.tif").read_bytes(), random.Random(1)
    faults = ["drop", "garbage", "short", "500", "502", "503", "429", "", ""]
    chosen = [draw.choice(faults) for _ in range(20_000)]
    right, failed = 0, []
    with serve(noisy, Behavior(fault=lambda number: chosen[number])) as served:
        while len(served.requests) < 500:
            try:
                with closing(source_of(served)) as source:
                    start = draw.randrange(len(content) - 300_000)
                    assert source.read(start, 300_000) == content[start : start + 300_000]
                right += 1
            except RemoteError as error:
                failed.append(str(error))
    gc.collect()
    assert right > 10
    assert len(failed) < right
    assert all("failed 8 times in a row" in message for message in failed)


def test_a_server_that_fails_for_good_is_named_in_one_line(noisy, quick):
    with serve(noisy, Behavior(fault=lambda number: "503")) as served:
        message = read_error(served)
        assert len(served.requests) == 8
    host = served.address.removeprefix("http://")
    assert message == (
        f"noisy.tif: {host} failed 8 times in a row (status 503). Check the network and the "
        "server, then run the same command again."
    )


def test_a_server_that_is_gone_is_named_in_one_line(noisy, quick):
    with serve(noisy) as served:
        pass
    assert "failed 8 times in a row (connection refused)" in read_error(served)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("whole", "sends whole files only .*cannot be read in place. Add --scratch DIR"),
        ("shifted", "did not send what was requested"),
        ("gzip", r"it compresses the bytes \(gzip\). Ask its owner"),
        ("longer announced", "1048576 bytes were requested, it announced 1148576. Ask its owner"),
        ("403", "answered 403. Check that your credentials or the signed URL are still valid"),
        ("404", "answered 404. Check the address"),
        ("401", "answered 401. It requires credentials: put them in ~/.netrc, or use a signed URL"),
        ("418", "answered 418. Check the address with the owner of the server"),
    ],
)
def test_what_does_not_help_to_repeat_is_not_repeated(noisy, fault, message):
    with serve(noisy, Behavior(fault=lambda number: fault)) as served:
        with pytest.raises(RemoteError, match=message):
            source_of(served)
        assert len(served.requests) == 1


@pytest.mark.parametrize("fault", ["longer announced", "whole"])
def test_a_server_that_sends_more_than_asked_is_cut_off(noisy, fault):
    behavior = Behavior(fault=lambda number: fault if number > 0 else "")
    with serve(noisy, behavior) as served:
        source = source_of(served)
        with pytest.raises(RemoteError):
            source.read(1_500_000, 100)
        cost = source._cost_meter.total()
        assert cost.bytes_read <= 2 * 2**20  # nothing of the answer that was too long


@pytest.mark.parametrize("fault", ["endless", "longer"])
def test_bytes_beyond_those_asked_for_are_not_read(noisy, fault):
    content = (noisy / "noisy.tif").read_bytes()
    with serve(noisy, Behavior(fault=lambda number: fault)) as served:
        source = source_of(served)
        assert source.read(0, len(content)) == content
        assert source._cost_meter.total().bytes_read <= len(content) + 2**20


@pytest.mark.parametrize("header", ["etag", "modified"])
def test_a_file_that_changes_is_noticed(noisy, header):
    days = ("Mon, 02 Nov 2026 10:00:00 GMT", "Tue, 03 Nov 2026 10:00:00 GMT")
    changing = {"etag": None, header: lambda number: days[number > 0]}
    with serve(noisy, Behavior(**changing)) as served:
        source = source_of(served)
        with pytest.raises(RemoteError, match=r"changed while it was read. Read the slide again"):
            source.read(1_500_000, 100)


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "a.svs").touch()
    with serve(tmp_path) as served:
        assert "the file is empty (0 bytes)" in read_error(served, "a.svs")


def test_damage_and_truncation_are_named_like_those_of_local_files(noisy, tmp_path):
    content = (noisy / "noisy.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(SlideError) as local:
        open_slide(tmp_path / "cut.tif")
    with serve(tmp_path) as served, pytest.raises(SlideError) as far:
        open_slide(f"{served.address}/cut.tif")
    assert str(far.value) == str(local.value)


def test_canceling_releases_a_reader_that_waits(noisy):
    behavior = Behavior(fault=lambda number: "stall" if number > 0 else "")
    with serve(noisy, behavior) as served:
        source, errors = source_of(served), []

        def read():
            try:
                source.read(1_500_000, 100_000)
            except RemoteError as error:
                errors.append(str(error))

        reader = threading.Thread(target=read)
        reader.start()
        assert served.stalled.wait(10)
        source.cancel()
        reader.join(10)
        assert not reader.is_alive()
        assert errors == ["noisy.tif: reading was stopped, because the slide was closed."]


# --- security ---


def test_no_credential_is_logged_or_shown_whatever_fails(noisy, quick, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    for fault in ("garbage", "503", "403", "shifted", "whole", "drop"):
        with serve(noisy, Behavior(fault=lambda number, fault=fault: fault)) as served:
            url = f"{served.address.replace('//', '//anna:SECRET@')}/noisy.tif?{SECRET}"
            with pytest.raises(SlideError) as caught:
                open_slide(url)
            chain, error = "", caught.value
            while error is not None:
                chain += f"{error!r}{error}"
                error = error.__cause__
            assert "SECRET" not in chain
    assert "SECRET" not in caplog.text
    assert "SECRET" not in "".join(capfd.readouterr())


def test_the_user_of_a_url_is_sent_as_a_header(noisy):
    behavior = Behavior(authorization="Basic YW5uYTpwQHNz")  # anna:p@ss
    with serve(noisy, behavior) as served:
        with pytest.raises(RemoteError, match="answered 401"):
            source_of(served)
        assert open_source(
            SlideUrl(f"{served.address.replace('//', '//anna:p%40ss@')}/noisy.tif"), CostMeter()
        ).size


def test_the_user_of_netrc_is_sent_as_a_header(noisy, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login anna password p@ss\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(noisy, Behavior(authorization="Basic YW5uYTpwQHNz")) as served:
        assert source_of(served).size


def test_a_redirect_to_another_host_is_refused_unless_allowed(noisy):
    with serve(noisy) as other:
        target = f"{other.address.replace('127.0.0.1', 'localhost')}/noisy.tif?k=SECRET"
        with serve(noisy, Behavior(redirect=target)) as served:
            host = urlsplit(target).netloc
            message = read_error(served)
            assert f"redirects to http://{host}, which you did not name" in message
            assert f"Give --allow-redirect {host} if you trust it" in message
            # Another port may be another server.
            assert "did not name" in read_error(served, allow_hosts=("localhost", "localhost:1"))
            assert other.requests == []
            with_user = served.address.replace("//", "//anna:pass@")
            source = open_source(
                SlideUrl(f"{with_user}/noisy.tif", RemoteAccess(allow_hosts=(host,))),
                CostMeter(),
            )
            assert source.size == (noisy / "noisy.tif").stat().st_size
            assert len(served.requests) == 3  # the others go where the third led
            assert "Authorization" in served.headers[2]
            assert all("Authorization" not in headers for headers in other.headers)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("file:///etc/passwd", "redirects to file:, which is refused"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 belongs to this comp"),
        ("http://[fd00:ec2::254]/a", "belongs to this computer's own network or cloud"),
        ("https://127.0.0.1:1/a", "redirects to https://127.0.0.1:1, which you did not name"),
        ("/noisy.tif", "redirects more than 5 times"),
    ],
)
def test_redirects_to_where_no_slide_is_are_refused(noisy, target, message):
    access = {} if target.startswith("https") else {"allow_hosts": ("169.254.169.254",)}
    with serve(noisy, Behavior(redirect=target)) as served:
        assert message in read_error(served, **access)


def test_metadata_addresses_are_refused_when_named_directly():
    with pytest.raises(RemoteError, match=r"169.254.169.254 belongs to this computer's"):
        open_source(SlideUrl("http://169.254.169.254/a.svs"), CostMeter())


def test_a_name_that_leads_to_a_metadata_address_is_refused(noisy, monkeypatch):
    monkeypatch.setattr(http_client, "is_forbidden", lambda address: address == "127.0.0.1")
    with serve(noisy) as served:
        port = served.address.rpartition(":")[2]
        with pytest.raises(RemoteError, match="belongs to this computer's own network"):
            open_source(SlideUrl(f"http://localhost:{port}/noisy.tif"), CostMeter())
        assert served.requests == []


def test_tls_certificates_are_checked(noisy, monkeypatch):
    pair = TLS / "certificate.pem", TLS / "loopback-key.pem"
    with serve(noisy, certificate=pair) as served:
        message = read_error(served)
        assert "the TLS certificate of 127.0.0.1" in message
        assert "name its file in the variable SSL_CERT_FILE" in message
        assert served.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(pair[0]))
        assert source_of(served).read(0, 2) == b"II"
        monkeypatch.setattr(http_client, "CONNECT_S", 5.0)
        port = served.address.rpartition(":")[2]
        with pytest.raises(RemoteError, match="is not valid for it"):
            open_source(SlideUrl(f"https://localhost:{port}/noisy.tif"), CostMeter())


# --- disk cache ---


def test_what_was_read_is_kept_between_runs(noisy, tmp_path):
    content = (noisy / "noisy.tif").read_bytes()
    with serve(noisy) as served:
        with closing(source_of(served, cache=tmp_path / "cache")) as first:
            first.read(1_500_000, 100_000)
        time.sleep(0.3)  # until the server has seen that what was read ahead is not wanted
        before = served.bytes_sent
        again = source_of(served, cache=tmp_path / "cache")
        assert again.read(1_500_000, 100_000) == content[1_500_000:1_600_000]
        # Both ends, to see that it is the same, and perhaps the rest of a chunk from before.
        assert served.bytes_sent - before <= 2 * 2**20 + 2**16
        names = [path.name for path in (tmp_path / "cache").iterdir()]
        assert not any("noisy" in name or "SECRET" in name for name in names)


def test_a_damaged_page_is_fetched_again(noisy, tmp_path):
    content = (noisy / "noisy.tif").read_bytes()
    with serve(noisy) as served:
        source_of(served, cache=tmp_path).read(1_500_000, 100_000)
        (pages,) = tmp_path.glob("*.pages")
        with pages.open("r+b") as file:
            file.seek(1_540_000)
            file.write(b"damage")
        again = source_of(served, cache=tmp_path)
        assert again.read(1_500_000, 100_000) == content[1_500_000:1_600_000]


def test_pages_of_a_replaced_file_are_not_used(noisy, tmp_path):
    with serve(noisy) as served:
        source_of(served, cache=tmp_path).read(1_500_000, 100_000)
    with serve(noisy, Behavior(etag=lambda number: '"second"')) as served:
        source_of(served, cache=tmp_path).read(1_500_000, 100_000)
    assert len(list(tmp_path.glob("*.pages"))) == 2


def test_the_pages_used_longest_ago_are_deleted(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.pages").write_bytes(bytes(range(256)) * 64)
        (tmp_path / f"{number}.crc").touch()
        os.utime(tmp_path / f"{number}.pages", (number, number))
    used = (tmp_path / "0.pages").stat().st_blocks * 512
    delete_oldest(tmp_path, limit=2 * used)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("2.crc", "2.pages", "3.crc", "3.pages"),
    ]


def test_a_cache_that_cannot_be_written_is_not_needed(noisy, tmp_path, caplog):
    (tmp_path / "file").touch()
    with serve(noisy) as served:
        assert source_of(served, cache=tmp_path / "file").read(0, 2) == b"II"
    assert "the folder of --remote-cache cannot be used" in caplog.text


# --- downloads ---


def test_formats_that_cannot_be_read_in_place_are_downloaded_if_allowed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "served").mkdir()
    Image.fromarray(pixels).save(tmp_path / "served" / "a.png")
    size = (tmp_path / "served" / "a.png").stat().st_size
    with serve(tmp_path / "served") as served:
        message = read_error_of_slide(f"{served.address}/a.png?{SECRET}")
        advice = f"Add --scratch DIR to download its {size / 1e3:.1f} kB first."
        assert f"a .png file cannot be read in place. {advice}" in message
        url = SlideUrl(f"{served.address}/a.png?{SECRET}", RemoteAccess(scratch=tmp_path / "scr"))
        with open_slide(url, mpp=0.5) as slide:
            assert (slide.read(Box(0, 0, 64, 64), 0.5) == pixels).all()
            assert str(slide.path) == f"{served.address}/a.png"
            assert slide.fingerprint
        assert f"a.png: downloading {size / 1e3:.1f} kB from 127.0.0.1" in caplog.text
        sent = served.bytes_sent
        open_slide(url, mpp=0.5).close()
        assert served.bytes_sent - sent <= 2 * size  # it is there already; only looked at


def read_error_of_slide(url):
    with pytest.raises(SlideError) as caught:
        open_slide(url)
    assert "SECRET" not in str(caught.value)
    return str(caught.value)


def test_a_server_without_ranges_is_downloaded_from_if_allowed(noisy, tmp_path, quick):
    with serve(noisy, Behavior(fault=lambda number: "whole")) as served:
        url = SlideUrl(f"{served.address}/noisy.tif", RemoteAccess(scratch=tmp_path))
        with open_slide(url) as far, open_slide(noisy / "noisy.tif") as local:
            assert (far.read(PATCHES[0], 0.5) == local.read(PATCHES[0], 0.5)).all()
            assert far.fingerprint == file_fingerprint(url) == local.fingerprint


def test_a_download_that_does_not_fit_is_refused(noisy, tmp_path, monkeypatch):
    free = SimpleNamespace(free=10)
    monkeypatch.setattr("parfocal.slide.sources.download.shutil.disk_usage", lambda folder: free)
    with serve(noisy, Behavior(fault=lambda number: "whole")) as served:
        url = SlideUrl(f"{served.address}/noisy.tif", RemoteAccess(scratch=tmp_path))
        with pytest.raises(RemoteError, match=r"has room for 10 bytes. Choose another --scratch"):
            open_slide(url)


def test_slides_of_several_files_are_refused():
    with pytest.raises(RemoteError, match=r"\(.mrxs\) is several files, which are not read over"):
        open_slide("https://127.0.0.1:1/a.mrxs")


def test_a_file_of_a_dicom_slide_is_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(1000))
    with serve(tmp_path) as served:
        access = RemoteAccess(scratch=tmp_path / "scratch")
        with pytest.raises(
            RemoteError, match=r"one file for each level.*A web server does not list the others"
        ):
            open_slide(SlideUrl(f"{served.address}/a.dcm", access))


def test_an_interrupted_download_is_taken_up_again(tmp_path, quick, noisy):
    faults = ["whole", "short", "503", "whole"]  # looked at in place, then downloaded

    def fault(number):
        return faults[number] if number < len(faults) else "whole"

    with serve(noisy, Behavior(fault=fault)) as served:
        url = SlideUrl(f"{served.address}/noisy.tif", RemoteAccess(scratch=tmp_path))
        with open_slide(url) as far, open_slide(noisy / "noisy.tif") as local:
            assert (far.read(PATCHES[1], 0.5) == local.read(PATCHES[1], 0.5)).all()
