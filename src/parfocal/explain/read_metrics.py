"""Read the metrics.json of an evaluation, of any format version."""

import json
from pathlib import Path
from typing import Any

METRICS_VERSION = 2  # of the format that `parfocal evaluate` writes

# What version 1 called the keys of version 2.
RENAMED_KEYS = {
    "localisation": "localization",
    "localisation_together": "localization_overall",
}
RENAMED_SCORE_KEYS = {"left_out": "undefined_resamples"}


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a metrics.json with the keys of the current version; docs/formats.md lists them.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not the JSON of an evaluation, or its version is not supported.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    version = content.get("format_version") if isinstance(content, dict) else None
    if version not in (1, METRICS_VERSION):
        raise ValueError(
            f"{path}: metrics format version {version!r} is not supported (this parfocal reads 1 "
            f"and {METRICS_VERSION}); evaluate again, or use the parfocal that wrote it."
        )
    if version == 1:
        content = {RENAMED_KEYS.get(key, key): value for key, value in content.items()}
    upgraded: dict[str, Any] = {key: _upgraded_scores(value) for key, value in content.items()}
    return upgraded | {"format_version": METRICS_VERSION}


def _upgraded_scores(value: object) -> object:
    """Rename the keys of every score with an interval below a value."""
    if isinstance(value, list):
        return [_upgraded_scores(each) for each in value]
    if not isinstance(value, dict):
        return value
    if {"value", "low", "high"} <= value.keys():
        return {RENAMED_SCORE_KEYS.get(key, key): each for key, each in value.items()}
    return {key: _upgraded_scores(each) for key, each in value.items()}
