"""Slides that are divided among threads, processes and actors have the results of one process."""

import json

import pytest

import worker_functions
from parfocal.distribute.engines import ThreadEngine, WorkerEngine
from parfocal.distribute.processes import ProcessWorkers
from parfocal.distribute.worklist import Distribution
from parfocal.encoders.loading import load_encoder
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
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


def test_two_processes_extract_the_same_features(slides, alone, tmp_path):
    found = extract(slides, tmp_path, WorkerEngine(ProcessWorkers(2), threads=1))
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
