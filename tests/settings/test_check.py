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
            "trian.epochs=3",
            "unknown section 'trian'; known: slide, encoder, model, train. Did you mean t",
        ),
        ("model.kk=3", "unknown zoommil setting 'kk'; known: dim, k, sigma"),
        ("model.num_magnifications=2", "unknown zoommil setting 'num_magnifications'"),
        (
            "model.name=zommil",
            "unknown model 'zommil'; known: zoommil, ",
        ),
        ("train.epochs=many", "train.epochs: 'many' is refused; give a whole number."),
        ("train.epochs=0", "train.epochs: 0 is refused; give 1 or more."),
        ("train.warmup=1", "train.warmup: 1 is refused; give less than 1."),
        ("train.lr_floor=2", "train.lr_floor: 2 is refused; give 1 or less."),
        ("train.learning_rate=0", "train.learning_rate: 0 is refused; give more than 0."),
        ("train.refit=maybe", "train.refit: 'maybe' is refused; give true or false."),
        ("train.betas=[0.9]", "train.betas: [0.9] is refused; give one value more."),
        ("train.betas=[0.9, 0.9, 0.9]", "train.betas: [0.9, 0.9, 0.9] is refused; give 2 values."),
        ("train.labels=[0, 1]", "train.labels: 0 is refused; give text, in quotes where it looks"),
        ("encoder.weights=3", "encoder.weights: 3 is refused; give a path."),
        ("model.k=abc", "model.k: 'abc' is refused; give a whole number or a list."),
        ("model.k=[4, abc]", "model.k: 'abc' is refused; give a whole number."),
        ("model.dropout=much", "model.dropout: 'much' is refused; give a number."),
        ("model.name=[zoommil]", "unknown model \"['zoommil']\"; known: zoommil, "),
        (
            "model.heads=triple",
            "model zoommil: heads='triple' is unknown",
        ),
        ("model.k=[3]", "model zoommil: k=[3] has 1 numbers, and 3 magnifications are 2 zooms"),
        ("model.dim=99999999999999999999", "model.dim: 99999999999999999999 is refused; give less"),
        ("train.seed=99999999999999999999", "train.seed: 99999999999999999999 is refused; give"),
        (
            "model.dim=0",
            "model zoommil: with dim=0, k=12, num_samples=100 it has a layer of no size",
        ),
        ("model.dim=-3", "model zoommil: with dim=-3, k=12, num_samples=100 it has a layer of no"),
        ("model.dim=9000000000000000000", "it has a layer of no size, or of none that there is"),
        ("slide.tissue=blue", "slide.tissue: 'blue' is refused; give 'otsu', 'gray' or 'all'."),
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
        ("slide.magnifications=a,b", "slide.magnifications: 'a' is refused; give a number."),
        ("train.epochs", "'train.epochs' is not section.key=value, as train.epochs=3."),
        ("epochs=3", "'epochs=3' is not section.key=value"),
        ("train.epochs=[", "'train.epochs=[': the value is not YAML"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(override, message):
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings("zoommil", overrides=[override])
    assert "\n" not in str(caught.value)


def told(name: str, override: str) -> str:
    """Give what is said of a setting, if it is refused."""
    try:
        load_settings(name, overrides=[override])
    except SettingsError as error:
        return str(error)
    return ""


def settings_of(name: str) -> list[str]:
    """Give all settings of a recipe as section.key, but the model's name."""
    sections = yaml.safe_load(load_settings(name).to_yaml())
    return [
        f"{section}.{key}"
        for section, values in sections.items()
        for key in values
        if (section, key) != ("model", "name")
    ]


@pytest.mark.parametrize("name", recipe_names())
def test_no_setting_of_any_model_is_refused_in_the_words_of_a_library(name):
    for setting in settings_of(name):
        for value in ("{a: 1}", "[[a]]", ".inf", "-.5", "2020-01-01"):
            said = told(name, f"{setting}={value}")
            assert not re.search(r"another value|[Ii]nput|\\.int|\\.float", said.partition(":")[2])


def test_a_model_of_one_magnification_refuses_several():
    with pytest.raises(
        SettingsError, match=r"\[5, 10\], and model mean looks at one only; give one"
    ):
        load_settings("mean", overrides=["slide.magnifications=5,10"])


def test_a_warm_up_without_a_cosine_is_refused():
    with pytest.raises(SettingsError, match=r"train\.warmup=0\.2 is of the cosine, and the sched"):
        load_settings("mean", overrides=["train.warmup=0.2"])
