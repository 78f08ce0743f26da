"""The curve of accuracy against share: each zooming model at several budgets after one training.

A share is of the patches that exhaustive processing would encode, at all magnifications together.
A point is drawn where it was measured, and a budget that the visits exceed on average, because the
lowest magnification alone costs more, is unattainable.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import log10
from statistics import fmean
from typing import Any, Literal

import numpy as np

from parfocal.compare.candidate import Candidate, ComparisonError
from parfocal.compare.scores import ScoreSummary
from parfocal.metrics import Resamplable
from parfocal.metrics.paired import paired_scores
from parfocal.models.budget import is_fraction, percent

Kind = Literal["wanted", "random", "own", "exhaustive"]
ROUNDING = 1e-6  # of a share
ALMOST_ALL = 0.99  # share of the patches; more than 1 with several magnifications


@dataclass(frozen=True)
class CurvePoint:
    """A model at one budget.

    Args:
        model: name of the model.
        kind: "wanted" for the patches that the model wants most; "random" for as many patches at
            random; "own" for what the model visits by itself; "exhaustive" if that is every patch.
        requested: the share of the budget; None without one.
        share: mean measured share of the patches.
        patches: mean number of patches visited per slide.
        macs: mean multiply-accumulates per slide, including encoding; None if unknown.
        seconds: mean seconds per slide read from its file; None if not measured.
        slides: number of predictions.
        not_met: number of slides whose lowest magnification alone exceeds the budget.
        score: the metric of the curve; None for a budget that is unattainable.
    """

    model: str
    kind: Kind
    requested: float | None
    share: float
    patches: float
    macs: float | None
    seconds: float | None
    slides: int
    not_met: int
    score: ScoreSummary | None

    @property
    def attained(self) -> bool:
        """Whether the visits stayed within the budget on average."""
        return self.requested is None or self.share <= self.requested * (1 + ROUNDING)


@dataclass(frozen=True)
class Curve:
    """The points of all models.

    Args:
        metric: the metric.
        points: the points, by model and kind, by ascending budget.
        areas: mean height of each curve over the logarithm of the share, between the shares that
            all curves reach, by model and kind; empty if they share no range.
        span: these shares; None if there are none.
    """

    metric: str
    points: tuple[CurvePoint, ...]
    areas: Mapping[tuple[str, str], float]
    span: tuple[float, float] | None

    def of(self, model: str, kind: Kind) -> list[CurvePoint]:
        """Return the attained points of a curve."""
        return [
            each
            for each in self.points
            if (each.model, each.kind) == (model, kind) and each.score is not None
        ]

    def _repr_svg_(self) -> str:
        """Return the picture of the curve, for notebooks."""
        from parfocal.compare.curve_picture import draw_curve  # noqa: PLC0415  # imports matplotlib

        return draw_curve(self).decode()


@dataclass(frozen=True)
class BudgetRuns:
    """The evaluations of a model at one budget, one per run.

    Args:
        model: name of the model.
        kind: see `CurvePoint`.
        requested: the share of the budget; None without one.
        metrics: content of metrics.json of each run.
        predictions: predictions of each run.
        macs: mean multiply-accumulates per slide; None if unknown.
        seconds: mean seconds per slide; None if not measured.
    """

    model: str
    kind: Kind
    requested: float | None
    metrics: Sequence[Mapping[str, Any]]
    predictions: Sequence[Resamplable]
    macs: float | None
    seconds: float | None

    @property
    def key(self) -> str:
        """A name of these evaluations, different from all others."""
        return f"{self.model} {self.kind} {self.requested}"

    @property
    def share(self) -> float | None:
        """Mean measured share of the patches; None if it is unknown on every slide."""
        shares = [each["cost"]["share_patches"] for each in self.metrics]
        return None if None in shares else fmean(each["mean"] for each in shares)

    def point(self, score: ScoreSummary) -> CurvePoint | None:
        """Return the point of these evaluations; None if the share is unknown."""
        if self.share is None:
            return None
        point = CurvePoint(
            self.model,
            self.kind,
            self.requested,
            self.share,
            fmean(sum(s["mean"] for s in each["cost"]["patches"]) for each in self.metrics),
            self.macs,
            self.seconds,
            sum(len(each.groups) for each in self.predictions),
            sum((each.get("budget") or {}).get("not_met") or 0 for each in self.metrics),
            score,
        )
        return point if point.attained else CurvePoint(**{**vars(point), "score": None})


def parse_shares(text: str) -> tuple[float, ...]:
    """Parse shares in percent, such as `1,2,5,10,20,100`, as ascending fractions.

    >>> parse_shares("5,1")
    (0.01, 0.05)

    Raises:
        ValueError: a share is not a number above 0 and at most 100, may be meant as a fraction
            (below 1 without %), or is listed twice.
    """
    shares: set[float] = set()
    for part in text.split(","):
        if is_fraction(part):
            raise ValueError(
                f"{part.strip()!r}: shares are in percent; write {100 * float(part):g} or "
                f"{part.strip()}%."
            )
        try:
            share = float(part.strip().removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise ValueError(
                f"{part.strip()!r} is not a share of the patches in percent, above 0 and at most "
                "100."
            )
        if share in shares:
            raise ValueError(f"{percent(share)} is listed twice; list it once.")
        shares.add(share)
    return tuple(sorted(shares))


def kind_without_zoom(share: float | None) -> Kind:
    """Return the kind of a point of a model that does not zoom, which may still leave patches out.

    Args:
        share: mean measured share of the patches; None if it is unknown.
    """
    return "exhaustive" if share is None or share > ALMOST_ALL else "own"


def zooming(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the models that can follow a budget.

    Raises:
        ComparisonError: there is none.
    """
    found = [
        each
        for each in candidates
        if each.settings.model.traits.zooms and not each.settings.model.traits.takes_pixels
    ]
    if not found:
        raise ComparisonError(
            "--shares: none of the models zooms into patches, so there is no curve; add one, such "
            "as zoommil-hindsight, or leave --shares out."
        )
    return found


def build_curve(
    budgeted: Sequence[BudgetRuns],
    own: Sequence[BudgetRuns],
    metric: str,
    *,
    resamples: int = 2000,
) -> Curve:
    """Score all points on the same resamples of patients.

    Args:
        budgeted: evaluations with budgets.
        own: evaluations without budgets.
        metric: the metric of the curve.
        resamples: number of resamples for the intervals.
    """
    every = [*budgeted, *own]
    paired = paired_scores(
        {each.key: each.predictions for each in every},
        metric,
        names=(metric,),
        resamples=resamples,
    )
    found = (each.point(paired[each.key].scores[metric]) for each in every)
    points = tuple(each for each in found if each is not None)
    areas, span = _areas(points)
    return Curve(metric, points, areas, span)


def _areas(
    points: Sequence[CurvePoint],
) -> tuple[dict[tuple[str, str], float], tuple[float, float] | None]:
    """Return the mean height of each curve, and the range of shares that they have in common."""
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for each in points:
        if each.kind in ("wanted", "random") and each.score is not None:
            value = (log10(each.share), each.score.value)
            curves.setdefault((each.model, each.kind), []).append(value)
    if not curves or any(len(curve) < 2 for curve in curves.values()):
        return {}, None
    low = max(min(curve)[0] for curve in curves.values())
    high = min(max(curve)[0] for curve in curves.values())
    if low >= high:
        return {}, None
    areas = {key: mean_height(sorted(curve), low, high) for key, curve in curves.items()}
    return areas, (10**low, 10**high)


def mean_height(curve: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Return the mean of a function between two places, linear between its points.

    >>> mean_height([(0.0, 0.0), (1.0, 1.0), (3.0, 1.0)], 0.0, 2.0)
    0.75

    Args:
        curve: places and values, by ascending place.
        low: where to begin.
        high: where to end.
    """
    places, values = zip(*curve, strict=True)
    inside = [low, *(place for place in places if low < place < high), high]
    heights = np.interp(inside, places, values)
    area = sum(
        (b - a) * (p + q) / 2
        for (a, b), (p, q) in zip(pairwise(inside), pairwise(heights.tolist()), strict=True)
    )
    return float(area / (high - low))


def curve_json(curve: Curve) -> str:
    """Return the text of curve.json."""
    content = {
        "format_version": 1,
        "metric": curve.metric,
        "points": [_json_point(each) for each in curve.points],
        "areas": [
            {"model": model, "kind": kind, "area": area}
            for (model, kind), area in curve.areas.items()
        ],
        "span": curve.span,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _json_point(point: CurvePoint) -> dict[str, object]:
    values = asdict(point)
    if point.score is not None:
        scores = asdict(point.score)
        values["score"] = {
            key: None if isinstance(value, float) and np.isnan(value) else value
            for key, value in scores.items()
        }
    return values | {"attained": point.attained}
