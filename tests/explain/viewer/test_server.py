import io
import json
import random
import re
import shutil
import socket
import string
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from explain.demo_folder import DARK, LESION, PINK, running
from parfocal.explain.library import Library, load_library
from parfocal.explain.read_record import read_prediction
from parfocal.explain.viewer import ViewError, address_of, build_app, is_loopback, listen
from parfocal.explain.viewer.pyramid import TILE_PX, levels

SHARPEST = levels((1500, 1500)) - 1
TEMPLATES = (
    "/slides/{}",
    "/static/{}",
    "/thumbnails/{}",
    "/api/slides/{}",
    "/api/slides/{key}/predictions/{}",
    "/tiles/{}/0/0/0",
    "/tiles/{key}/{}/0/0",
    "/tiles/{key}/0/{}/0",
    "/tiles/{key}/0/0/{}",
)
NASTY = (
    "..",
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "..\\..\\etc\\passwd",
    "/etc/passwd",
    "//etc/passwd",
    "%00",
    "a%00.tif",
    "file:%2f%2f%2fetc%2fpasswd",
    "-1",
    "1e3",
    "1.0",
    "0x10",
    "+1",
    "٣",
    "%D9%A3",
    "9" * 12,
    "9" * 5000,
    "NaN",
    "%",
    "%ZZ",
    "x" * 20_000,
)


@pytest.fixture(scope="module")
def key(server):
    (slide,) = [each for each in server.json("/api/slides")["slides"] if each["id"] == "a"]
    return slide["key"]


def tile(server, key, level, column, row):
    answer, content = server.request(f"/tiles/{key}/{level}/{column}/{row}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "image/jpeg"
    return np.array(Image.open(io.BytesIO(content))).astype(int)


def test_the_list_has_true_label_prediction_and_cost(server):
    slides = {slide["id"]: slide for slide in server.json("/api/slides")["slides"]}
    assert list(slides) == ["a", "b", "c"]
    assert [slides[name]["label"] for name in "abc"] == ["tumor", "normal", "normal"]
    first = slides["a"]["predictions"][1]
    assert (first["label"], first["patches"], first["share_patches"]) == ("tumor", 6, 0.1)
    assert [each["model"] for each in slides["a"]["predictions"]] == [
        "mean, mean",
        "zoommil, predictions",
    ]


def test_a_slide_comes_with_its_outlines(server, key):
    facts = server.json(f"/api/slides/{key}")
    assert facts["outlines"][0][0][0] == [600.0, 300.0]
    assert facts["tiles"] == {"size": TILE_PX, "levels": levels((1500, 1500))}
    assert facts["mpp"] == 1.0


def test_a_prediction_is_the_saved_record(server, folder, key):
    for listed, place in zip(
        server.json(f"/api/slides/{key}")["predictions"], ("mean", "predictions"), strict=True
    ):
        content = server.json(f"/api/slides/{key}/predictions/{listed['key']}")
        assert content == json.loads(read_prediction(folder / place / "a.json").to_json())


def test_a_tile_shows_the_lesion_where_it_was_painted(server, key):
    x, y, side = LESION
    tiles = {
        (c, r): tile(server, key, SHARPEST, c, r)
        for c in range(x // TILE_PX, (x + side) // TILE_PX + 1)
        for r in range(y // TILE_PX, (y + side) // TILE_PX + 1)
    }

    def at(px, py):
        return tiles[px // TILE_PX, py // TILE_PX][py % TILE_PX, px % TILE_PX]

    for px, py in [(x + 8, y + 8), (x + side - 8, y + side - 8), (x + 8, y + side - 8)]:
        assert np.abs(at(px, py) - DARK).max() < 12
    for px, py in [(x - 8, y + 50), (x + side + 8, y + 50), (x + 50, y - 8)]:
        assert np.abs(at(px, py) - PINK).max() < 12


def test_every_level_is_the_same_slide(server, key):
    x, y, side = LESION
    for level in range(SHARPEST - 5, SHARPEST + 1):
        scale = 2 ** (SHARPEST - level)
        px, py = (int((corner + side / 2) / scale) for corner in (x, y))
        pixels = tile(server, key, level, px // TILE_PX, py // TILE_PX)
        assert np.abs(pixels[py % TILE_PX, px % TILE_PX] - DARK).max() < 20


def test_edge_tiles_end_with_the_slide(server, key):
    assert tile(server, key, SHARPEST, 5, 5).shape == (1500 - 5 * TILE_PX, 1500 - 5 * TILE_PX, 3)
    assert server.request(f"/tiles/{key}/{SHARPEST}/6/0")[0].status == 404
    assert server.request(f"/tiles/{key}/{SHARPEST + 1}/0/0")[0].status == 404
    assert tile(server, key, 0, 0, 0).shape == (1, 1, 3)


def test_the_page_of_a_missing_slide_is_a_page_with_status_404(server, key):
    there, gone = status_of(server, f"/slides/{key}"), status_of(server, "/slides/zzz")
    assert (there[0], gone[0]) == (200, 404)
    assert b"<!doctype html>" in gone[1]


@pytest.mark.parametrize("template", TEMPLATES)
def test_only_listed_slides_and_files_are_served(server, key, template):
    for nasty in NASTY:
        raw = template.replace("{key}", key).replace("{}", nasty)
        path = raw.encode().decode("latin-1")  # as bytes on the wire
        answer, content = status_of(server, path)
        assert answer in (400, 404), raw[:80]
        assert b"root:" not in content


def status_of(server, path):
    """Send a path byte for byte."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        raw.sendall(request.encode("latin-1"))
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    return int(received.split()[1]), received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_there_is_no_verb_that_writes(server, key, method):
    for path in (
        "/",
        "/api/slides",
        f"/api/slides/{key}",
        f"/tiles/{key}/0/0/0",
        "/static/list.js",
    ):
        assert server.request(path, method=method)[0].status == 405


def test_head_answers_without_content(server):
    answer, content = server.request("/api/slides", method="HEAD")
    assert (answer.status, content) == (200, b"")


def test_every_answer_forbids_framing_and_guessing_of_types(server, key):
    asked = [
        server.request("/"),
        server.request(f"/tiles/{key}/0/0/0"),
        server.request("/nowhere"),
        server.request("/", method="POST"),
        server.request("/", headers={"Host": "elsewhere.example"}),
    ]
    assert [answer.status for answer, _ in asked] == [200, 200, 404, 405, 400]
    for answer, _ in asked:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Server"] is None


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:9", 200), ("localhost", 200), ("slides.example", 400), ("127.0.0.1.example", 400)],
)
def test_a_page_from_elsewhere_cannot_point_its_name_here(server, host, status):
    assert server.request("/api/slides", headers={"Host": host})[0].status == status


def test_random_requests_get_the_right_codes(server, key):
    rng = random.Random(0)
    letters = string.ascii_letters + string.digits + "/.%-_~:@!$&'()*+,;=?"
    known = ["slides", "api", "tiles", "static", "thumbnails", "predictions", key, "0", "9", ".."]

    def path():
        parts = (
            rng.choice(known)
            if rng.random() < 0.8
            else "".join(rng.choices(letters, k=rng.randrange(1, 20)))
            for _ in range(rng.randrange(7))
        )
        return "/" + "/".join(parts)

    asked = [path() for _ in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: server.request(each)[0].status, asked))
    assert set(found) <= {200, 400, 404}
    assert found.count(200) > 20
    assert server.request("/api/slides")[0].status == 200


def test_twenty_clients_at_once_get_the_tiles_one_gets(server, key):
    places = [(SHARPEST - 1, column, row) for column in range(3) for row in range(3)]
    alone = {place: server.request("/tiles/{}/{}/{}/{}".format(key, *place))[1] for place in places}

    def client(seed):
        mine = random.Random(seed).sample(places, len(places))
        return all(
            server.request("/tiles/{}/{}/{}/{}".format(key, *place))[1] == alone[place]
            for place in mine
        )

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(client, range(20)))


def test_a_port_in_use_is_refused(server):
    with pytest.raises(
        ViewError, match=f"port {server.port} of 127.0.0.1 is in use by another pro"
    ):
        listen("127.0.0.1", server.port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ViewError, match=r"cannot listen on 203\.0\.113\.7, port 80"):
        listen("203.0.113.7", 80)


def test_the_address_is_one_to_type():
    with listen("127.0.0.1", 0) as listening:
        assert address_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}/"
    with listen("0.0.0.0", 0) as listening:
        assert address_of(listening).startswith("http://127.0.0.1:")


def test_loopback_is_this_machine_alone():
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "::", "box.example"))


def test_predictions_of_version_1_are_served_in_the_current_version():
    folder = Path(__file__).parents[2] / "fixtures" / "v1" / "predictions"
    with running(load_library([folder])) as old:
        slides = old.json("/api/slides")["slides"]
        keys = [(slide["key"], each["key"]) for slide in slides for each in slide["predictions"]]
        records = [old.json(f"/api/slides/{slide}/predictions/{key}") for slide, key in keys]
    assert [record["format_version"] for record in records] == [2, 2, 2]
    kinds = {region["score_kind"] for record in records for region in record["regions"]}
    assert kinds == {"attention", "uniform", "class_probability", "sampling_probability"}


@pytest.mark.parametrize("size", [(0, 0), (-5, 100), (2**31, 10), (10**30, 10**30)])
def test_a_slide_of_impossible_size_is_a_bad_request(library, size):
    (first, *_) = library.slides.values()
    broken = Library({first.key: replace(first, size=size)})
    with running(broken) as server:
        paths = (
            f"/api/slides/{first.key}",
            f"/thumbnails/{first.key}",
            f"/tiles/{first.key}/0/0/0",
        )
        for path in paths:
            answer, content = server.request(path)
            assert answer.status == 400
            assert f"{size[0]} x {size[1]} px is not the size of a slide" in content.decode()
        assert server.request("/api/slides")[0].status == 200


def test_a_record_with_another_size_than_its_slide_shows_no_pixels(library):
    (first, *_) = library.slides.values()
    with running(Library({first.key: replace(first, size=(3000, 3000))})) as server:
        answer, content = server.request(f"/thumbnails/{first.key}")
    assert answer.status == 404
    assert "the slide is 1500 x 1500 px, and its prediction says 3000 x 3000" in content.decode()


def test_further_hosts_can_be_allowed(library):
    with running(library, hosts=["hub.example.org", "*.slides.example"]) as server:
        for host, status in (
            ("hub.example.org", 200),
            ("a.slides.example:8000", 200),
            ("slides.example.org", 400),
            ("localhost", 200),
        ):
            assert server.request("/api/slides", headers={"Host": host})[0].status == status


@pytest.mark.parametrize("name", ["", "a/b", "http://a", "a:80", "*", "*a", "a b"])
def test_a_name_that_is_no_host_name_is_refused(library, name):
    with pytest.raises(ViewError, match=f"{re.escape(repr(name))} is not a host name; give"):
        build_app(library, allowed_hosts=[name])


def test_a_server_behind_a_prefix_answers(library):
    with running(library, prefix="/user/x/proxy/8642") as server:
        (slide, *_) = server.json("/api/slides")["slides"]
        assert server.request(f"/thumbnails/{slide['key']}")[0].status == 200


def test_no_page_has_an_absolute_address():
    static = files("parfocal.explain") / "static"
    texts = [
        file.read_text()
        for file in static.iterdir()
        if file.name.endswith((".html", ".js", ".css"))
    ]
    assert len(texts) > 10
    for text in texts:
        assert (
            re.findall(r"""(?:["'`(]/(?:static|api|slides|tiles|thumbnails)\b|href="/)""", text)
            == []
        )


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("probabilities", {"normal": float("nan"), "tumor": 0.5}, "NaN"),
        ("probabilities", {"normal": 2.0, "tumor": 0.5}, "a probability is not in 0..1"),
        ("size", [0, 1500], "0 x 1500 px is not the size of a slide"),
        ("size", [2**40, 1500], "px is not the size of a slide"),
        ("mpp", -1.0, "-1 µm per pixel is impossible"),
    ],
)
def test_one_impossible_prediction_does_not_empty_the_list(folder, tmp_path, key, value, problem):
    shutil.copytree(folder / "predictions", tmp_path / "predictions")
    path = tmp_path / "predictions" / "b.json"
    content = json.loads(path.read_text())
    content["prediction" if key == "probabilities" else "slide"][key] = value
    path.write_text(json.dumps(content))
    with running(load_library([tmp_path / "predictions"])) as server:
        listed = server.json("/api/slides")
    assert [slide["id"] for slide in listed["slides"]] == ["a", "c"]
    (found,) = listed["problems"]
    assert str(path) in found
    assert problem in found
