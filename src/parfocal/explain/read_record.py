"""Read the JSON of a prediction, with all checks: a file may be old, truncated or edited."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from parfocal.cost import Cost
from parfocal.explain.record import CLASSIFICATION, FORMAT_VERSION, PredictionRecord
from parfocal.explain.record_parts import (
    BudgetFacts,
    MemberFacts,
    ModelFacts,
    PatientFacts,
    Region,
    RoundFacts,
    SlideFacts,
    ThresholdFacts,
)
from parfocal.grid import Reach
from parfocal.slide.failure import describe_failure

MAX_JSON_BYTES = 2**28  # some 600,000 regions
MAX_SIDE_PX = 2**31 - 1  # more than any slide has
MAX_PATCHES = MAX_SIDE_PX
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
    label: str = ""
    task: str = CLASSIFICATION
    outputs: dict[str, float] = field(default_factory=dict)


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
    reach: Reach | None = None
    notes: tuple[str, ...] = ()
    budget: BudgetFacts | None = None
    rounds: tuple[RoundFacts, ...] = ()
    patient: PatientFacts | None = None
    covariates: dict[str, str] = field(default_factory=dict)
    threshold: ThresholdFacts | None = None
    thresholds: tuple[ThresholdFacts, ...] = ()
    members: tuple[MemberFacts, ...] = ()
    spread: dict[str, float] = field(default_factory=dict)


_CONTENT = TypeAdapter(_Content)


def read_prediction(path: Path) -> PredictionRecord:
    """Read a prediction that `parfocal predict` wrote, of format version 1 or 2.

    Raises:
        RecordError: the file is not a prediction, has another version, or is damaged.
    """
    try:
        return _read_prediction(path)
    except RecordError:
        raise
    except Exception as error:  # the content may be anything
        raise _incomplete(path, describe_failure(error)) from error


def _read_prediction(path: Path) -> PredictionRecord:
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
        is_class = first["type"].startswith("dataclass")  # its message has the name of a class
        problem = "input should be an object" if is_class else first["msg"].lower()
        raise _incomplete(path, f"{key}: {problem}") from None
    _check_consistency(path, validated)
    return PredictionRecord(
        slide=validated.slide,
        model=validated.model,
        probabilities=validated.prediction.probabilities,
        stop_reason=validated.stop_reason,
        mpps=tuple(step.mpp for step in validated.steps),
        regions=validated.regions,
        cost=validated.cost,
        reach=validated.reach,
        task=validated.prediction.task,
        outputs=validated.prediction.outputs,
        predicted="" if validated.prediction.probabilities else validated.prediction.label,
        notes=validated.notes,
        budget=validated.budget,
        rounds=validated.rounds,
        patient=validated.patient,
        covariates=validated.covariates,
        threshold=validated.threshold,
        thresholds=validated.thresholds,
        members=validated.members,
        spread=validated.spread,
    )


def read_json(path: Path) -> Mapping[str, object]:
    """Read a JSON file; return an empty mapping if it holds anything but an object.

    Raises:
        RecordError: the file cannot be read, is too large or too deeply nested, is not JSON, or has
            a key twice or a number that is not finite.
    """
    try:
        if path.exists() and not path.is_file():
            raise RecordError(
                f"{path}: not a file; give a JSON file that `parfocal predict` wrote."
            )
        if path.stat().st_size > MAX_JSON_BYTES:
            raise RecordError(
                f"{path}: {path.stat().st_size / 2**20:,.0f} MiB is too large for a prediction (at "
                f"most {MAX_JSON_BYTES // 2**20}); remove the file from the folder."
            )
        content = json.loads(
            path.read_bytes(), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise RecordError(
            f"{path}: cannot be read ({_json_problem(error)}); restore the file from a copy, "
            "or run the command that wrote it again."
        ) from None
    return content if isinstance(content, dict) else {}


class _JsonError(ValueError):
    """JSON that Python reads but that is ambiguous or not standard."""


def _refuse_constant(name: str) -> float:
    raise _JsonError(f"it has the number {name}")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise _JsonError(f"the key {repeated[:80]!r} appears twice")
    return content


def _json_problem(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, RecursionError):
        return "too deeply nested"
    if isinstance(error, MemoryError):
        return "not enough memory"
    return str(error) if isinstance(error, _JsonError) else "not valid JSON"


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
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or not math.isfinite(value)
            ):
                raise RecordError(
                    f"{path}: a region has no valid {name}, so it cannot be drawn; predict the "
                    "slide again."
                )


def _check_consistency(path: Path, content: _Content) -> None:
    """Refuse parts that contradict each other."""
    steps = {region.step for region in content.regions} - set(range(len(content.steps)))
    if not (content.prediction.probabilities or content.prediction.outputs):
        raise _incomplete(path, "no class has a probability")
    threshold, spread = content.threshold, content.spread
    known = content.prediction.probabilities or content.prediction.outputs
    if threshold is not None and threshold.label not in content.prediction.probabilities:
        raise _incomplete(path, f"the threshold is for {threshold.label!r}, which is no class")
    for each in content.thresholds:
        if each.label not in content.prediction.outputs:
            raise _incomplete(path, f"a threshold is for {each.label!r}, which is no label")
    if content.members and set(spread) != set(known):
        raise _incomplete(path, "the spread is not that of the predicted numbers")
    if steps:
        raise _incomplete(path, f"a region is at step {min(steps)} of {len(content.steps)}")
    if not all(0 <= share <= 1 for share in content.prediction.probabilities.values()):
        raise _incomplete(path, "a probability is not in 0..1")
    for rounds in (content.rounds, *(member.rounds for member in content.members)):
        _check_rounds(path, rounds, content.prediction.probabilities)
    if any(not 0 <= count <= MAX_PATCHES for each in content.members for count in each.patches):
        raise _incomplete(path, "the patches of a member are impossible")
    width, height = content.slide.size
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise _incomplete(path, f"{width} x {height} px is not the size of a slide")
    if not 0 < content.slide.mpp < math.inf:
        raise _incomplete(path, f"{content.slide.mpp:g} µm per pixel is impossible")
    if content.cost.exhaustive is None:
        raise _incomplete(path, "the exhaustive cost is missing")


def _check_rounds(
    path: Path, rounds: Sequence[RoundFacts], probabilities: Mapping[str, float]
) -> None:
    """Refuse patches that are impossible or decrease, and probabilities of other classes."""
    patches = [0, *(each.patches for each in rounds), MAX_PATCHES]
    if any(after < before for before, after in pairwise(patches)):
        raise _incomplete(path, "the patches of a round are impossible, or fewer than before")
    if any(each.probabilities.keys() != probabilities.keys() for each in rounds):
        raise _incomplete(path, "a round has other classes than the prediction")
    if not all(0 <= share <= 1 for each in rounds for share in each.probabilities.values()):
        raise _incomplete(path, "a probability of a round is not in 0..1")


def _incomplete(path: Path, reason: str) -> RecordError:
    return RecordError(f"{path}: incomplete prediction ({reason}); predict the slide again.")
