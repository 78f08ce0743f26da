"""The rivals are taught by the loop that teaches ZoomMIL, and come back from their checkpoint."""

from dataclasses import replace

import pytest
import torch

from parfocal.dataset.inputs import StoredBags
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import load_settings
from parfocal.train import train

SEVERAL = ("dsmil-multiscale", "msmil")
SMALL = {
    "clam-mb": ["model.dim=16"],
    "transmil": ["model.dim=16", "model.heads=2"],
    "sparseconvmil": ["model.dim=8"],
    "dsmil-multiscale": ["model.query_dim=8"],
    "msmil": ["model.dim=16", "model.adversary_dim=8"],
}


def taught(cohort, out, recipe, *overrides, resume=False):
    settings = load_settings(
        recipe, overrides=["slide.patch_size=16", "encoder.name=tiny", *SMALL[recipe], *overrides]
    )
    magnifications = (2.5, 5.0) if recipe in SEVERAL else (5.0,)
    settings = replace(settings, slide=replace(settings.slide, magnifications=magnifications))
    features = cohort.source.parent / "features"
    train(cohort, settings, out, features=features, device="cpu", progress=False, resume=resume)
    return Checkpoint.load(out)


@pytest.mark.parametrize("recipe", SMALL)
def test_a_rival_is_trained_and_answers_from_its_checkpoint(cohort, tmp_path, recipe):
    trained = taught(cohort, tmp_path / "run", recipe, "train.epochs=1")
    bags = StoredBags(tmp_path / "features", trained.slide, encoder=trained.encoder)
    with bags.open(cohort.slides[0]) as opened, torch.no_grad():
        prediction = trained.model(opened.given)
    assert prediction.logits.isfinite().all()
    assert len(prediction.looks) == len(trained.magnifications)


def test_an_adversary_is_as_wide_as_there_are_slides_and_is_told_which(
    cohort, tmp_path, monkeypatch
):
    told = []
    monkeypatch.setattr("parfocal.models.MSMIL.set_slide", lambda self, slide: told.append(slide))
    overrides = ("train.epochs=1", "model.adversarial=true")
    trained = taught(cohort, tmp_path / "run", "msmil", *overrides)
    slides = trained.training.slides
    assert trained.model_settings["num_slides"] == len(slides["train"]) + len(slides["val"])
    assert len(told) == len(slides["train"])
    assert set(told) <= set(range(len(slides["train"])))


def test_looking_ahead_survives_a_stop(cohort, tmp_path, monkeypatch):
    overrides = ("train.epochs=2", "train.accumulate_grad_batches=1")
    whole = taught(cohort, tmp_path / "whole", "transmil", *overrides)
    with monkeypatch.context() as patch:
        patch.setattr("parfocal.train.folder.RunFolder.write_epochs", _cut_after(1))
        with pytest.raises(OSError, match="power cut"):
            taught(cohort, tmp_path / "cut", "transmil", *overrides)
    again = taught(cohort, tmp_path / "cut", "transmil", *overrides, resume=True)
    assert again.weights_hash == whole.weights_hash


def _cut_after(epochs):
    def write_epochs(self, name, history):
        if len(history) > epochs:
            raise OSError("power cut")

    return write_epochs
