"""Slides that are divided among threads, processes and actors have the results of one process."""

import json
import subprocess
import sys

import pytest

import worker_functions
from parfocal.distribute import engines
from parfocal.distribute.engines import ThreadEngine, WorkerEngine, one_slide_per_folder
from parfocal.distribute.pool import Row
from parfocal.distribute.processes import ProcessWorkers
from parfocal.distribute.worklist import Distribution, WorkList
from parfocal.encoders.loading import load_encoder
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.files import sweep_parts
from parfocal.predict.folder import FailedSlide, predict_slides

SETTINGS = SlideSettings((2.5, 10.0), 64)


@pytest.fixture(scope="module")
def slides(tmp_path_factory, write_slide):
    folder = tmp_path_factory.mktemp("slides")
    return [write_slide(folder / f"{n}.tif", dark=n == 1, seed=n) for n in range(3)]


def extract(slides, out, engine=None):
    files = [(path.stem, path, None) for path in slides]
    return extract_cohort(
        [*files, ("none", slides[0].with_name("none.tif"), None)],
        out,
        encoder=load_encoder("tiny"),
        load_encoders=worker_functions.load_tiny,
        settings=SETTINGS,
        distribution=Distribution(engine=engine),
    )


@pytest.fixture(scope="module")
def alone(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    extract(slides, out)
    return files_of(out)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def test_slides_in_flight_have_the_same_features(slides, alone, tmp_path):
    found = extract(slides, tmp_path, ThreadEngine(3))
    assert (found.done, list(found.failed)) == (("0", "1", "2"), ["none"])
    assert files_of(tmp_path) == alone


@pytest.mark.slow
def test_two_processes_extract_the_same_features(slides, alone, tmp_path, caplog):
    caplog.set_level("INFO")
    engine = WorkerEngine(ProcessWorkers(2), threads=1, description="two workers")
    found = extract(slides, tmp_path, engine)
    assert caplog.messages.count("two workers") == 1
    assert (found.done, list(found.failed)) == (("0", "1", "2"), ["none"])
    assert "no such file" in found.failed["none"]
    assert files_of(tmp_path) == alone


def records_of(folder):
    """Return the predictions in a folder without what depends on the timing of threads.

    Two threads of one slide that need the same tile at the same time both read it.
    """
    records = {}
    for path in sorted(folder.glob("*.json")):
        records[path.name] = json.loads(path.read_text())
        for key in ("seconds", "bytes_read", "requests", "share_bytes"):
            del records[path.name]["cost"][key]
    return records


@pytest.fixture(scope="module")
def predicted(slides, tmp_path_factory, untrained):
    out = tmp_path_factory.mktemp("predicted")
    list(predict_slides(slides, untrained, out, device="cpu"))
    return out


def test_slides_in_flight_have_the_same_predictions_and_bills(
    slides, untrained, predicted, tmp_path
):
    broken = slides[0].with_name("gone.tif")
    distribution = Distribution(engine=ThreadEngine(2))
    found = list(
        predict_slides(
            [*slides, broken], untrained, tmp_path, device="cpu", distribution=distribution
        )
    )
    assert [result.path for result in found if isinstance(result, FailedSlide)] == [broken]
    assert records_of(tmp_path) == records_of(predicted)
    table = (predicted / "predictions.csv").read_text()
    assert (tmp_path / "predictions.csv").read_text().startswith(table)


@pytest.mark.slow
def test_processes_with_slides_in_flight_have_the_same_predictions(
    slides, untrained, predicted, tmp_path
):
    engine = WorkerEngine(ProcessWorkers(2), threads=1, in_flight=2)
    found = list(
        predict_slides(
            slides, untrained, tmp_path, device="cpu", distribution=Distribution(engine=engine)
        )
    )
    assert len(found) == 3
    assert records_of(tmp_path) == records_of(predicted)
    again = list(
        predict_slides(
            slides, untrained, tmp_path, device="cpu", distribution=Distribution(engine=engine)
        )
    )
    assert {record.slide.id for record in again} == {"0", "1", "2"}


class Reading:
    """Work that reads slides of two folders."""

    def __init__(self, folder):
        self.items = ("a/1", "a/2", "b/1", "missing")
        self.folder = folder

    def find(self, item):
        return None

    def process(self, item):
        return item

    def slide_files(self, item):
        return (self.folder / f"{item}.tif",)


def test_workers_must_see_one_slide_of_each_folder(tmp_path):
    for item in ("a/1", "a/2", "b/1"):
        (tmp_path / item).parent.mkdir(exist_ok=True)
        (tmp_path / f"{item}.tif").touch()
    work = Reading(tmp_path)
    work_list = WorkList(tmp_path / "out", "reading", work)
    wanted = (tmp_path / "a" / "1.tif", tmp_path / "b" / "1.tif")
    assert one_slide_per_folder(work_list, work.items) == wanted


DIES = """
import os, sys
from pathlib import Path
from parfocal.distribute.claims import acquire
from parfocal.distribute.watch import Watch
from parfocal.files import part_path
out, claims = map(Path, sys.argv[1:])
for folder in (out, claims):
    part_path(folder / "any").touch()
assert acquire(claims / "ended", Watch(), item="ended")
assert acquire(claims / "not-ended", Watch(), item="not-ended")
os._exit(0)
"""


def test_what_a_killed_worker_leaves_is_removed_at_the_end(tmp_path, monkeypatch):
    work_list = WorkList(tmp_path, "reading", Reading(tmp_path))
    claims = work_list.folder / "claims"
    claims.mkdir(parents=True)
    for folder in (tmp_path, claims):
        sweep_parts(folder)  # not again in this process

    def killed(*_, **__):
        subprocess.run([sys.executable, "-c", DIES, tmp_path, claims], check=True)
        assert len([*tmp_path.glob(".*.part"), *claims.glob(".*.part")]) == 2
        yield Row("ended", None, died="killed by a test")

    monkeypatch.setattr(engines, "run_items", killed)
    monkeypatch.setattr(WorkList, "collect", lambda _, item, reason: item)
    assert list(WorkerEngine(ProcessWorkers(1)).attempt_all(work_list, ["ended"])) == ["ended"]
    assert not list(tmp_path.glob(".*.part"))
    assert [path.name for path in claims.iterdir()] == ["not-ended"]
