"""Paths that cannot be used as slides, among good slides, in every command."""

import csv
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command_result import CommandResult
from explain.demo_folder import running
from parfocal.explain.library import load_library
from small import TINY, write_table


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    (path.with_suffix("") / "inner").mkdir(parents=True)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere.tif")


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("no slide")


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)  # the file stays when the socket is closed
    os.chdir(here)


def unreadable(path: Path) -> None:
    path.write_text("secret")
    path.chmod(0)


BAD = (pipe, folder, device, loop, dangling, empty, text, listening, unreadable)
LONG = "n" * 300 + ".tif"
NOT_UTF_8 = os.fsdecode(b"caf\xe9.tif")


@pytest.fixture
def slides(tmp_path: Path, slide: Path) -> Iterator[list[Path]]:
    """Two good slides, one of them with a name that is not UTF-8, and one of each bad kind."""
    place = tmp_path / "slides"
    place.mkdir()
    good, odd = place / "good.tif", place / NOT_UTF_8
    shutil.copy(slide, good)
    pixels = bytearray(slide.read_bytes())
    odd.write_bytes(bytes(pixels) + b"\0\0")  # a slide of its own
    for make in BAD:
        make(place / f"{make.__name__}.tif")
    bad = [place / f"{make.__name__}{'' if make is folder else '.tif'}" for make in BAD]
    yield [odd, *bad, place / LONG, good]
    (place / "unreadable.tif").chmod(0o600)


def expected_failures() -> set[str]:
    return {make.__name__ for make in BAD} | {Path(LONG).stem}


def test_predict_report_and_view(
    parfocal: Callable[..., CommandResult], run: Path, slides: list[Path], tmp_path: Path
):
    out = tmp_path / "out"
    found = parfocal("predict", run, *slides, "--out", out)
    assert found.code == 1
    assert "unexpected" not in found.err
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert {name for name, row in rows.items() if row["failed"]} == expected_failures()
    assert rows["good"]["predicted"]
    assert rows["caf%E9"]["predicted"]
    assert found.out.startswith("caf%E9: ")
    damage(out)
    found = parfocal("report", out, "--out", tmp_path / "report.html")
    assert found.code == 1  # because of the damaged JSON files
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in (*expected_failures(), "caf%E9", "too deeply nested"))
    library = load_library([out])
    assert {failed.id for failed in library.failed} == expected_failures()
    assert {slide.id for slide in library.slides.values()} == {"good", "caf%E9"}
    assert len(library.problems) == len(DAMAGED)


DAMAGED = {
    "deep.json": '{"slide": {}, "regions": ' + "[" * 100_000,
    "lacks.json": '{"slide": {}, "regions": [], "format_version": 2}',
    "nan.json": '{"slide": {}, "regions": [{"x": NaN}]}',
    "types.json": '{"slide": {}, "regions": [1, null, "x"], "format_version": 2}',
    "twice.json": '{"slide": {}, "slide": {}, "regions": []}',
    "cut.json": '{"slide": {"id"',
    "huge.json": '{"slide": {}, "regions": [{"x": 1' + "0" * 400 + ', "y": 1}]}',
    "bytes.json": "\udcff\udcfe{}",
}


def damage(out: Path) -> None:
    for name, content in DAMAGED.items():
        (out / name).write_bytes(os.fsencode(content))


def test_the_viewer_serves_slides_and_failures(
    parfocal: Callable[..., CommandResult], run: Path, slides: list[Path], tmp_path: Path
):
    out = tmp_path / "out"
    parfocal("predict", run, slides[0], slides[1], "--out", out)
    with running(load_library([out, *slides])) as server:
        content = server.json("/api/slides")
        assert [failed["id"] for failed in content["failed"]] == ["pipe"]
        assert {slide["id"] for slide in content["slides"]} == {"caf%E9", "good"}
        assert len(content["problems"]) == len(BAD)  # a folder without predictions is no problem
        for slide in content["slides"]:
            assert server.request(f"/thumbnails/{slide['key']}")[0].status == 200
            for prediction in slide["predictions"]:
                url = f"/api/slides/{slide['key']}/predictions/{prediction['key']}"
                assert server.json(url)["slide"]["path"] == str(slides[0])


def test_inspect(parfocal: Callable[..., CommandResult], slides: list[Path]):
    found = parfocal("inspect", *slides, "--json")
    assert found.code == 1
    assert [report["id"] for report in json.loads(found.out)] == ["caf%E9", "good"]
    assert "unexpected" not in found.err
    assert f"{len(BAD) + 1} of {len(slides)} slides failed" in found.err


@pytest.fixture
def table(slides: list[Path], cohort: Path) -> Path:
    """The bad slides in a table, which is in UTF-8, with those of the cohort."""
    with cohort.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    rows = [(name, str(cohort.parent / path), *rest) for name, path, *rest in rows]
    bad = [(path.stem[:20], path.name, "tumor", "test") for path in slides[1:-1]]
    return write_table(slides[0].parent / "cohort.csv", tuple(header), *rows, *bad)


def names_of_bad() -> set[str]:
    return {name[:20] for name in expected_failures()}


@pytest.mark.slow
def test_extract(parfocal: Callable[..., CommandResult], table: Path, tmp_path: Path):
    found = parfocal("extract", table, "--out", tmp_path / "out", *TINY, "--patch-size", "64")
    assert found.code == 1
    assert "12 slides extracted" in found.out
    assert "unexpected" not in found.err
    assert f"{len(BAD) + 1} of {12 + len(BAD) + 1} slides failed" in found.err


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_evaluate_and_audit(
    parfocal: Callable[..., CommandResult], run: Path, table: Path, tmp_path: Path, command: str
):
    found = parfocal(command, run, table, "--out", tmp_path / "out")
    assert found.code == 1
    name = "metrics.json" if command == "evaluate" else "audit.json"
    failed = json.loads((tmp_path / "out" / name).read_text())["failed"]
    assert {each["slide_id"] for each in failed} == names_of_bad()
    assert "unexpected" not in found.err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "compare"])
def test_train_and_compare_go_on_without_bad_slides_only_if_they_may(
    parfocal: Callable[..., CommandResult], table: Path, tmp_path: Path, command: str
):
    text = table.read_text().replace("tumor,test", "tumor,train")
    table.write_text(text)
    options = ["--epochs", "1", "--set", "slide.patch_size=64", "--device", "cpu"]
    if command == "train":
        options += [*TINY, "--set", "model.k=2"]
    else:
        options += ["--models", "mean", "--encoder", "tiny", "--timed-slides", "0"]
    found = parfocal(command, table, "--out", tmp_path / "out", *options)
    assert found.code == 1
    assert not list((tmp_path / "out").rglob("metrics.csv"))
    options += ["--skip-unreadable"]
    found = parfocal(command, table, "--out", tmp_path / "out", *options)
    assert found.code == 0, found.err
    (summary,) = (tmp_path / "out").rglob("summary.json")
    assert set(json.loads(summary.read_text())["failed"]) == names_of_bad()


def test_a_url_that_cannot_be_used_fails_as_one_slide(parfocal, run, slide, tmp_path):
    urls = ("http://127.0.0.1:1/", "file:///a.tif")
    for command in (("inspect",), ("predict", run)):
        out = ("--out", tmp_path / "out") if command[0] == "predict" else ()
        result = parfocal(*command, *urls, slide, *out)
        assert result.code == 1
        assert result.out.startswith("one")
        assert "parfocal: 2 of 3 slides failed:" in result.err
        assert "parfocal: http://127.0.0.1:1/: the URL names no host or no file" in result.err
        assert "parfocal: file:///a.tif: slides are not read from file://" in result.err
        alone = parfocal(*command, urls[0], *out)
        assert (alone.code, alone.err.count("names no host")) == (1, 1)


def test_a_cohort_given_to_predict_is_refused(parfocal, run, cohort, tmp_path):
    result = parfocal("predict", run, cohort, "--out", tmp_path / "out")
    assert result.code == 2
    assert (
        "predict takes slides or folders of slides; for a cohort, use `parfocal eval" in result.err
    )
    assert not (tmp_path / "out").exists()


def test_the_last_line_names_the_exports_as_they_are_written(parfocal, run, slide, tmp_path):
    out = tmp_path / "out"
    result = parfocal("predict", run, slide, "--out", out, "--geojson", "--overlay")
    written = f"wrote predictions.csv, and .json, .png, .geojson, .ome.tif per slide, to {out}"
    assert written in result.err
    assert {"one.json", "one.png", "one.geojson", "one.ome.tif"} <= {p.name for p in out.iterdir()}
