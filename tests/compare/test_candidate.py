import re
from pathlib import Path

import pytest

from parfocal.compare.candidate import ComparisonError, load_candidates, shared_slide_settings
from parfocal.settings import SettingsError


def test_an_override_applies_to_all_models_or_to_one():
    overrides = ["train.patience=3", "zoommil:model.k=2"]
    zooming, mean = load_candidates(
        ["zoommil", "mean"], overrides=overrides, epochs=5, encoder="tiny"
    )
    for candidate in (zooming, mean):
        assert candidate.settings.train.patience == 3
        assert candidate.settings.train.epochs == 5
        assert candidate.settings.encoder.name == "tiny"
    assert zooming.settings.model.arguments["k"] == 2


def test_patches_of_all_magnifications_are_extracted():
    candidates = load_candidates(["zoommil", "mean", "msmil"])
    assert shared_slide_settings(candidates).magnifications == (1.25, 2.5, 5, 10)


def test_a_yaml_file_is_compared_under_its_name(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("slide: {magnifications: [10]}\nmodel: {name: mean, dim: 8}\n")
    (candidate,) = load_candidates([str(path)])
    assert candidate.name == "mine"
    assert candidate.settings.model.arguments["dim"] == 8


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"unknown recipe 'transml'; known: .*abmil.*Did you m"):
        load_candidates(["abmil", "transml"])


def test_a_model_named_twice_is_refused():
    with pytest.raises(ComparisonError, match="mean is listed twice; list a model once"):
        load_candidates(["mean", "max", "mean"])


def test_a_setting_of_a_model_that_is_not_compared_is_refused():
    message = "--set zoomil:model.k=2: this model is not compared; the models are zoommil, mean."
    with pytest.raises(ComparisonError, match=re.escape(message)):
        load_candidates(["zoommil", "mean"], overrides=["zoomil:model.k=2"])


@pytest.mark.parametrize("setting", ["slide.min_tissue=0.5", "train.val_fraction=0.5"])
def test_models_with_different_slides_or_patches_are_refused(setting):
    key = setting.partition("=")[0]
    with pytest.raises(ComparisonError, match=rf"{key} is 0\.\d+ for max and 0\.5 for mean, so"):
        load_candidates(["max", "mean"], overrides=[f"mean:{setting}"])
