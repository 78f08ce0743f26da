"""A prediction's JSON -> the record it was written from.

What the file holds is checked, as it may be old, cut short, or edited: nothing is drawn at places
that were guessed.
"""

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

SHOWN = ("x", "y", "width", "height", "score")  # without which a region has no place or weight


class RecordError(Exception):
    """A prediction's JSON that cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True)
class _Answer:
    probabilities: dict[str, float]


@dataclass(frozen=True)
class _Step:
    mpp: float


@dataclass(frozen=True)
class _Content:
    """What the JSON holds; keys that are not named here follow from the others."""

    slide: SlideFacts
    model: ModelFacts
    prediction: _Answer
    stop_reason: str
    steps: tuple[_Step, ...]
    regions: tuple[Region, ...]
    cost: Cost


_CONTENT = TypeAdapter(_Content)


def read_prediction(path: Path) -> PredictionRecord:
    """Read what `parfocal predict` wrote of one slide.

    Raises:
        RecordError: the file is no prediction, of another version, or a region lacks its place.
    """
    content = read_json(path)
    if not looks_like_prediction(content):
        raise RecordError(f"{path}: not a prediction, which has a slide and regions; see --help.")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise RecordError(
            f"{path}: a prediction of format {version!r}, and this parfocal reads "
            f"{FORMAT_VERSION}; predict the slide again, or use the parfocal that wrote it."
        )
    _refuse_placeless(path, content)
    try:
        found = _CONTENT.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f"{path}: not a whole prediction ({where}: {first['msg'].lower()}); predict the slide "
            "again."
        ) from None
    _refuse_incoherent(path, found)
    return PredictionRecord(
        slide=found.slide,
        model=found.model,
        probabilities=found.prediction.probabilities,
        stop_reason=found.stop_reason,
        mpps=tuple(step.mpp for step in found.steps),
        regions=found.regions,
        cost=found.cost,
    )


def _refuse_incoherent(path: Path, found: _Content) -> None:
    """Refuse what has every part, but parts that cannot belong together."""
    steps = {region.step for region in found.regions} - set(range(len(found.steps)))
    wrong = {
        "no class has a probability": not found.prediction.probabilities,
        f"a region of step {min(steps, default=0)}, of {len(found.steps)}": bool(steps),
        "no cost of looking at everything": found.cost.exhaustive is None,
    }
    for reason, holds in wrong.items():
        if holds:
            raise RecordError(
                f"{path}: not a whole prediction ({reason}); predict the slide again."
            )


def read_json(path: Path) -> Mapping[str, object]:
    """Read a JSON file that holds an object; an empty one where it holds anything else.

    Raises:
        RecordError: it cannot be read, or is no JSON.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no whole JSON"
        raise RecordError(f"{path}: cannot be read ({reason}); copy or write it again.") from None
    return content if isinstance(content, dict) else {}


def looks_like_prediction(content: Mapping[str, object]) -> bool:
    """Tell a prediction, of whatever version, from other JSON."""
    return isinstance(content.get("slide"), dict) and isinstance(content.get("regions"), list)


def _refuse_placeless(path: Path, content: Mapping[str, object]) -> None:
    """Refuse to invent places: a picture of the wrong ones misleads."""
    regions = content["regions"]
    assert isinstance(regions, list)
    if not regions:
        raise RecordError(
            f"{path}: the prediction has no regions to show; predict the slide again."
        )
    for region in regions:
        values = [region.get(name) for name in SHOWN] if isinstance(region, dict) else [None]
        for name, value in zip(SHOWN, values, strict=False):
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise RecordError(
                    f"{path}: a region has no {name}, so its place or weight is unknown; nothing "
                    "is drawn at a guess. Predict the slide again."
                )
