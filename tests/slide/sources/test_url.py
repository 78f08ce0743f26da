import pickle
from pathlib import Path

import pytest

from parfocal.slide.identity import slide_id
from parfocal.slide.sources.url import (
    RemoteAccess,
    SlideUrl,
    UrlError,
    is_url,
    parse_slide_path,
    recorded_path,
    slide_key,
)

SIGNED = "https://anna:pass@host.org:8443/cohort/S-1.ome.tif?X-Sig=SECRET&b=1#part"


def test_the_text_of_a_url_has_no_credentials():
    url = SlideUrl(SIGNED)
    shown = "https://host.org:8443/cohort/S-1.ome.tif"
    assert str(url) == shown
    assert f"{url!r}" == f"SlideUrl('{shown}')"
    assert recorded_path(url) == shown
    assert url.host == "host.org:8443"


def test_the_id_of_a_url_is_the_last_part_of_its_path():
    assert (slide_id(SIGNED), SlideUrl(SIGNED).suffix) == ("S-1", ".tif")
    assert slide_id("s3://bucket/a%20b/S%202.svs") == "S 2"


def test_urls_that_differ_in_their_query_are_two_slides():
    first, second = SlideUrl("https://h/a.svs?id=1"), SlideUrl("https://h/a.svs?id=2")
    assert first != second
    assert first == SlideUrl("https://h/a.svs?id=1", RemoteAccess(Path("cache")))
    assert slide_key(first) != slide_key(second)


def test_a_pickled_url_is_still_usable():
    url = SlideUrl(SIGNED, RemoteAccess(Path("cache"), allow_hosts=("cdn.org",)))
    copy = pickle.loads(pickle.dumps(url))
    assert (copy.secret_url, copy.access) == (url.secret_url, url.access)


def test_paths_stay_paths():
    assert parse_slide_path("folder/a.svs") == Path("folder/a.svs")
    assert parse_slide_path(Path("a.svs")) == Path("a.svs")
    assert not is_url("C://a.svs")
    assert isinstance(parse_slide_path("s3://bucket/a.svs"), SlideUrl)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file:///etc/passwd", r"file:/+etc/passwd: slides are not read from file://.*Give a path"),
        ("simplecache::https://h/a.svs?k=SECRET", "not read from|chains of file systems"),
        ("https://h/a b.svs?k=SECRET", r"'https://h/a b.svs': a URL has no spaces. Write .*%20"),
        ("https:///a.svs", "names no host or no file. Write it as https://HOST/"),
        ("https://h", "names no host or no file"),
        ("https://h:port/a.svs", "names no host or no file"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(text, message):
    with pytest.raises(UrlError, match=message) as caught:
        SlideUrl(text)
    assert "SECRET" not in str(caught.value)


def test_a_url_inside_a_path_is_refused():
    with pytest.raises(UrlError, match=r"inside a Path has lost a slash. Pass a string, or use "):
        parse_slide_path(Path("https://host/a.svs"))
