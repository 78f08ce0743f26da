"""What encoders of the catalog add to a feature file and to a checkpoint."""

import json
from dataclasses import replace

import h5py
import pytest
import torch

from parfocal.encoders.catalog import CARDS
from parfocal.encoders.encoder import NetworkEncoder
from parfocal.encoders.loading import load_encoder
from parfocal.features.errors import MixedFeaturesError
from parfocal.features.extract import extract_slide
from parfocal.features.store import FeatureFile
from parfocal.models.checkpoint import Checkpoint

LATER = {"resize_px", "output", "prefix_tokens", "patch_px", "precision"}
CROPPED = {"resize_px": 72, "patch_px": 16, "precision": "bf16"}


def cropping(encoder):
    """Return an encoder that crops the center of its patches."""
    return NetworkEncoder(replace(encoder.spec, **CROPPED), encoder.network)


def test_a_feature_file_keeps_how_patches_were_prepared(slide, grid, encoder, settings, tmp_path):
    path, made_by = tmp_path / "a.h5", cropping(encoder)
    extract_slide(slide, grid, made_by, path, settings=settings)
    stored = FeatureFile(path)
    assert stored.encoders[0] == made_by.spec
    with h5py.File(path) as file:
        assert file.attrs["encoder_resize_px"] == 72
        assert file.attrs["encoder_precision"] == "bf16"
        assert "encoder_output" not in file.attrs  # as in files of encoders without tokens
    with pytest.raises(
        MixedFeaturesError, match=r"72 px bilinear, center 64 px, .* now it is 64 px"
    ):
        stored.check(encoder.spec, settings)


def test_a_file_of_an_encoder_of_before_is_unchanged(slide, grid, encoder, settings, tmp_path):
    extract_slide(slide, grid, encoder, tmp_path / "a.h5", settings=settings)
    with h5py.File(tmp_path / "a.h5") as file:
        assert not {f"encoder_{name}" for name in LATER} & set(file.attrs)


def test_a_checkpoint_keeps_how_patches_were_prepared(untrained, tmp_path):
    before = untrained.settings_hash
    spec = replace(untrained.encoders[0], **CROPPED)
    changed = replace(untrained, encoders=(spec,) * 2)
    changed.save(tmp_path)
    loaded = Checkpoint.load(tmp_path)
    assert loaded.encoders == changed.encoders
    assert loaded.settings_hash == changed.settings_hash != before
    untrained.save(tmp_path / "old")
    stored = json.loads((tmp_path / "old" / "checkpoint.json").read_text())["encoder"]
    assert not LATER & set(stored)


def test_a_run_loads_the_output_it_was_trained_with(untrained, monkeypatch):
    asked = []

    def load(name, **settings):
        asked.append((name, settings["output"], settings["trust_remote_code"]))
        spec = replace(CARDS["virchow2"].spec("cls", weights_hash="0" * 16))
        return NetworkEncoder(spec, torch.nn.Identity())

    monkeypatch.setattr("parfocal.models.trained_encoders.load_encoder", load)
    spec = CARDS["virchow2"].spec("cls", weights_hash="0" * 16)
    trained = replace(untrained, encoders=(spec,) * 2, trust_remote_code=True)
    trained.load_encoders()
    assert asked == [("virchow2", "cls", True)]


def test_a_run_whose_encoder_was_not_made_for_a_magnification_is_a_warning(untrained, caplog):
    spec = replace(load_encoder("tiny").spec, mpp_range=(0.4, 0.6))
    replace(untrained, encoders=(spec,) * 2).load_encoders()
    assert "tiny was made for 0.4 to 0.6 µm/px, and 2.5x has 4: expect worse" in caplog.text
