"""Read checkpoint.json, which describes a trained model, in format version 1 or 2."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from parfocal.features.header import (
    ADDED_SETTINGS,
    RENAMED_ATTRIBUTES,
    RENAMED_SETTINGS,
    RENAMED_VALUES,
)
from parfocal.models.renamed import renamed_settings

FORMAT = "parfocal checkpoint"
FORMAT_VERSION = 2
DESCRIPTION_FILE = "checkpoint.json"
WEIGHTS_FILE = "checkpoint.safetensors"
# The same two in a repository of models, which is expected to use these names.
HUB_DESCRIPTION_FILE, HUB_WEIGHTS_FILE = "config.json", "model.safetensors"

# Key of version 1 -> key of version 2, as in a feature file, where it has the prefix "encoder_".
ENCODER_KEYS = {
    old.removeprefix("encoder_"): new.removeprefix("encoder_")
    for old, new in RENAMED_ATTRIBUTES.items()
}


class CheckpointError(Exception):
    """A trained model that cannot be loaded; the message names the file and says what to do."""


def description_path(folder: Path) -> Path:
    """Return the path of the description in a run folder, or in a folder from the Hub."""
    path, other = folder / DESCRIPTION_FILE, folder / HUB_DESCRIPTION_FILE
    return other if not path.exists() and other.is_file() else path


def weights_path(folder: Path) -> Path:
    """Return the path of the weights in a run folder, or in a folder from the Hub."""
    is_hub = description_path(folder).name == HUB_DESCRIPTION_FILE
    return folder / (HUB_WEIGHTS_FILE if is_hub else WEIGHTS_FILE)


def is_description(path: Path) -> bool:
    """Return whether a JSON file, such as config.json, describes a model of parfocal."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_description(folder: Path) -> dict[str, Any]:
    """Read checkpoint.json of a run folder.

    Returns:
        The description with the names of version 2; `format_version` is the one of the file.

    Raises:
        CheckpointError: the file is missing, damaged, or written by a newer version.
    """
    path = description_path(folder)
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise _no_checkpoint(folder) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); restore it or train again.") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of parfocal; give a run folder.")
    found = description.setdefault("format_version", 1)
    if not isinstance(found, int) or found < 1:
        raise CheckpointError(
            f"{path}: damaged (format version {found!r}); restore it or train again."
        )
    if found > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {found}; this parfocal ({version('parfocal')}) reads up to "
            f"{FORMAT_VERSION}. Update parfocal."
        )
    try:
        if isinstance(description.get("slide"), dict):
            description = {**description, "slide": _rename_settings(description["slide"])}
        return _upgraded(description) if found == 1 else description
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}: {error}); restore it or train again."
        ) from None


def _no_checkpoint(folder: Path) -> CheckpointError:
    if not folder.is_dir():
        return CheckpointError(f"{folder}: no such folder; give the folder of a finished run.")
    if folds := sorted(folder.glob(f"fold-*/{DESCRIPTION_FILE}")):
        return CheckpointError(
            f"{folder}: a run with {len(folds)} folds; give one of them, for example "
            f"{folds[0].parent}."
        )
    return CheckpointError(
        f"{folder}: no {DESCRIPTION_FILE}, so this is not the folder of a finished run; give a "
        "folder that `parfocal train` wrote, or finish the run with --resume."
    )


def _rename_settings(slide: dict[str, Any]) -> dict[str, Any]:
    """Rename settings of a slide; some files of version 2 still have the old names."""
    return {RENAMED_SETTINGS.get(key, key): value for key, value in slide.items()}


def _upgraded(description: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys and values of version 1, and add its values of settings that are new."""
    encoder, model = description["encoder"], description["model"]
    if encoder is not None:
        encoder = {ENCODER_KEYS.get(key, key): value for key, value in encoder.items()}
    slide = description["slide"]
    renamed = {
        key: values[slide[key]] for key, values in RENAMED_VALUES.items() if slide[key] in values
    }
    settings = renamed_settings(model["name"], model["settings"])
    return {
        **description,
        "encoder": encoder,
        "slide": {**ADDED_SETTINGS, **slide, **renamed},
        "model": {**model, "settings": settings},
    }


def parse_labels(labels: object, num_classes: object) -> tuple[str, ...]:
    """Check the class labels.

    Raises:
        ValueError: they are not distinct texts, or not as many as the model has classes.
    """
    if not isinstance(labels, list) or not all(isinstance(each, str) and each for each in labels):
        raise ValueError(f"labels: {labels!r} is not a list of texts")
    if repeated := [each for each in dict.fromkeys(labels) if labels.count(each) > 1]:
        raise ValueError(f"labels: {repeated[0]!r} is there twice")
    if num_classes is not None and len(labels) != num_classes:
        raise ValueError(f"labels: {len(labels)} for {num_classes} classes")
    return tuple(labels)
