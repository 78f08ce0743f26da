"""A run folder written by format version 1 is read; see tests/fixtures/v1."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.evaluate.run import evaluate
from parfocal.explain.report import write_report
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import read_description
from parfocal.settings import RunSettings, load_run_settings
from parfocal.train import RunError, train

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v1"


@pytest.fixture
def version_1_settings() -> RunSettings:
    """The settings of the fixtures under their new names, without the labels of the cohort."""
    settings, _ = load_run_settings(FIXTURES / "run/settings.yaml")
    return replace(settings, train=replace(settings.train, labels=None))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "run", tmp_path / "run"))


@pytest.fixture
def published(cohort):
    """The cohort, with features of patches by the published rule, which version 1 means."""
    for path in (cohort.source.parent / "features").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["roots"] = "share"
    return cohort


def resume(cohort, settings: RunSettings, out: Path):
    features = cohort.source.parent / "features"
    return train(
        cohort, settings, out, features=features, device="cpu", resume=True, progress=False
    )


def test_the_fixtures_are_of_version_1():
    description = json.loads((FIXTURES / "run/checkpoint.json").read_text())
    assert description["format_version"] == 1
    assert "licence" in description["encoder"]
    assert load_run_settings(FIXTURES / "unfinished/settings.yaml")[1] == 1


def test_settings_get_their_new_names(version_1_settings):
    train_settings = version_1_settings.train
    assert (train_settings.monitor, train_settings.bf16) == ("weighted_f1", True)
    assert (train_settings.gradient_clip_norm, train_settings.epochs) == (5, 2)
    assert train_settings.logger == "csv"
    assert version_1_settings.slide.roots == "share"


def test_the_description_gets_the_new_names(run):
    description = read_description(run)
    assert "license" in description["encoder"]
    assert "licence" not in description["encoder"]


def test_a_model_of_version_1_predicts_with_the_published_rule(run):
    assert Checkpoint.load(run).slide.roots == "share"


def test_the_values_of_a_slide_get_their_new_names(run):
    path = run / "checkpoint.json"
    description = json.loads(path.read_text())
    description["slide"]["tissue"] = "grey"  # codespell:ignore grey
    path.write_text(json.dumps(description))
    assert Checkpoint.load(run).slide.tissue_method == "gray"


def test_the_model_predicts_as_before(run):
    trained = Checkpoint.load(run)
    coarse = torch.linspace(-1, 1, 6 * 32).reshape(6, 32).sin()
    sharp = torch.linspace(-2, 2, 24 * 32).reshape(24, 32).cos()
    with torch.no_grad():
        prediction = trained.model(StoredBag((coarse, sharp)))
    expected = torch.tensor([0.10441291332244873, 0.2816811203956604])
    torch.testing.assert_close(prediction.logits, expected, rtol=1e-6, atol=1e-6)
    assert [look.rows.tolist() for look in prediction.looks] == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3]]


def test_the_hash_of_the_weights_stays_that_of_the_file(run):
    description = json.loads((run / "checkpoint.json").read_text())
    assert Checkpoint.load(run).weights_hash == description["weights_sha256"]


def test_a_checkpoint_that_is_saved_again_has_version_2(run, tmp_path):
    old = Checkpoint.load(run)
    old.save(tmp_path / "again")
    new = Checkpoint.load(tmp_path / "again")
    assert json.loads((tmp_path / "again/checkpoint.json").read_text())["format_version"] == 2
    assert new.model_settings == old.model_settings
    weights = new.model.state_dict()
    assert all(torch.equal(each, weights[name]) for name, each in old.model.state_dict().items())


def test_a_run_is_evaluated_as_before(published, run, tmp_path):
    description = json.loads((run / "checkpoint.json").read_text())
    fingerprints = description["training"]["fingerprints"]  # those of the features made here
    fingerprints.update({slide_id: f"{slide_id:0>32}" for slide_id in fingerprints})
    (run / "checkpoint.json").write_text(json.dumps(description))
    evaluate(
        run,
        published.source,
        tmp_path / "evaluation",
        features=tmp_path / "features",
        device="cpu",
        resamples=20,
    )
    old, new = (
        list(csv.DictReader(path.read_text().splitlines()))
        for path in (FIXTURES / "run_predictions.csv", tmp_path / "evaluation/predictions.csv")
    )
    assert [row["slide_id"] for row in new] == [row["slide_id"] for row in old]
    for old_row, new_row in zip(old, new, strict=True):
        for column in ("prob_ill", "prob_well"):
            assert float(new_row[column]) == pytest.approx(float(old_row[column]), abs=2e-6)


def test_a_report_is_written(run, tmp_path):
    write_report((run,), tmp_path / "report.html")
    assert "Training: run" in (tmp_path / "report.html").read_text()


def test_a_finished_run_is_not_trained_again(cohort, version_1_settings, run):
    before = (run / "checkpoint.json").read_bytes()
    assert resume(cohort, version_1_settings, run).epochs == 2
    assert (run / "checkpoint.json").read_bytes() == before


def test_other_settings_than_those_of_the_run_are_refused(cohort, version_1_settings, run):
    other = replace(version_1_settings, train=replace(version_1_settings.train, monitor="loss"))
    message = r"the run in this folder has train\.monitor weighted_f1, not loss"
    with pytest.raises(RunError, match=message):
        resume(cohort, other, run)


def test_an_unfinished_run_is_refused(cohort, version_1_settings, tmp_path):
    out = Path(shutil.copytree(FIXTURES / "unfinished", tmp_path / "unfinished"))
    with pytest.raises(RunError, match=r"started by an earlier parfocal .* Finish it with the ear"):
        resume(cohort, version_1_settings, out)


def test_training_starts_from_a_run_of_version_1(published, version_1_settings, run, tmp_path):
    settings = replace(
        version_1_settings, train=replace(version_1_settings.train, init_from=run, epochs=1)
    )
    features = published.source.parent / "features"
    out = tmp_path / "second"
    train(published, settings, out, features=features, device="cpu", progress=False)
    assert set(Checkpoint.load(run).training.slides["train"]) <= set(
        Checkpoint.load(out).training.slides["train"]
    )
