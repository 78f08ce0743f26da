"""Models of the Hub predict like the run they were made from, and send pixels nowhere."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.hub.conftest import FakeHub

from command_result import CommandResult
from parfocal.cli.parsing import with_local_runs
from parfocal.hub.fetch import fetch_run
from parfocal.hub.repository import HubError
from parfocal.models.checkpoint import Checkpoint, TrainingProvenance
from parfocal.models.description import CheckpointError
from parfocal.settings import load_settings
from parfocal.slide.identity import file_fingerprint
from small import write_table

Run = Callable[..., CommandResult]


@pytest.fixture
def published(parfocal: Run, hub: FakeHub, untrained: Checkpoint, tmp_path: Path) -> Path:
    """The folder on the Hub of a model whose run is in the folder `run`."""
    trained = replace(untrained, training=TrainingProvenance(0, 1, fingerprints={"a": "f" * 32}))
    trained.save(tmp_path / "run")
    assert parfocal("push", tmp_path / "run", "hf:lab/model", "--yes").code == 0
    return hub.folder / "lab" / "model"


@pytest.mark.usefixtures("published")
def test_predictions_are_those_of_the_run(parfocal: Run, tmp_path: Path, slide: Path):
    for name, run in (("here", tmp_path / "run"), ("there", "hf:lab/model")):
        result = parfocal("predict", run, slide, "--out", tmp_path / name)
        assert result.code == 0, result.err
    here, there = (
        json.loads((tmp_path / name / "one.json").read_text()) for name in ("here", "there")
    )
    assert there["prediction"] == here["prediction"]
    assert there["regions"] == here["regions"]
    assert there["model"] == here["model"]


@pytest.mark.usefixtures("published")
def test_a_model_of_the_hub_is_evaluated_as_on_another_cohort(
    parfocal: Run,
    tmp_path: Path,
    write_slide: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
):
    rows = []
    for number, label in enumerate(("normal", "tumor")):
        path = write_slide(tmp_path / f"{number}.tif", dark=number == 1, seed=number)
        rows.append((str(number), path.name, label))
    cohort = write_table(tmp_path / "cohort.csv", ("slide_id", "path", "label"), *rows)
    result = parfocal("evaluate", "hf:lab/model", cohort, "--out", tmp_path / "evaluation")
    assert result.code == 0, result.err
    assert "the run records no fingerprints" in caplog.text
    assert (tmp_path / "evaluation" / "report.html").exists()
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert (metrics["external"], metrics["slides"]["n"]) == (True, 2)


@pytest.mark.usefixtures("published")
def test_every_command_takes_a_model_of_the_hub_as_a_run(
    parfocal: Run, hub: FakeHub, tmp_path: Path, slide: Path
):
    assert parfocal("push", "hf:lab/model", tmp_path / "copy").code == 0
    copy, run = (Checkpoint.load(tmp_path / name) for name in ("copy", "run"))
    assert copy.weights_hash == run.weights_hash
    viewed = parfocal("view", "hf:lab/model", "--no-browser")
    assert viewed.code == 1
    assert "no predictions here" in viewed.err
    assert "hf:lab/model" not in viewed.err  # it was looked for in the folder
    predictions, pages = tmp_path / "predictions", tmp_path / "pages"
    assert parfocal("predict", "hf:lab/model", slide, "--out", predictions).code == 0
    made = parfocal("report", "hf:lab/model", predictions, "--patients", pages)
    assert made.code == 0, made.err
    (page,) = (each for each in pages.glob("*.html") if each.name != "index.html")
    assert "add the run folder to the command" not in page.read_text()
    missing = parfocal("view", "hf:lab/none", predictions)
    assert missing.code == 1
    assert "hf:lab/none" in missing.err
    assert hub.calls


@pytest.mark.usefixtures("published")
def test_a_teacher_and_an_initial_model_may_be_on_the_hub(hub: FakeHub):
    settings = load_settings(
        "coarse-student",
        overrides=["train.teacher=hf:lab/model", "train.init_from=hf:lab/model"],
    )
    train = with_local_runs(settings).train
    for run in (train.teacher, train.init_from):
        assert Checkpoint.load(run).model_name == "zoommil"
    assert with_local_runs(load_settings("abmil")) == load_settings("abmil")
    assert hub.calls


def test_training_slides_are_refused_if_their_fingerprints_were_published(
    parfocal: Run, hub: FakeHub, untrained: Checkpoint, slide: Path
):
    tmp_path = slide.parent
    training = TrainingProvenance(
        0, 1, slides={"train": ["x"]}, fingerprints={"x": file_fingerprint(slide)}
    )
    replace(untrained, training=training).save(tmp_path / "run")
    parfocal("push", tmp_path / "run", "hf:lab/model", "--yes", "--fingerprints")
    cohort = write_table(
        tmp_path / "cohort.csv", ("slide_id", "path", "label"), ("1", slide.name, "tumor")
    )
    result = parfocal("evaluate", "hf:lab/model", cohort, "--out", tmp_path / "evaluation")
    assert result.code == 1
    assert "1 of the 1 slides were used for training" in result.err
    assert hub.calls


def test_a_repository_without_a_model_is_an_error(hub: FakeHub):
    (hub.folder / "lab" / "model").mkdir(parents=True)
    with pytest.raises(HubError, match=r"hf:lab/model: it has no config\.json, so it is not"):
        fetch_run("hf:lab/model")


def test_a_pickle_in_place_of_the_weights_is_refused(published: Path):
    (published / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: these are not the weights"):
        Checkpoint.load(fetch_run("hf:lab/model"))


def change(published: Path, **values: object) -> None:
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("key", ["address", "name"])
@pytest.mark.parametrize("as_list", [False, True])
def test_a_model_that_names_a_service_is_refused(published: Path, key: str, as_list: bool):
    encoder = json.loads((published / "config.json").read_text())["encoder"]
    changed = encoder | {key: "http://example.org/"}
    change(published, encoder=[encoder, changed] if as_list else changed)
    with pytest.raises(HubError, match=r"service at 'http://example.org/', which would receive"):
        fetch_run("hf:lab/model")


@pytest.mark.parametrize("value", ["/etc/passwd", [None, "/etc/passwd"]])
def test_a_model_that_names_a_file_of_this_machine_is_refused(published: Path, value: object):
    change(published, encoder_weights=value)
    with pytest.raises(HubError, match="names a file with the encoder's weights on this machine"):
        fetch_run("hf:lab/model")


def test_a_damaged_description_is_refused(published: Path):
    (published / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        fetch_run("hf:lab/model")
