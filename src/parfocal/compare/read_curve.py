"""Read the curve of a comparison, to display it again."""

import json
from dataclasses import fields
from math import nan
from pathlib import Path
from typing import Any

from parfocal.compare.candidate import ComparisonError
from parfocal.compare.curve import Curve, CurvePoint
from parfocal.metrics.paired import ScoreSummary


def read_curve(path: Path) -> Curve:
    """Read curve.json of a comparison with `--shares`.

    Raises:
        ComparisonError: the file cannot be read, or is not a curve.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(_point(each) for each in content["points"])
        areas = {(each["model"], each["kind"]): each["area"] for each in content["areas"]}
        span = content["span"]
        return Curve(content["metric"], points, areas, None if span is None else tuple(span))
    except OSError as error:
        raise ComparisonError(
            f"{path}: cannot be read ({error.strerror}); give curve.json of a comparison with "
            "--shares."
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise ComparisonError(
            f"{path}: not the curve.json of a comparison ({error!r}); run compare --shares again."
        ) from None


def _point(values: dict[str, Any]) -> CurvePoint:
    """Return a point; a number that was not defined is null in the file."""
    known = {field.name: values[field.name] for field in fields(CurvePoint)}
    if values["score"] is None:
        return CurvePoint(**known)
    optional = {field.name for field in fields(ScoreSummary) if "None" in str(field.type)}
    score: dict[str, Any] = {
        key: nan if value is None and key not in optional else value
        for key, value in values["score"].items()
    }
    return CurvePoint(**{**known, "score": ScoreSummary(**score)})
