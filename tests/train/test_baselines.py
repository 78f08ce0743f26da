"""The baselines are trained by the same loop as ZoomMIL and loaded from their checkpoint."""

from dataclasses import replace

import pytest
import torch

from parfocal.dataset.inputs import StoredInputs
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import load_settings
from parfocal.train import train

MULTISCALE = ("dsmil-multiscale", "msmil")
SMALL = {
    "clam-mb": ["model.dim=16"],
    "transmil": ["model.dim=16", "model.num_heads=2"],
    "sparseconvmil": ["model.dim=8"],
    "dsmil-multiscale": ["model.query_dim=8"],
    "msmil": ["model.dim=16", "model.adversary_dim=8"],
}


def run_training(cohort, out, recipe, *overrides, resume=False):
    settings = load_settings(
        recipe, overrides=["slide.patch_size=16", "encoder.name=tiny", *SMALL[recipe], *overrides]
    )
    magnifications = (2.5, 5.0) if recipe in MULTISCALE else (5.0,)
    settings = replace(settings, slide=replace(settings.slide, magnifications=magnifications))
    features = cohort.source.parent / "features"
    train(cohort, settings, out, features=features, device="cpu", progress=False, resume=resume)
    return Checkpoint.load(out)


@pytest.mark.parametrize("recipe", SMALL)
def test_a_baseline_is_trained_and_predicts_from_its_checkpoint(cohort, tmp_path, recipe):
    trained = run_training(cohort, tmp_path / "run", recipe, "train.epochs=1")
    inputs = StoredInputs(tmp_path / "features", trained.slide, encoder=trained.encoders)
    with inputs.open(cohort.slides[0]) as slide_input, torch.no_grad():
        prediction = trained.model(slide_input.model_input)
    assert prediction.logits.isfinite().all()
    assert len(prediction.looks) == len(trained.magnifications)


def test_an_adversary_has_one_output_per_slide_and_gets_the_position_of_each_slide(
    cohort, tmp_path, monkeypatch
):
    positions = []
    monkeypatch.setattr(
        "parfocal.models.MSMIL.set_slide", lambda self, slide: positions.append(slide)
    )
    overrides = ("train.epochs=1", "model.adversarial=true")
    trained = run_training(cohort, tmp_path / "run", "msmil", *overrides)
    slides = trained.training.slides
    assert trained.model_settings["num_slides"] == len(slides["train"]) + len(slides["val"])
    assert len(positions) == len(slides["train"])
    assert set(positions) <= set(range(len(slides["train"])))


@pytest.mark.slow
def test_lookahead_continues_after_an_interruption(cohort, tmp_path, monkeypatch):
    overrides = ("train.epochs=2", "train.accumulate_grad_batches=1")
    whole = run_training(cohort, tmp_path / "whole", "transmil", *overrides)
    with monkeypatch.context() as patch:
        patch.setattr("parfocal.train.folder.RunFolder.write_epochs", _fail_after(1))
        with pytest.raises(OSError, match="power cut"):
            run_training(cohort, tmp_path / "cut", "transmil", *overrides)
    again = run_training(cohort, tmp_path / "cut", "transmil", *overrides, resume=True)
    assert again.weights_hash == whole.weights_hash


def _fail_after(epochs):
    def write_epochs(self, name, history):
        if len(history) > epochs:
            raise OSError("power cut")

    return write_epochs
