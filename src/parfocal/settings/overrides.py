"""Parse single settings from a command line: `--set section.key=value` in every command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from parfocal.models.checkpoint import SettingValue, stored_model_name
from parfocal.models.ensemble import fold_folders
from parfocal.settings.check import check_model_settings
from parfocal.settings.errors import SettingsError
from parfocal.settings.values import check_value
from parfocal.settings.yaml_texts import load_value


def parse_override(text: str) -> tuple[str, str, Any]:
    """Parse `section.key=value`, whose value is YAML; texts stay as written.

    >>> parse_override("train.refit=True")
    ('train', 'refit', True)
    >>> parse_override("model.k=[4, 2]")
    ('model', 'k', [4, 2])
    >>> parse_override("train.labels=[0, 1]")
    ('train', 'labels', ['0', '1'])

    Returns:
        The section, the key and the value.

    Raises:
        SettingsError: the text has another form.
    """
    name, equals, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not (equals and dot and section and key) or "." in key:
        raise SettingsError(f"{text!r} is not SECTION.KEY=VALUE; write it as model.k=10.")
    try:
        return section, key, load_value(section, key, value)
    except yaml.YAMLError:
        raise SettingsError(
            f"{text!r}: the value is not YAML; put texts with special characters in quotes, as in "
            "['<5%', '>=5%']."
        ) from None


def model_overrides(run: Path, overrides: Sequence[str]) -> dict[str, SettingValue]:
    """Parse settings of a trained model, and check them as `train` does.

    Args:
        run: folder of a finished run.
        overrides: settings to change for prediction or evaluation, each as `model.k=10`.

    Returns:
        Values by name, for `Checkpoint.load(run, overrides=...)`.

    Raises:
        SettingsError: a setting is unknown, was renamed, is invalid, or is not one of the
            model.
        CheckpointError: the run has no checkpoint, or it cannot be read.
    """
    parsed: list[tuple[str, Any]] = []
    for text in overrides:
        section, key, value = parse_override(text)
        if section != "model":
            raise SettingsError(
                f"{text!r}: the settings of section {section} cannot be changed after training; "
                "set one of the model, as model.k=10."
            )
        if key == "name":
            raise SettingsError(f"{text!r}: the model of a trained run cannot be changed.")
        parsed.append((key, value))
    name = stored_model_name((fold_folders(run) or (run,))[0])
    for key, value in parsed:
        check_value("model", key, value, model=name)  # a later one may override it
    checked = check_model_settings({"name": name, **dict(parsed)})
    return {key: checked.arguments[key] for key, _ in parsed}
