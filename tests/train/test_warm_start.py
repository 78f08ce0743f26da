from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parfocal.dataset import Cohort
from parfocal.models.checkpoint import Checkpoint, CheckpointError
from parfocal.settings import RunSettings
from parfocal.train import RunError, RunSummary, train
from parfocal.train.warm_start import load_initial_model


def run_training(
    cohort: Cohort, settings: RunSettings, out: Path, **train_settings: object
) -> RunSummary:
    settings = replace(settings, train=replace(settings.train, **train_settings))
    features = cohort.source.parent / "features"
    return train(cohort, settings, out, features=features, device="cpu", progress=False)


@pytest.fixture
def first(cohort, settings, tmp_path) -> Path:
    """A run to start from, trained on half of the cohort."""
    half = replace(cohort, slides=cohort.slides[:10])
    run_training(half, settings, tmp_path / "first", epochs=1)
    return tmp_path / "first"


@pytest.mark.parametrize("refit", [False, True])
def test_a_run_starts_from_the_weights_of_another(cohort, settings, tmp_path, first, refit):
    still = {"epochs": 1, "learning_rate": 1e-12, "refit": refit}
    run_training(cohort, settings, tmp_path / "second", init_from=first, **still)
    weights = Checkpoint.load(first).model.state_dict()
    trained = Checkpoint.load(tmp_path / "second").model.state_dict()
    assert all(torch.allclose(trained[name], weights[name], atol=1e-9) for name in weights)


def test_the_slides_of_the_first_run_are_recorded_in_the_second(cohort, settings, tmp_path, first):
    run_training(cohort, settings, tmp_path / "second", init_from=first, epochs=1)
    before, after = (Checkpoint.load(tmp_path / name).training for name in ("first", "second"))
    for then, now in ((before.slides, after.slides), (before.patients, after.patients)):
        assert set(then["train"]) - set(now["val"]) <= set(now["train"])
    assert before.fingerprints.items() <= after.fingerprints.items()


def test_the_first_run_must_have_the_same_model(cohort, settings, tmp_path, first):
    wider = replace(
        settings, model=replace(settings.model, arguments={**settings.model.arguments, "dim": 8})
    )
    with pytest.raises(
        RunError,
        match=r"train\.init_from: the attention\.0\.gate\.weight of that run is \[256, 16\], but "
        r"\[256, 8\] in this one; start from a run with the same model settings",
    ):
        run_training(cohort, wider, tmp_path / "second", init_from=first)


def test_the_first_run_must_have_the_same_labels(cohort, settings, tmp_path, first):
    other = replace(cohort, labels=("well", "ill"))
    with pytest.raises(
        RunError, match=r"labels of that run is \['ill', 'well'\], but \['well', 'ill'\] in"
    ):
        run_training(other, settings, tmp_path / "second", init_from=first)


def test_the_first_run_must_have_the_same_encoder(cohort, settings, first):
    other = [replace(each, weights_hash="another") for each in Checkpoint.load(first).encoders]
    warm = replace(settings, train=replace(settings.train, init_from=first))
    with pytest.raises(RunError, match=r"encoder of that run is EncoderSpec.*, but EncoderSpec"):
        load_initial_model(warm, cohort.labels, other)


def test_a_run_without_a_valid_first_run_leaves_no_folder(cohort, settings, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder; give the folder of a f"):
        run_training(cohort, settings, tmp_path / "second", init_from=tmp_path / "nowhere")
    assert not (tmp_path / "second").exists()
