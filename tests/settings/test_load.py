import re
from pathlib import Path

import pytest
import yaml

from parfocal.models import MODELS
from parfocal.settings import SettingsError, load_settings, recipe_names


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_makes_a_run(name):
    settings = load_settings(name)
    assert settings.model.name in MODELS
    assert settings.train.seed == 0


def test_the_published_recipe_is_the_published_model():
    settings = load_settings("zoommil")
    assert settings.slide.magnifications == (1.25, 2.5, 10)
    assert settings.slide.children == "tissue"
    model = settings.model.arguments
    assert (model["k"], model["sigma"], model["num_samples"], model["dropout"]) == (
        12,
        2e-3,
        100,
        0.25,
    )
    assert (model["dim"], model["heads"], model["scale_free"]) == (512, "dual", False)
    assert (settings.train.learning_rate, settings.train.epochs) == (1e-4, 100)


def test_a_later_setting_takes_precedence(tmp_path):
    config = written(tmp_path, "train: {epochs: 2, seed: 2, patience: 2}\nmodel: {k: 2}")
    settings = load_settings(
        "zoommil",
        config,
        ["train.epochs=3", "train.seed=3"],
        {"train.epochs": 4, "train.folds": None},
    )
    train = settings.train
    assert (train.epochs, train.seed, train.patience, train.lr_patience) == (4, 3, 2, 5)
    assert settings.model.arguments["k"] == 2
    assert train.folds is None


def test_another_model_starts_from_its_own_defaults(tmp_path):
    config = written(tmp_path, "model: {name: mean}\nslide: {magnifications: [10]}")
    assert load_settings("zoommil", config).model.arguments == {"dim": 512, "dropout": 0.25}


def test_settings_are_read_as_they_were_written(tmp_path):
    settings = load_settings("zoommil-scalefree", overrides=["encoder.weights=a.pth"])
    path = written(tmp_path, settings.to_yaml())
    assert load_settings(path) == settings
    assert yaml.safe_load(settings.to_yaml())["model"]["heads"] == "dual"


def test_an_unknown_recipe_is_refused():
    with pytest.raises(
        SettingsError, match=r"unknown recipe 'zoomil'; known: abmil, .*Did you mean z"
    ):
        load_settings("zoomil")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "mine.yaml, line 1: not YAML (expected the node content, but found"),
        ("a: 1\n\0", "mine.yaml: not text (unacceptable character"),
        ("model:\n\tname: mean", "mine.yaml, line 2: indented with a tab; use spaces."),
        ("", "mine.yaml: the file is empty; write sections (slide, encoder, model, train) with"),
        ("# all in comments", "mine.yaml: the file is empty"),
        ("train: 3", "mine.yaml: train has no keys; write sections"),
        ("train:\nmodel: {name: mean}", "mine.yaml: train has no keys"),
        ("model: mean", "mine.yaml: model has no keys"),
        (
            "train: {epochs: 3}\nmodel: {k: 1}\ntrain: {seed: 2}",
            "line 3: not YAML (the key train is",
        ),
        ("train:\n  epochs: 3\n  epochs: 4", "line 3: not YAML (the key epochs is there twice)"),
        ("- 1", "mine.yaml: the file holds a list; write sections"),
        ("zoommil", "mine.yaml: the file holds a single value; write sections"),
        ("slide: {magnifications: [10]}", "mine.yaml: section model is missing; add it."),
        ("model: {name: mean}", "mine.yaml: section slide is missing; add it."),
        (
            "slide: {magnifications: [10]}\nmodel: {dim: 9}",
            "mine.yaml: model.name is missing; set it to one of zoommil, ",
        ),
        ("slide: {patch_size: 3}\nmodel: {name: mean}", "slide.magnifications is missing; add it."),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read"):
        load_settings(tmp_path / "none.yaml")
