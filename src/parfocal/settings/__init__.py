"""The settings of a run: a recipe, a YAML file over it, and single values over both.

The settings of a model are the keyword-only arguments of its class and are declared there.
"""

from parfocal.settings.errors import SettingsError, SettingsFileError
from parfocal.settings.load import (
    load_run_settings,
    load_settings,
    recipe_names,
    recipe_path,
    recipes,
)
from parfocal.settings.overrides import model_overrides, parse_override
from parfocal.settings.sections import (
    STRICT,
    EncoderSettings,
    ModelSettings,
    RunSettings,
    TrainSettings,
)

__all__ = [
    "STRICT",
    "EncoderSettings",
    "ModelSettings",
    "RunSettings",
    "SettingsError",
    "SettingsFileError",
    "TrainSettings",
    "load_run_settings",
    "load_settings",
    "model_overrides",
    "parse_override",
    "recipe_names",
    "recipe_path",
    "recipes",
]
