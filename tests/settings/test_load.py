import re
from pathlib import Path

import pytest
import yaml

from parfocal.models import MODELS
from parfocal.settings import SettingsError, load_settings, recipe_names, recipes


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


def test_what_comes_later_wins(tmp_path):
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


def test_values_on_a_command_line_are_read_as_yaml():
    settings = load_settings(
        "zoommil",
        overrides=[
            "slide.magnifications=2.5,10",
            "model.k=[4]",
            "train.labels=[b, a]",
            "encoder.weights=lite0.pth",
            "train.refit=true",
            "train.learning_rate=1e-3",
        ],
    )
    assert settings.slide.magnifications == (2.5, 10)
    assert settings.model.arguments["k"] == [4]
    assert settings.train.labels == ("b", "a")
    assert settings.encoder.weights == Path("lite0.pth")
    assert (settings.train.refit, settings.train.learning_rate) == (True, 1e-3)


def test_another_model_starts_from_its_own_defaults(tmp_path):
    config = written(tmp_path, "model: {name: mean}\nslide: {magnifications: [10]}")
    assert load_settings("zoommil", config).model.arguments == {"dim": 512, "dropout": 0.25}


def test_settings_are_read_as_they_were_written(tmp_path):
    settings = load_settings("zoommil-scalefree", overrides=["encoder.weights=a.pth"])
    path = written(tmp_path, settings.to_yaml())
    assert load_settings(path) == settings
    assert yaml.safe_load(settings.to_yaml())["model"]["heads"] == "dual"


def test_the_documentation_lists_every_recipe():
    methods = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    section = methods.partition("## Recipes")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", section, re.MULTILINE)) == recipes()


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
        ("model:\n\tname: mean", "mine.yaml, line 2: indented with a tab; take spaces."),
        ("", "mine.yaml: empty; settings stand in sections (slide, encoder, model, train), each"),
        ("# all in comments", "mine.yaml: empty"),
        ("train: 3", "mine.yaml: train has no keys; settings stand in sections"),
        ("train:\nmodel: {name: mean}", "mine.yaml: train has no keys"),
        ("model: mean", "mine.yaml: model has no keys"),
        ("- 1", "mine.yaml: a list; settings stand in sections"),
        ("zoommil", "mine.yaml: a single value; settings stand in sections"),
        ("slide: {magnifications: [10]}", "mine.yaml: no section model; a run needs it"),
        ("model: {name: mean}", "mine.yaml: no section slide; a run needs it"),
        (
            "slide: {magnifications: [10]}\nmodel: {dim: 9}",
            "mine.yaml: no model.name; give one of zoommil, ",
        ),
        ("slide: {patch_size: 3}\nmodel: {name: mean}", "slide.magnifications is missing; give"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read"):
        load_settings(tmp_path / "none.yaml")
