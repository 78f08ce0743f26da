"""Numbers that no training can use are refused when settings are read."""

import math
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from parfocal.models import MODELS
from parfocal.models.contract import Setting
from parfocal.settings import load_settings
from parfocal.settings.check import check_model_settings
from parfocal.settings.errors import SettingsError
from parfocal.settings.sections import TrainSettings

HINTS = get_type_hints(TrainSettings, include_extras=True)


def has(kind: Any, number: type) -> bool:
    """Return whether a type is, or may be, a number, and no text."""
    kinds = {kind, *get_args(kind)}
    kinds |= {each for one in kinds for each in get_args(one)}
    return number in kinds and str not in kinds


def is_number(setting: Setting) -> bool:
    return has(setting.type, float) or has(setting.type, int)


NUMBERS = [each.name for each in fields(TrainSettings) if has(HINTS[each.name], float)]
WHOLE = [each.name for each in fields(TrainSettings) if has(HINTS[each.name], int)]
MODEL_NUMBERS = [
    (model, setting.name)
    for model in MODELS
    for setting in MODELS[model].settings
    if has(setting.type, float)
]


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "-1"])
@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "betas"])
def test_a_training_setting_is_finite_and_not_negative(name: str, value: str):
    with pytest.raises(SettingsError, match=rf"^train\.{name}: "):
        load_settings("abmil", overrides=["train.schedule=cosine", f"train.{name}={value}"])


@pytest.mark.parametrize("value", ["[.inf, 0.9]", "[0.9, .nan]", "[-0.1, 0.9]", "[0.9, 1]"])
def test_the_decay_rates_of_the_optimizer_are_below_one(value: str):
    with pytest.raises(SettingsError, match=r"^train\.betas: "):
        load_settings("abmil", overrides=[f"train.betas={value}"])


@pytest.mark.parametrize("value", [".inf", ".nan", "1.5", "-1"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_is_one_and_not_negative(name: str, value: str):
    with pytest.raises(SettingsError, match=rf"^train\.{name}: "):
        load_settings("abmil", overrides=[f"train.{name}={value}"])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("model", "name"), MODEL_NUMBERS)
def test_a_number_of_a_model_is_finite(model: str, name: str, value: float):
    with pytest.raises(SettingsError, match=rf"^model\.{name}: "):
        check_model_settings({"name": model, name: value})


@pytest.mark.parametrize(
    ("model", "name"),
    [(model, each.name) for model in MODELS for each in MODELS[model].settings if is_number(each)],
)
def test_a_number_of_a_model_is_not_negative(model: str, name: str):
    with pytest.raises(
        SettingsError, match=rf"^model\.{name}: -1.* is invalid; it cannot be negative\.$"
    ):
        check_model_settings({"name": model, name: -1})


@pytest.mark.parametrize("name", ["picture_px", "leaf_px"])
def test_a_side_has_a_pixel(name: str):
    with pytest.raises(SettingsError, match=rf"^model\.{name}: 0 is invalid; use 1 or more\.$"):
        check_model_settings({"name": "magnet", name: 0})


@pytest.mark.parametrize("value", [".inf", ".nan", "-1"])
def test_a_number_that_a_later_one_overrides_is_checked_too(value: str):
    changes = [f"train.learning_rate={value}", "train.learning_rate=0.1"]
    with pytest.raises(SettingsError, match=r"^train\.learning_rate: .*use (a finite|more than 0)"):
        load_settings("abmil", overrides=changes)


@pytest.mark.parametrize("name", ["magnifications", "min_tissue"])
@pytest.mark.parametrize("value", [".inf", ".nan", "-1"])
def test_the_settings_of_a_slide_are_finite(name: str, value: str):
    with pytest.raises(SettingsError, match=rf"^slide\.{name}: "):
        load_settings("abmil", overrides=[f"slide.{name}={value}"])
