import re

import pytest

from parfocal.settings import SettingsError, load_settings


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("slide.exclude_classes=Pen", "slide", "exclude_classes", ("Pen",)),
        ("slide.magnifications=10", "slide", "magnifications", (10.0,)),
        ("train.exclude_strata=macro", "train", "exclude_strata", ("macro",)),
        ("train.exclude_strata='2'", "train", "exclude_strata", ("2",)),
    ],
)
def test_a_single_value_for_a_list_is_a_list_of_one(override, section, key, value):
    settings = load_settings("abmil", overrides=[override])
    assert getattr(getattr(settings, section), key) == value


@pytest.mark.parametrize("override", ["slide.exclude_classes=Pen,Ink", "train.labels=a,b"])
def test_values_with_commas_are_refused_with_the_list_they_may_be(override):
    name, _, value = override.partition("=")
    message = f"{name}: {value!r} is not a list; write several values as [{value}]."
    with pytest.raises(SettingsError) as error:
        load_settings("abmil", overrides=[override])
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epochs=yes"], "train.epochs: true (also written yes or on) is invalid; use a"),
        (["train.learning_rate=off"], "train.learning_rate: false (also written no or off) is"),
        (["slide.magnifications=[5, true]"], "slide.magnifications: true (also written yes or on)"),
        (["model.k=true"], "model.k: true (also written yes or on) is invalid; use a number."),
        (["model.k=true", "model.k=3"], "model.k: true (also written yes or on) is invalid"),
    ],
)
def test_true_and_false_are_no_numbers(overrides, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings("zoommil", overrides=overrides)


def test_a_setting_that_takes_one_value_or_several_keeps_a_single_one():
    assert load_settings("zoommil", overrides=["model.k=3"]).model.arguments["k"] == 3


@pytest.mark.parametrize(
    ("overrides", "flags", "message"),
    [
        (["train.epochs=x"], {"train.epochs": 1}, "train.epochs: 'x' is invalid; use a whole"),
        (["train.seed=-1", "train.seed=3"], {}, "train.seed: -1 is invalid; use 0 or more."),
        (["model.dropout=high", "model.dropout=0"], {}, "model.dropout: 'high' is invalid"),
        (["slide.patch_size=0", "slide.patch_size=64"], {}, "slide.patch_size: 0 is not in 1.."),
        (["slide.tissue_method=a", "slide.tissue_method=all"], {}, "slide.tissue_method: 'a' is"),
    ],
)
def test_a_value_that_is_overridden_is_checked(overrides, flags, message):
    with pytest.raises(SettingsError) as error:
        load_settings("zoommil", overrides=overrides, flags=flags)
    assert str(error.value).startswith(message)


def test_an_overridden_value_in_a_file_is_checked(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("train: {epochs: many}")
    with pytest.raises(SettingsError, match=r"train\.epochs: 'many' is invalid"):
        load_settings("zoommil", config, flags={"train.epochs": 1})


def test_overridden_values_need_not_go_together_with_others():
    overrides = ["train.schedule=plateau", "train.schedule=cosine", "train.warmup=0.1"]
    assert load_settings("abmil", overrides=overrides).train.warmup == 0.1


@pytest.mark.parametrize(
    "overrides", [["model.name=mean", "model.dim=9"], ["model.dim=9", "model.name=mean"]]
)
def test_settings_of_another_model_may_come_before_its_name(overrides):
    assert (
        load_settings("zoommil", overrides=[*overrides, "slide.magnifications=10"]).model.arguments[
            "dim"
        ]
        == 9
    )
