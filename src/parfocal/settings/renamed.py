"""Settings renamed in format version 2: an old key is refused, a version-1 run folder is read."""

from collections.abc import Mapping
from typing import Any

from parfocal.features.header import ADDED_SETTINGS, RENAMED_SETTINGS, RENAMED_VALUES
from parfocal.models.renamed import RENAMED, Renamed, current_name, renamed_settings

# Section -> old key -> new key. Settings of models stand in parfocal.models.renamed.
SECTION_KEYS: dict[str, dict[str, str]] = {
    "slide": RENAMED_SETTINGS,
    "train": {
        "watch": "monitor",
        "batch": "batch_size",
        "accumulate": "accumulate_grad_batches",
        "clip_norm": "gradient_clip_norm",
        "half": "bf16",
        "start": "init_from",
        "left_out_strata": "exclude_strata",
    },
}
# Section -> key -> new key, of settings that some files of version 2 have.
LATER_KEYS: dict[str, dict[str, str]] = {"train": {"tensorboard": "logger"}}
# Section -> key -> old value -> new value.
SECTION_VALUES: dict[str, dict[str, dict[object, str]]] = {"slide": RENAMED_VALUES}
LOGGERS = {True: "tensorboard", False: "csv"}  # values of train.tensorboard


def renamed_key(section: str, key: str, model: str | None = None) -> str | None:
    """Return the new name of a setting, or None if it was not renamed.

    Args:
        section: section of the setting.
        key: name to look up.
        model: name of the model, for section `model`.
    """
    if section == "model":
        return RENAMED.get(model or "", Renamed()).settings.get(key)
    return {**SECTION_KEYS.get(section, {}), **LATER_KEYS.get(section, {})}.get(key)


def renamed_value(section: str, key: str, value: object, model: str | None = None) -> str | None:
    """Return the new name of a setting's value, or None if it was not renamed.

    Args:
        section: section of the setting.
        key: current name of the setting.
        value: value to look up.
        model: name of the model, for section `model`.
    """
    if not isinstance(value, str):
        return None
    if section == "model":
        return RENAMED.get(model or "", Renamed()).values.get(key, {}).get(value)
    return SECTION_VALUES.get(section, {}).get(key, {}).get(value)


def is_version_1(sections: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the settings.yaml of a run folder has format version 1.

    Version 1 writes every setting, defaults included, so its old keys are always there.
    """
    return any(key in sections.get("train", {}) for key in SECTION_KEYS["train"])


def upgrade_sections(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sections of a version-1 settings.yaml with the keys and values of version 2."""
    upgraded = {section: _upgrade(section, values) for section, values in sections.items()}
    upgraded["slide"] = {**ADDED_SETTINGS, **upgraded["slide"]}
    model = dict(sections["model"])
    name = model.pop("name")
    upgraded["model"] = {"name": name, **renamed_settings(name, model)}
    return upgraded


def rename_settings(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sections of a version-2 settings.yaml with today's names of everything."""
    renamed = {section: dict(values) for section, values in sections.items()}
    if "name" in renamed.get("model", {}):
        renamed["model"]["name"] = current_name(renamed["model"]["name"])
    return renamed | {each: _upgrade(each, renamed.get(each, {})) for each in ("slide", "train")}


def _upgrade(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    upgraded: dict[str, Any] = {}
    for old_key, value in values.items():
        key = renamed_key(section, old_key) or old_key
        upgraded[key] = renamed_value(section, key, value) or value
    logger = upgraded.get("logger")
    if section == "train" and isinstance(logger, bool):
        upgraded["logger"] = LOGGERS[logger]
    return upgraded
