"""Why predictions stopped, and the running answers of those that visit in rounds."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import RoundFacts
from parfocal.explain.report.charts import Axis, Line, line_chart

LINES = 8  # in a chart of running answers
NUMBER = re.compile(r"\d[\d.,]*(?<=\d)")


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
    """How one model visited one slide; `label` is what was finally predicted."""

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


def running_answers(records: Sequence[PredictionRecord]) -> Markup | None:
    """Draw the running answers that took the most patches; None without any."""
    visits = [visit for visit in _visits(records) if _is_drawn(visit)]
    if not visits:
        return None
    hardest = sorted(visits, key=lambda visit: -visit.rounds[-1].patches)[:LINES]
    return line_chart(
        [_line(visit) for visit in hardest],
        Axis("visited patches", high=None, integer=True),
        Axis("probability of the predicted class"),
    )


def _is_drawn(visit: _Visit) -> bool:
    return len(visit.rounds) > 1 and visit.label in visit.rounds[0].probabilities


def _line(visit: _Visit) -> Line:
    patches = tuple(float(each.patches) for each in visit.rounds)
    return Line(
        visit.name, patches, tuple(each.probabilities[visit.label] for each in visit.rounds)
    )


def _visits(records: Sequence[PredictionRecord]) -> Iterator[_Visit]:
    for record in records:
        slide, label = record.slide.id, record.label
        if not record.members:
            visited = sum(region.visited for region in record.regions)
            yield _Visit(slide, label, record.stop_reason, visited, record.rounds)
        for member in record.members:
            name, patches = f"{slide}, {member.name}", sum(member.patches)
            yield _Visit(name, label, member.stop_reason, patches, member.rounds)
