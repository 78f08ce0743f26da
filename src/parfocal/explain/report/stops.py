"""Reasons for stopping, and running answers of models that visit patches in rounds."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from markupsafe import Markup

from parfocal.explain.map_layout import shorten
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import RoundFacts
from parfocal.explain.report.charts import Axis, Line, line_chart

LINES = 8  # at most, in a chart of running answers; more if one slide has more folds
NUMBER = re.compile(r"\d[\d.,]*(?<=\d)(?:e[+-]?\d+)?")
NAME_PX, NAME_WIDTH = 8, 160  # font size and width of a name in the legend


@dataclass(frozen=True)
class Stop:
    """A reason to stop.

    Args:
        reason: why the model visited no more patches.
        answers: number of answers with this reason: one per slide, or one per slide and fold.
        patches: median number of patches visited for these answers.
    """

    reason: str
    answers: int
    patches: float


@dataclass(frozen=True)
class _Visit:
    """How one model visited one slide; `label` is the class predicted for the slide."""

    name: str
    label: str
    reason: str
    patches: int
    rounds: tuple[RoundFacts, ...]


def stops(records: Sequence[PredictionRecord]) -> list[Stop]:
    """Count the reasons to stop, the most frequent first.

    Reasons that differ only in numbers, such as seconds, are one, with "…" for each number.
    """
    groups: dict[str, list[_Visit]] = {}
    for visit in _visits(records):
        groups.setdefault(NUMBER.sub("…", visit.reason), []).append(visit)
    found = [
        Stop(
            visits[0].reason if len({visit.reason for visit in visits}) == 1 else reason,
            len(visits),
            median(visit.patches for visit in visits),
        )
        for reason, visits in groups.items()
    ]
    return sorted(found, key=lambda stop: -stop.answers)


@dataclass(frozen=True)
class RunningAnswers:
    """A chart of the running answers of the slides with the most visited patches.

    Args:
        chart: a line for each answer; several for a slide that several folds predict.
        shown: number of slides in the chart.
        slides: number of slides with at least two rounds.
    """

    chart: Markup
    shown: int
    slides: int


def running_answers(records: Sequence[PredictionRecord]) -> RunningAnswers | None:
    """Draw the running answers of the slides with the most visited patches; None without any."""
    by_slide = [[visit for visit in _visits([record]) if _has_answers(visit)] for record in records]
    several = [each for each in by_slide if any(len(visit.rounds) > 1 for visit in each)]
    hardest = sorted(several, key=_patches, reverse=True)
    if not hardest:
        return None
    ends = accumulate(len(visits) for visits in hardest)
    shown = max(1, sum(lines <= LINES for lines in ends))
    chart = line_chart(
        [_line(visit) for visits in hardest[:shown] for visit in visits],
        Axis("visited patches", high=None, integer=True),
        Axis("probability of the predicted class"),
    )
    return RunningAnswers(chart, shown, len(hardest))


def _patches(visits: Sequence[_Visit]) -> int:
    return max(visit.rounds[-1].patches for visit in visits)


def _has_answers(visit: _Visit) -> bool:
    return bool(visit.rounds) and visit.label in visit.rounds[0].probabilities


def _line(visit: _Visit) -> Line:
    patches = tuple(float(each.patches) for each in visit.rounds)
    probabilities = tuple(each.probabilities[visit.label] for each in visit.rounds)
    return Line(shorten(visit.name, NAME_PX, NAME_WIDTH), patches, probabilities)


def _visits(records: Sequence[PredictionRecord]) -> Iterator[_Visit]:
    for record in records:
        slide, label = record.slide.id, record.label
        if not record.members:
            visited = sum(region.visited for region in record.regions)
            yield _Visit(slide, label, record.stop_reason, visited, record.rounds)
        for member in record.members:
            name, patches = f"{member.name}, {slide}", sum(member.patches)
            yield _Visit(name, label, member.stop_reason, patches, member.rounds)
