"""Every renamed setting is refused under its old name, and read from a run folder of version 1."""

import re

import pytest

from parfocal.features.header import ADDED_SETTINGS
from parfocal.models import MODELS
from parfocal.models.renamed import RENAMED
from parfocal.settings import SettingsError, load_run_settings, load_settings
from parfocal.settings.check import check_model_settings
from parfocal.settings.load import RECIPES
from parfocal.settings.renamed import (
    SECTION_KEYS,
    SECTION_VALUES,
    rename_settings,
    upgrade_sections,
)
from parfocal.settings.sections import SECTIONS

SECTION_ROWS = [
    (section, old, new) for section, keys in SECTION_KEYS.items() for old, new in keys.items()
]
MODEL_ROWS = [
    (model, old, new) for model, table in RENAMED.items() for old, new in table.settings.items()
]
MODEL_VALUES = [
    (model, key, old, new)
    for model, table in RENAMED.items()
    for key, values in table.values.items()
    for old, new in values.items()
]


@pytest.mark.parametrize(("section", "old", "new"), SECTION_ROWS)
def test_the_old_key_of_a_section_is_refused_with_the_new_one(section, old, new):
    message = rf"^{section}\.{old} was renamed to {section}\.{new}\.$"
    with pytest.raises(SettingsError, match=message):
        load_settings("zoommil", overrides=[f"{section}.{old}=1"])
    assert new in SECTIONS[section].__dataclass_fields__


def test_all_old_keys_and_values_are_named_at_once():
    overrides = ["train.watch=loss", "train.half=true", "slide.tissue_method=grey"]
    with pytest.raises(SettingsError) as error:
        load_settings("zoommil", overrides=overrides)
    for text in (
        "train.watch was renamed to train.monitor, train.half was renamed to train.bf16",
        "slide.tissue_method: 'grey' was renamed to 'gray'",
    ):
        assert text in str(error.value)


def test_the_old_key_in_a_file_is_refused_with_the_new_one(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("train: {batch: 2}")
    with pytest.raises(SettingsError, match=r"^train\.batch was renamed to train\.batch_size\.$"):
        load_settings("zoommil", config)


@pytest.mark.parametrize(("model", "old", "new"), MODEL_ROWS)
def test_the_old_key_of_a_model_is_refused_with_the_new_one(model, old, new):
    with pytest.raises(SettingsError, match=rf"^model\.{old} was renamed to model\.{new}\.$"):
        check_model_settings({"name": model, old: 1})
    assert new in [setting.name for setting in MODELS[model].settings]


@pytest.mark.parametrize(("model", "key", "old", "new"), MODEL_VALUES)
def test_the_old_value_of_a_model_setting_is_refused_with_the_new_one(model, key, old, new):
    message = re.escape(f"model.{key}: {old!r} was renamed to {new!r}.")
    with pytest.raises(SettingsError, match=message):
        check_model_settings({"name": model, key: old})
    assert check_model_settings({"name": model, key: new}).arguments[key] == new


def test_the_old_value_of_a_section_is_refused_with_the_new_one():
    assert SECTION_VALUES["slide"]["tissue_method"]["grey"] == "gray"
    with pytest.raises(
        SettingsError, match=r"^slide\.tissue_method: 'grey' was renamed to 'gray'\.$"
    ):
        load_settings("zoommil", overrides=["slide.tissue_method=grey"])


def test_settings_of_version_1_get_the_new_names():
    old = {
        "slide": {"magnifications": [10], "tissue": "grey"},
        "model": {"name": "patchsupervised", "clear": 1},
        "train": {"watch": "accuracy", "epochs": 3},
    }
    assert upgrade_sections(old) == {
        # With the rules that version 1 followed.
        "slide": {**ADDED_SETTINGS, "magnifications": [10], "tissue_method": "gray"},
        "model": {"name": "patchsupervised", "negative_class": 1},
        "train": {"monitor": "accuracy", "epochs": 3},
    }


def test_a_saved_run_of_version_2_with_the_old_key_of_a_slide_is_read(tmp_path):
    today = (RECIPES / "zoommil.yaml").read_text()
    assert "  tissue_method: otsu" in today
    saved = tmp_path / "settings.yaml"
    saved.write_text(today.replace("  tissue_method: otsu", "  tissue: gray"))
    settings, version = load_run_settings(saved)
    assert (settings.slide.tissue_method, version) == ("gray", 2)
    # The same file is refused where a user gives it.
    with pytest.raises(SettingsError, match=r"^slide\.tissue was renamed to slide\.tissue_method"):
        load_settings(saved)


@pytest.mark.parametrize(
    ("old", "recipe"), [("meanmlp", "mean-mlp"), ("coarsestudent", "coarse-student")]
)
def test_a_model_has_the_name_of_its_recipe_and_runs_with_the_old_name_are_read(
    tmp_path, old, recipe
):
    settings = load_settings(recipe)
    assert settings.model.name == recipe
    saved = settings.to_yaml().replace(f"name: {recipe}", f"name: {old}")
    assert f"name: {old}" in saved
    (tmp_path / "settings.yaml").write_text(saved)
    assert load_run_settings(tmp_path / "settings.yaml") == (settings, 2)
    with pytest.raises(SettingsError, match=rf"model\.name={old}: this model is now {recipe}\."):
        load_settings(recipe, overrides=[f"model.name={old}"])


@pytest.mark.parametrize(("old", "new"), [(True, "tensorboard"), (False, "csv")])
def test_the_setting_tensorboard_of_a_run_is_its_logger(old: bool, new: str):
    sections = {"slide": {}, "train": {"tensorboard": old, "epochs": 3}}
    assert rename_settings(sections)["train"] == {"logger": new, "epochs": 3}


def test_the_setting_tensorboard_is_refused_with_its_new_name():
    with pytest.raises(SettingsError, match=r"^train\.tensorboard was renamed to train\.logger\.$"):
        load_settings("zoommil", overrides=["train.tensorboard=true"])
