"""Every command of every page runs, in the order of the page, on small slides and a small encoder.

What is left out, and why, is listed in `documentation.NOT_RUN`.
"""

import csv
import glob
import io
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import typer

from conftest import stained
from documentation import PAGES, commands_to_run
from parfocal import demo
from parfocal.cli import main
from parfocal.explain import viewer
from range_server import serve

pytestmark = pytest.mark.slow

SIDE, SLIDES = 2048, 16
TABLE = {  # columns of the cohort that the pages use, by the number of a slide
    "slide_id": lambda n: f"s{n:02}",
    "path": lambda n: f"slides/s{n:02}.svs",
    "label": lambda n: ("normal", "tumor")[n % 2],
    "patient_id": lambda n: f"p{n:02}",
    "age": lambda n: 40 + n,
    "sex": lambda n: "mf"[n // 2 % 2],
    "stage": lambda n: 1 + n % 3,
    "os_months": lambda n: 3 + n,
    "os_event": lambda n: int(n % 3 > 0),
    "gleason": lambda n: ("benign", "3+3", "4+4")[n % 3],
    "ki67": lambda n: 0.1 * (n % 7),
    "tmb": lambda n: 1.0 + n % 5,
    "msi": lambda n: ("MSS", "MSI")[n // 2 % 2],
    "grade": lambda n: n % 3,
}
# Options that make a documented command fast; the command is otherwise run as it is shown.
FASTER = {
    "train": ("--epochs", "1", "--device", "cpu"),
    "compare": ("--epochs", "1", "--device", "cpu", "--timed-slides", "1"),
    "extract": (),
    "synth": ("--slides", "24"),
}
STAND_INS = (  # what the pages name, and what stands here
    (r" /(shared|local)/", r" {place}/\1/"),
    (r"https://slides\.example\.org/cohort/\S+", "{address}/s01.svs"),
    (r"20x_256px_0px_overlap", "10x_256px_0px_overlap"),
    (r"features_uni_v2", "features_tiny"),
    (r"clini\.xlsx", "clini.csv"),
)
SMALL_ENCODER = ("--encoder", "tiny")


def write_inputs(place: Path, write_slide: Callable[..., Path]) -> None:
    """Write the slides and tables that the pages start from."""
    for folder in ("slides", "new"):
        (place / folder).mkdir()
    for number in range(SLIDES):
        pixels = stained(SIDE, dark=number % 2 == 1, seed=number)
        write_slide(place / "slides" / f"s{number:02}.svs", pixels)
    write_slide(place / "slides" / "A.svs", stained(SIDE, dark=True, seed=SLIDES))
    write_slide(place / "new" / "009.svs", stained(SIDE, dark=True, seed=99))
    with (place / "cohort.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(TABLE)
        table.writerows([value(number) for value in TABLE.values()] for number in range(SLIDES))
    row = "A,slides/A.svs,tumor,pA,50,m,1,3,1,benign,0.1,1.0,MSS,0\n"
    (place / "all.csv").write_text((place / "cohort.csv").read_text() + row)  # as slides/*.svs
    names = [f"s{number:02}" for number in range(SLIDES)]
    patients = [
        f"p{name[1:]},{name},{40 + int(name[1:])},{'mf'[int(name[1:]) // 2 % 2]},1"
        for name in names
    ]
    head = "patient,slide,age,sex,stage"
    (place / "patients.csv").write_text("\n".join([head, *patients, "pA,A,50,m,1"]) + "\n")
    (place / "mine.yaml").write_text("model:\n  k: 2\n")
    targets = [f"P{name},{('MSI', 'MSS')[n % 2]}" for n, name in enumerate(names)]
    (place / "clini.csv").write_text("\n".join(["PATIENT,isMSIH", *targets]) + "\n")
    files = [f"P{name},{name}.svs" for name in names]
    (place / "slides.csv").write_text("\n".join(["PATIENT,FILENAME", *files]) + "\n")
    area = '{"type": "Polygon", "coordinates": [[[0, 0], [900, 0], [900, 2000], [0, 0]]]}'
    (place / "tissue").mkdir()
    for name in (*names, "A"):
        (place / "tissue" / f"{name}.geojson").write_text(area)


# Commands that make what a page takes for granted, by the folder that they write.
MADE = {
    "features": "extract cohort.csv --out features --magnifications 2.5,5,10",
    "job": "extract all.csv --out job --magnifications 2.5,10 --layout trident",
    "run": "train cohort.csv --out run --features features",
    "evaluation": "evaluate run cohort.csv --out evaluation --features features",
    "predictions": "predict run new/009.svs --out predictions",
}


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]
) -> Iterator[Path]:
    """A folder with slides, tables, features, a run, an evaluation and predictions."""
    place = tmp_path_factory.mktemp("documented")
    write_inputs(place, write_slide)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(demo, "QUICK", demo.Scale(slides=16, side=2048, encoder="tiny", epochs=1))
        for line in demo.run_demo(place / "demo-out", quick=True):
            assert "failed" not in line
        for command in MADE.values():
            run(f"parfocal {command}")
    yield place
    shutil.rmtree(place)


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder, in which the viewer ends at once."""
    copy = Path(shutil.copytree(prepared, tmp_path / "place"))
    monkeypatch.chdir(copy)
    monkeypatch.setattr(viewer, "serve", lambda *_, **__: None)
    monkeypatch.setattr(typer, "launch", lambda *_, **__: 0)
    monkeypatch.setattr(demo, "QUICK", demo.Scale(slides=16, side=2048, encoder="tiny", epochs=1))
    return copy


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands_to_run(page)], ids=lambda page: page.stem
)
def test_the_commands_of_a_page_run(page: Path, place: Path):
    table = (place / "cohort.csv").read_bytes()
    with serve(place / "slides") as served:
        for documented in commands_to_run(page):
            (place / "cohort.csv").write_bytes(table)  # `cohort convert` may have replaced it
            command = documented
            for pattern, stand_in in STAND_INS:
                here = stand_in.format(place=place, address=served.address)
                command = re.sub(pattern, here, command)
            run(command)


def run(command: str) -> None:
    """Run a command as documented, with options that make it fast."""
    words = [
        name
        for word in shlex.split(command)[1:]
        for name in (sorted(glob.glob(word)) or [word])  # noqa: PTH207
    ]
    make_room(words)
    words += faster(words)
    printed, problems = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(printed),
        redirect_stderr(problems),
    ):
        patch.setattr(sys, "argv", ["parfocal", *words])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code, f"{command}\n{problems.getvalue()}"


def faster(words: list[str]) -> list[str]:
    """Return the options that make a command fast: a small encoder, a single epoch."""
    added = list(FASTER.get(words[0], ()))
    if words[0] in ("train", "compare", "extract") and "--encoder" not in words:
        added += SMALL_ENCODER
    return [*added, *(("--workers", "2") if "--workers" in words else ())]


def make_room(words: list[str]) -> None:
    """Remove what is in the way of a command that writes to a new folder."""
    if "--submit" in words:
        return  # it writes a script into the folder
    out = words[words.index("--out") + 1] if "--out" in words else None
    if words[0] in ("synth", "demo") and "--help" not in words:
        out = words[1] if words[0] == "synth" else "demo-out"
    if out is not None and words[0] != "status" and Path(out).is_dir():
        shutil.rmtree(out)
