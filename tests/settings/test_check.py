import re

import pytest
import yaml

from parfocal.settings import SettingsError, load_settings, recipe_names


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "unknown train setting 'epoch'; known: epochs, patience,"),
        ("train.epoch=3", "Did you mean epochs?"),
        (
            "trains.epochs=3",
            "unknown section 'trains'; known: slide, encoder, model, train. Did you mean t",
        ),
        ("model.kk=3", "unknown zoommil setting 'kk'; known: dim, k, sigma"),
        ("model.num_magnifications=2", "unknown zoommil setting 'num_magnifications'"),
        (
            "model.name=zommil",
            "unknown model 'zommil'; known: zoommil, ",
        ),
        ("train.epochs=many", "train.epochs: 'many' is invalid; use a whole number."),
        ("train.epochs=0", "train.epochs: 0 is invalid; use 1 or more."),
        ("train.warmup=1", "train.warmup: 1 is invalid; use less than 1."),
        ("train.lr_floor=2", "train.lr_floor: 2 is invalid; use 1 or less."),
        ("train.learning_rate=0", "train.learning_rate: 0 is invalid; use more than 0."),
        ("train.refit=maybe", "train.refit: 'maybe' is invalid; use true or false."),
        ("train.betas=[0.9]", "train.betas: [0.9] is invalid; use one more value."),
        ("train.betas=[0.9, 0.9, 0.9]", "train.betas: [0.9, 0.9, 0.9] is invalid; use 2 values."),
        ("encoder.weights=3", "encoder.weights: 3 is invalid; use a path or values by"),
        ("model.k=abc", "model.k: 'abc' is invalid; use a whole number or a list."),
        ("model.k=[4, abc]", "model.k: 'abc' is invalid; use a whole number."),
        ("model.dropout=much", "model.dropout: 'much' is invalid; use a number."),
        ("model.name=[zoommil]", "unknown model \"['zoommil']\"; known: zoommil, "),
        (
            "model.heads=triple",
            "model zoommil: heads='triple' is unknown",
        ),
        ("model.k=[3]", "model zoommil: k=[3] has 1 numbers, but 3 magnifications have 2 zooms"),
        (
            "model.dim=99999999999999999999",
            "model.dim: 99999999999999999999 is too large; use less",
        ),
        ("train.seed=99999999999999999999", "train.seed: 99999999999999999999 is too large; use"),
        (
            "model.dim=0",
            "model zoommil: one of dim=0, k=12, num_samples=100 is not a valid size of a layer",
        ),
        ("model.dim=-3", "model.dim: -3 is invalid; it cannot be negative."),
        ("model.dim=9000000000000000000", "is not a valid size of a layer; correct it."),
        (
            "slide.tissue_method=blue",
            "slide.tissue_method: 'blue' is invalid; use 'otsu', 'gray' or 'all'.",
        ),
        ("slide.children=some", "slide.children: 'some' is invalid"),
        ("encoder.runtime=gpu", "encoder.runtime: 'gpu' is invalid"),
        ("slide.magnifications=10,2.5", "slide.magnifications: [10, 2.5] do not ascend"),
        ("slide.magnifications=[]", "slide.magnifications: [] do not ascend"),
        ("slide.magnifications=0,5", "slide.magnifications: [0, 5] do not ascend"),
        ("slide.magnifications=5,inf", "slide.magnifications: 'inf' is invalid; use a finite"),
        (
            "slide.magnifications=5,12",
            "slide.magnifications: [5, 12] must each be a whole multiple",
        ),
        ("slide.magnifications=5,6", "slide.magnifications: [5, 6] must each be a whole multiple"),
        ("slide.patch_size=0", "slide.patch_size: 0 is not in 1..16384; 256 is usual."),
        ("slide.min_tissue=10", "slide.min_tissue: 10 is not in 0..1"),
        ("slide.magnifications=a,b", "slide.magnifications: 'a' is invalid; use a number."),
        (
            "slide.magnifications=2.5-20",
            "slide.magnifications: '2.5-20' is a range, but model zoommil needs a list, such as",
        ),
        ("train.epochs", "'train.epochs' is not SECTION.KEY=VALUE; write it as model.k=10."),
        ("epochs=3", "'epochs=3' is not SECTION.KEY=VALUE"),
        ("train.epochs=[", "'train.epochs=[': the value is not YAML"),
        ("train.labels=[<5%, >=5%]", "put texts with special characters in quotes, as in ['<5%',"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(override, message):
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings("zoommil", overrides=[override])
    assert "\n" not in str(caught.value)


def refusal(name: str, override: str) -> str:
    """Return the error message for a setting; empty if the setting is valid."""
    try:
        load_settings(name, overrides=[override])
    except SettingsError as error:
        return str(error)
    return ""


def settings_of(name: str) -> list[str]:
    """Return all settings of a recipe as section.key, without model.name."""
    sections = yaml.safe_load(load_settings(name).to_yaml())
    return [
        f"{section}.{key}"
        for section, values in sections.items()
        for key in values
        if (section, key) != ("model", "name")
    ]


@pytest.mark.parametrize("name", recipe_names())
def test_messages_about_settings_do_not_quote_a_library(name):
    for setting in settings_of(name):
        if not setting.startswith("model.") and name != recipe_names()[0]:
            continue  # all recipes have these
        for value in ("{a: 1}", "[[a]]", ".inf", "-.5", "2020-01-01"):
            message = refusal(name, f"{setting}={value}").partition(":")[2]
            assert not re.search(r"another value|[Ii]nput|\\.int|\\.float", message)


def test_a_model_of_one_magnification_refuses_several():
    message = r"\[5, 10\], but model mean uses one magnification; give one"
    with pytest.raises(SettingsError, match=message):
        load_settings("mean", overrides=["slide.magnifications=5,10"])


def test_a_warm_up_without_a_cosine_is_refused():
    message = r"train\.warmup=0\.2 has no effect with schedule 'plateau'; set schedule=cosine"
    with pytest.raises(SettingsError, match=message):
        load_settings("mean", overrides=["train.warmup=0.2"])


def test_a_model_that_takes_pixels_refuses_an_encoder():
    message = r"encoder: model jsma takes pixels and has its own network \(model\.backbone\)"
    with pytest.raises(SettingsError, match=message):
        load_settings("jsma", overrides=["encoder.name=tiny"])


@pytest.mark.parametrize("override", ["train.batch_size=2", "train.augment=true"])
def test_batches_and_augmentation_are_refused_for_a_model_that_takes_features(override):
    message = "model mean trains on the features of one slide at a time; remove it"
    with pytest.raises(SettingsError, match=message):
        load_settings("mean", overrides=[override])


@pytest.mark.parametrize("model", ["abmil", "jsma"])
def test_random_budgets_are_refused_for_a_model_that_does_not_zoom_into_patches(model):
    with pytest.raises(SettingsError, match="does not zoom into patches, so it has no budget"):
        load_settings(model, overrides=["train.random_budgets=true"])
    settings = load_settings("zoommil", overrides=["train.random_budgets=true"])
    assert settings.train.random_budgets
