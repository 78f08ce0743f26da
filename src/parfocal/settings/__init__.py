"""The settings of a run: a recipe, a file over it, and single values over both.

Each model's own settings are the arguments of its class, so they are declared once, there.
"""

from parfocal.settings.check import SettingsError
from parfocal.settings.load import load_settings, recipe_names, recipes
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
    "TrainSettings",
    "load_settings",
    "recipe_names",
    "recipes",
]
