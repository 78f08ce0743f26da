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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "unknown train setting 'epoch'; known: epochs, patience,"),
        ("train.epoch=3", "Did you mean epochs?"),
        (
            "trian.epochs=3",
            "unknown section 'trian'; known: slide, encoder, model, train. Did you mean t",
        ),
        ("model.kk=3", "unknown zoommil setting 'kk'; known: dim, k, sigma"),
        ("model.num_magnifications=2", "unknown zoommil setting 'num_magnifications'"),
        (
            "model.name=zommil",
            "unknown model 'zommil'; known: zoommil, ",
        ),
        ("train.epochs=many", "train.epochs: 'many' is refused: input should be a valid integer"),
        (
            "train.epochs=0",
            "train.epochs: 0 is refused: input should be greater than or equal to 1",
        ),
        (
            "model.heads=triple",
            "model zoommil: heads='triple' is unknown",
        ),
        ("model.k=[3]", "model zoommil: k=[3] has 1 numbers, and 3 magnifications are 2 zooms"),
        ("slide.tissue=blue", "slide.tissue: 'blue' is refused"),
        ("slide.children=some", "slide.children: 'some' is refused"),
        ("encoder.runtime=gpu", "encoder.runtime: 'gpu' is refused"),
        ("slide.magnifications=10,2.5", "slide.magnifications: [10, 2.5] do not ascend"),
        ("slide.magnifications=[]", "slide.magnifications: [] do not ascend"),
        ("slide.magnifications=0,5", "slide.magnifications: [0, 5] do not ascend"),
        ("slide.magnifications=5,inf", "slide.magnifications: [5, inf] do not ascend"),
        ("slide.magnifications=5,12", "slide.magnifications: [5, 12] are not whole multiples"),
        ("slide.magnifications=5,6", "slide.magnifications: [5, 6] are not whole multiples"),
        ("slide.patch_size=0", "slide.patch_size: 0 pixels are no patch"),
        ("slide.min_tissue=10", "slide.min_tissue: 10 is no share; give one from 0 to 1."),
        ("slide.magnifications=a,b", "slide.magnifications.0: 'a' is refused"),
        ("train.epochs", "'train.epochs' is not section.key=value, as train.epochs=3."),
        ("epochs=3", "'epochs=3' is not section.key=value"),
        ("train.epochs=[", "'train.epochs=[': the value is not YAML"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(override, message):
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings("zoommil", overrides=[override])
    assert "\n" not in str(caught.value)


def test_a_model_of_one_magnification_refuses_several():
    with pytest.raises(
        SettingsError, match=r"\[5, 10\], and model mean looks at one only; give one"
    ):
        load_settings("mean", overrides=["slide.magnifications=5,10"])


def test_an_unknown_recipe_is_refused():
    with pytest.raises(
        SettingsError, match=r"unknown recipe 'zoomil'; known: abmil, .*Did you mean z"
    ):
        load_settings("zoomil")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("train: 3", "mine.yaml: settings stand in sections (slide, encoder, model, train)"),
        ("- 1", "settings stand in sections"),
        ("slide: {magnifications: [10]}", "no section model; a run needs it"),
        ("model: {name: mean}", "no section slide; a run needs it"),
        ("slide: {patch_size: 3}\nmodel: {name: mean}", "slide.magnifications"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read"):
        load_settings(tmp_path / "none.yaml")


def test_a_warm_up_without_a_cosine_is_refused():
    with pytest.raises(SettingsError, match=r"train\.warmup=0\.2 is of the cosine, and the sched"):
        load_settings("mean", overrides=["train.warmup=0.2"])
