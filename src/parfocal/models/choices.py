"""What was chosen on validation slides after a model was trained: `chosen.json` in the run folder.

The file holds the hash of the weights that the choices were made for, so those of another model
are not used. Each choice is one key, written by what made it.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from parfocal.files import write_whole
from parfocal.models.description import CheckpointError

CHOICES_FILE = "chosen.json"
CHOICES_FORMAT = "parfocal choices"
CHOICES_VERSION = 1
HEADER = ("format", "format_version", "weights_sha256")


def read_choices(folder: Path, weights_hash: str) -> dict[str, object]:
    """Read the choices in a run folder by key; empty if none were made.

    Args:
        folder: run folder.
        weights_hash: SHA-256 of the weights of the model.

    Raises:
        CheckpointError: the file is damaged, of a newer version, or made for other weights.
    """
    path = folder / CHOICES_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); restore it, or remove it to predict without what was "
            "chosen on validation slides."
        ) from None
    if not isinstance(content, dict) or content.get("format") != CHOICES_FORMAT:
        raise CheckpointError(f"{path}: not a file of choices; restore it, or remove it.")
    if content.get("format_version") != CHOICES_VERSION:
        raise CheckpointError(
            f"{path}: format version {content.get('format_version')!r}; this parfocal reads "
            f"{CHOICES_VERSION}. Update parfocal."
        )
    if content.get("weights_sha256") != weights_hash:
        raise CheckpointError(
            f"{path}: the choices were made for other weights than those in the folder; restore "
            "both files from one run, or remove it."
        )
    return {key: value for key, value in content.items() if key not in HEADER}


def write_choice(folder: Path, weights_hash: str, key: str, value: object) -> None:
    """Write one choice, and keep the others that were made for the same weights.

    Args:
        folder: run folder.
        weights_hash: SHA-256 of the weights of the model.
        key: name of the choice.
        value: the choice, as JSON represents it.
    """
    try:
        others = read_choices(folder, weights_hash)
    except CheckpointError:
        others = {}  # damaged, or made for the weights of an earlier run
    write_whole(folder / CHOICES_FILE, choices_bytes(weights_hash, {**others, key: value}))


def choices_bytes(weights_hash: str, choices: Mapping[str, object]) -> bytes:
    """Return the content of the file."""
    content = {
        "format": CHOICES_FORMAT,
        "format_version": CHOICES_VERSION,
        "weights_sha256": weights_hash,
        **choices,
    }
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
