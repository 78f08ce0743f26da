from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parfocal.dataset import Cohort
from parfocal.models.checkpoint import Checkpoint, CheckpointError
from parfocal.settings import RunSettings
from parfocal.train import RunError, RunSummary, train
from parfocal.train.warm_start import load_start


def taught(
    cohort: Cohort, settings: RunSettings, out: Path, **train_settings: object
) -> RunSummary:
    settings = replace(settings, train=replace(settings.train, **train_settings))
    features = cohort.source.parent / "features"
    return train(cohort, settings, out, features=features, device="cpu", progress=False)


@pytest.fixture
def first(cohort, settings, tmp_path) -> Path:
    """A run to start from, which learned from half of the cohort."""
    half = replace(cohort, slides=cohort.slides[:10])
    taught(half, settings, tmp_path / "first", epochs=1)
    return tmp_path / "first"


@pytest.mark.parametrize("refit", [False, True])
def test_a_run_starts_from_the_weights_of_another(cohort, settings, tmp_path, first, refit):
    still = {"epochs": 1, "learning_rate": 1e-12, "refit": refit}
    taught(cohort, settings, tmp_path / "second", start=first, **still)
    weights = Checkpoint.load(first).model.state_dict()
    learned = Checkpoint.load(tmp_path / "second").model.state_dict()
    assert all(torch.allclose(learned[name], weights[name], atol=1e-9) for name in weights)


def test_what_the_first_run_learned_from_is_known_to_have_been_seen(
    cohort, settings, tmp_path, first
):
    taught(cohort, settings, tmp_path / "second", start=first, epochs=1)
    before, after = (Checkpoint.load(tmp_path / name).training for name in ("first", "second"))
    for then, now in ((before.slides, after.slides), (before.patients, after.patients)):
        assert set(then["train"]) - set(now["val"]) <= set(now["train"])
    assert before.fingerprints.items() <= after.fingerprints.items()


def test_a_run_starts_from_one_of_the_same_model_only(cohort, settings, tmp_path, first):
    wider = replace(
        settings, model=replace(settings.model, arguments={**settings.model.arguments, "dim": 8})
    )
    with pytest.raises(
        RunError,
        match=r"train.init_from: the zoom_attention.0.gate.weight of that run is \[256, 16\], and of this one "
        r"\[256, 8\]; start from a run with the same settings of the model",
    ):
        taught(cohort, wider, tmp_path / "second", start=first)


def test_a_run_starts_from_one_of_the_same_labels_only(cohort, settings, tmp_path, first):
    other = replace(cohort, labels=("well", "ill"))
    with pytest.raises(RunError, match=r"labels of that run is \['ill', 'well'\], and of this"):
        taught(other, settings, tmp_path / "second", start=first)


def test_a_run_starts_from_one_of_the_same_encoder_only(cohort, settings, first):
    other = replace(Checkpoint.load(first).encoder, weights_hash="another")
    started = replace(settings, train=replace(settings.train, start=first))
    with pytest.raises(RunError, match=r"encoder of that run is EncoderSpec.*, and of this one"):
        load_start(started, cohort.labels, other)


def test_a_run_that_is_refused_its_start_leaves_no_folder(cohort, settings, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no checkpoint.json, so this is not"):
        taught(cohort, settings, tmp_path / "second", start=tmp_path / "nowhere")
    assert not (tmp_path / "second").exists()
