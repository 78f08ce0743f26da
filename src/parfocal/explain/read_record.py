"""Read the JSON of a prediction, with all checks: a file may be old, truncated or edited."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from parfocal.cost import Cost
from parfocal.explain.record import (
    FORMAT_VERSION,
    ModelFacts,
    PredictionRecord,
    Region,
    SlideFacts,
)

REQUIRED_NUMBERS = ("x", "y", "width", "height", "score")  # needed to draw a region

# What version 1 called the keys of version 2.
RENAMED_MODEL_KEYS = {"parfocal": "parfocal_version"}
RENAMED_REGION_KEYS = {"zoom_score": "zoom_attention"}
RENAMED_SCORE_KINDS = {
    "probability": "sampling_probability",
    "square": "uniform",
    "running": "class_probability",
}


class RecordError(Exception):
    """A prediction's JSON that cannot be used."""


@dataclass(frozen=True)
class _Answer:
    probabilities: dict[str, float]


@dataclass(frozen=True)
class _Step:
    mpp: float


@dataclass(frozen=True)
class _Content:
    """The keys that are read; the others follow from them."""

    slide: SlideFacts
    model: ModelFacts
    prediction: _Answer
    stop_reason: str
    steps: tuple[_Step, ...]
    regions: tuple[Region, ...]
    cost: Cost


_CONTENT = TypeAdapter(_Content)


def read_prediction(path: Path) -> PredictionRecord:
    """Read a prediction that `parfocal predict` wrote, of format version 1 or 2.

    Raises:
        RecordError: the file is not a prediction, has another version, or is damaged.
    """
    content = read_json(path)
    if not looks_like_prediction(content):
        raise RecordError(
            f"{path}: not a prediction (it has no slide or no regions); give a JSON file that "
            "`parfocal predict` wrote."
        )
    _check_numbers(path, content)
    try:
        validated = _CONTENT.validate_python(_upgraded(path, content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise _incomplete(path, f"{key}: {first['msg'].lower()}") from None
    _check_consistency(path, validated)
    return PredictionRecord(
        slide=validated.slide,
        model=validated.model,
        probabilities=validated.prediction.probabilities,
        stop_reason=validated.stop_reason,
        mpps=tuple(step.mpp for step in validated.steps),
        regions=validated.regions,
        cost=validated.cost,
    )


def read_json(path: Path) -> Mapping[str, object]:
    """Read a JSON file; return an empty mapping if it holds anything but an object.

    Raises:
        RecordError: the file cannot be read or is not JSON.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid JSON"
        raise RecordError(
            f"{path}: cannot be read ({reason}); copy the file or predict the slide again."
        ) from None
    return content if isinstance(content, dict) else {}


def looks_like_prediction(content: Mapping[str, object]) -> bool:
    """Return whether JSON content is a prediction, of any format version."""
    return isinstance(content.get("slide"), dict) and isinstance(content.get("regions"), list)


def _upgraded(path: Path, content: Mapping[str, object]) -> Mapping[str, object]:
    """Return the content with the keys and score kinds of the current version."""
    version = content.get("format_version")
    if version == FORMAT_VERSION:
        return content
    if version != 1:
        raise RecordError(
            f"{path}: prediction format version {version!r} is not supported (this parfocal reads "
            f"1 and {FORMAT_VERSION}); predict the slide again, or use the parfocal that wrote it."
        )
    model, regions = content.get("model"), content["regions"]
    assert isinstance(regions, list)
    upgraded = {**content, "regions": [_upgraded_region(region) for region in regions]}
    if isinstance(model, dict):
        upgraded["model"] = _renamed(model, RENAMED_MODEL_KEYS)
    return upgraded


def _upgraded_region(region: Mapping[str, object]) -> Mapping[str, object]:
    kind = region.get("score_kind")
    renamed = _renamed(region, RENAMED_REGION_KEYS)
    return {**renamed, "score_kind": RENAMED_SCORE_KINDS.get(str(kind), kind)}


def _renamed(values: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    return {names.get(key, key): value for key, value in values.items()}


def _check_numbers(path: Path, content: Mapping[str, object]) -> None:
    """Refuse regions without a position or score, because a map must not show invented ones."""
    regions = content["regions"]
    assert isinstance(regions, list)
    if not regions:
        raise RecordError(f"{path}: the prediction has no regions; predict the slide again.")
    for region in regions:
        for name in REQUIRED_NUMBERS:
            value = region.get(name) if isinstance(region, dict) else None
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise RecordError(
                    f"{path}: a region has no valid {name}, so it cannot be drawn; predict the "
                    "slide again."
                )


def _check_consistency(path: Path, content: _Content) -> None:
    """Refuse parts that contradict each other."""
    steps = {region.step for region in content.regions} - set(range(len(content.steps)))
    if not content.prediction.probabilities:
        raise _incomplete(path, "no class has a probability")
    if steps:
        raise _incomplete(path, f"a region is at step {min(steps)} of {len(content.steps)}")
    if content.cost.exhaustive is None:
        raise _incomplete(path, "the exhaustive cost is missing")


def _incomplete(path: Path, reason: str) -> RecordError:
    return RecordError(f"{path}: incomplete prediction ({reason}); predict the slide again.")
