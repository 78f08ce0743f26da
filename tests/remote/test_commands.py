"""The commands on slides behind a web server on loopback."""

import csv
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from parfocal.explain.library import load_library
from parfocal.explain.viewer.pyramid import Pyramids
from parfocal.predict.slide import predict
from parfocal.slide.sources.url import SlideUrl
from range_server import Behavior, serve

SECRET = "X-Sig=SECRET"


@pytest.fixture(scope="module")
def slides(tmp_path_factory, write_slide):
    """Return a folder with slides of two classes."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(6):
        write_slide(folder / f"S-{number}.tif", dark=number % 2 == 1, seed=number)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, untrained):
    folder = tmp_path_factory.mktemp("runs") / "run"
    untrained.save(folder)
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory, write_slide):
    """Return a folder with a slide of 3 MB, of which opening reads 2."""
    folder = tmp_path_factory.mktemp("noise")
    pixels = np.random.default_rng(0).integers(0, 255, (2048, 2048, 3), dtype=np.uint8)
    write_slide(folder / "S-1.tif", pixels)
    return folder


def everything_in(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_predict_answers_as_for_the_local_file_and_bills_the_bytes(slides, run, tmp_path, parfocal):
    local = parfocal("predict", run, slides / "S-1.tif", "--out", tmp_path / "local")
    with serve(slides) as served:
        url = f"{served.address.replace('//', '//anna:SECRET@')}/S-1.tif?{SECRET}"
        far = parfocal("predict", run, url, "--out", tmp_path / "far")
        sent, requests = served.bytes_sent, len(served.requests)
        again = parfocal("predict", run, url, "--out", tmp_path / "far")
    assert (local.code, far.code, again.code) == (0, 0, 0)
    size = (slides / "S-1.tif").stat().st_size
    billed = re.search(
        r"read ([\d.]+) of ([\d.]+) (MB|kB) \(([\d.]+)%\) in (\d+) requests?", far.out
    )
    assert billed is not None, far.out
    records = [json.loads((tmp_path / name / "S-1.json").read_text()) for name in ("local", "far")]
    assert records[0]["prediction"] == records[1]["prediction"]
    assert records[0]["regions"] == records[1]["regions"]
    assert records[0]["slide"]["fingerprint"] == records[1]["slide"]["fingerprint"]
    assert records[1]["slide"]["path"] == f"{served.address}/S-1.tif"
    cost = records[1]["cost"]
    assert cost["file_bytes"] == size
    assert cost["bytes_read"] <= sent
    assert cost["requests"] == int(billed[5]) <= requests
    assert cost["share_bytes"] == cost["bytes_read"] / size
    assert "request" not in local.out
    assert "read " in local.out
    assert "predicted already" in again.err or "S-1" in again.out
    for text in (far.out, far.err, again.out, again.err):
        assert "SECRET" not in text
    assert b"SECRET" not in everything_in(tmp_path / "far")


def test_predict_names_slides_that_fail_in_one_line_and_goes_on(slides, run, tmp_path, parfocal):
    with serve(slides) as served:
        urls = [f"{served.address}/{name}?{SECRET}" for name in ("missing.tif", "S-1.tif")]
        result = parfocal("predict", run, *urls, "--out", tmp_path / "out")
    assert result.code == 1
    assert "missing.tif" in result.err
    assert "answered 404. Check the address." in result.err
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert rows["missing"]["path"] == f"{served.address}/missing.tif"
    assert rows["S-1"]["failed"] == ""
    assert "SECRET" not in result.err + str(rows)


def test_a_url_that_cannot_be_used_is_refused(run, tmp_path, parfocal):
    result = parfocal("predict", run, "file:///etc/passwd", "--out", tmp_path / "out")
    assert result.code == 1
    assert "slides are not read from file://" in result.err


def test_predict_from_python_takes_a_url_as_text(slides, untrained):
    with serve(slides) as served:
        record = predict(f"{served.address}/S-2.tif", untrained)
    assert record.slide.id == "S-2"


def test_inspect_reports_a_slide_far_away(slides, tmp_path, parfocal):
    with serve(slides) as served:
        url = f"{served.address}/S-1.tif?{SECRET}"
        options = ("--magnifications", "2.5,10", "--json", "--remote-cache", tmp_path / "cache")
        far = parfocal("inspect", url, *options, "--out", tmp_path / "r.jsonl")
        local = parfocal("inspect", slides / "S-1.tif", *options)
    (found,), (expected,) = json.loads(far.out), json.loads(local.out)
    assert found.pop("path") == f"{served.address}/S-1.tif"
    expected.pop("path")
    assert found == expected
    assert b"SECRET" not in everything_in(tmp_path)


def write_cohort(path, address, names):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("slide_id", "path", "label", "split"))
        for number, name in enumerate(names):
            split = ("train", "train", "val", "val", "test", "test")[number]
            label = ("normal", "tumor")[number % 2]
            writer.writerow((name, f"{address}/{name}.tif?{SECRET}", label, split))
    return path


def test_extract_and_inspect_take_cohorts_of_urls(slides, tmp_path, parfocal):
    with serve(slides) as served:
        cohort = write_cohort(tmp_path / "cohort.csv", served.address, ["S-0", "S-1"])
        inspected = parfocal("inspect", cohort, "--magnifications", "2.5,10")
        out = tmp_path / "features"
        extracted = parfocal(
            *("extract", cohort, "--out", out, "--magnifications", "2.5,10"),
            *("--encoder", "tiny", "--patch-size", "64"),
        )
    assert (inspected.code, extracted.code) == (0, 0), extracted.err
    assert sorted(path.name for path in out.glob("*.h5")) == ["S-0.h5", "S-1.h5"]
    assert b"SECRET" not in everything_in(out)
    assert "SECRET" not in inspected.out + inspected.err + extracted.out + extracted.err


@pytest.mark.slow
def test_train_and_evaluate_take_cohorts_of_urls(slides, tmp_path, parfocal):
    with serve(slides) as served:
        names = [f"S-{number}" for number in range(6)]
        cohort = write_cohort(tmp_path / "cohort.csv", served.address, names)
        trained = parfocal(
            *("train", cohort, "--model", "zoommil", "--out", tmp_path / "run", "--epochs", "1"),
            *("--encoder", "tiny", "--magnifications", "2.5,10", "--set", "slide.patch_size=64"),
            *("--cache", tmp_path / "cache"),
        )
        assert trained.code == 0, trained.err
        evaluated = parfocal("evaluate", tmp_path / "run", cohort, "--out", tmp_path / "ev")
        assert evaluated.code == 0, evaluated.err
    for folder in ("run", "ev", "cache"):
        assert b"SECRET" not in everything_in(tmp_path / folder)


def test_a_cohort_with_a_url_that_cannot_be_used_is_refused(tmp_path, parfocal):
    cohort = tmp_path / "cohort.csv"
    cohort.write_text("slide_id,path\na,file:///etc/passwd\n")
    result = parfocal("inspect", cohort)
    assert "cohort.csv row 2: file:" in result.err
    assert "slides are not read from file://" in result.err


def test_the_viewer_reads_tiles_of_a_slide_far_away(slides, run, tmp_path, parfocal):
    with serve(slides) as served:
        url = f"{served.address}/S-1.tif"
        assert parfocal("predict", run, url, "--out", tmp_path / "out").code == 0
        library = load_library([tmp_path / "out", SlideUrl(f"{served.address}/S-2.tif?{SECRET}")])
        by_id = {slide.id: slide for slide in library.slides.values()}
        assert str(by_id["S-1"].path) == url
        pyramid = Pyramids()
        for listed in by_id.values():
            assert pyramid.tile(listed, 8, 0, 0)
        pyramid.close()
        assert "SECRET" not in repr(library)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
@pytest.mark.parametrize("answered", [0, 2])
def test_an_interrupt_ends_the_program_while_the_server_says_nothing(
    noise, run, tmp_path, answered
):
    behavior = Behavior(fault=lambda number: "stall" if number >= answered else "")
    with serve(noise, behavior) as served:
        program = (  # a shell's background jobs ignore Ctrl-C
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from parfocal.cli import main; main()"
        )
        command = [sys.executable, "-c", program, "predict", str(run)]
        process = subprocess.Popen(
            [*command, f"{served.address}/S-1.tif", "--out", str(tmp_path / "out")],
            stderr=subprocess.PIPE,
            text=True,
        )
        stalled = served.stalled.wait(100)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)  # far less than the server is silent
    assert stalled
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
