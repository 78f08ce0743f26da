"""Several models as one: the mean of their answers, and how far they lie apart.

The models are run one after the other on one open slide, so that a patch is read and encoded once,
whichever of them visit it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import stdev

from parfocal.cost import Cost
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import BudgetFacts, MemberFacts, Region
from parfocal.models.budget import all_met
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.facts import described, model_facts, threshold_facts, thresholds_facts
from parfocal.prediction import OFF_GRID
from parfocal.tasks import Answer, mean_answer

CLOSEST_NOTE = "The visited squares are those of {name}, whose answer is closest to the mean."


def join_members(
    trained: Checkpoint, records: Mapping[str, PredictionRecord], added: Sequence[Cost], total: Cost
) -> PredictionRecord:
    """Return the record of the mean answer.

    The visited patches are those of all models. Where a model chooses squares of any place and
    size, they are those of the model whose answer is closest to the mean.

    Args:
        trained: the model with members.
        records: record of each member, by name.
        added: what each member added to the cost.
        total: cost of all members together.
    """
    given = list(records.values())
    answers = [Answer(each.probabilities, each.outputs) for each in given]
    mean = mean_answer(answers)
    facts = tuple(
        MemberFacts(
            name,
            record.model.weights_sha256,
            record.probabilities,
            record.outputs,
            tuple(_visited(record, step) for step in range(len(record.mpps))),
            cost,
            record.stop_reason,
            record.rounds,
        )
        for (name, record), cost in zip(records.items(), added, strict=True)
    )
    joined = _with_patches_of_all(records, _numbers(mean))
    return replace(
        joined,
        model=model_facts(trained),
        probabilities=mean.probabilities,
        outputs=mean.outputs,
        predicted=described(trained, mean),
        stop_reason=_reasons({name: each.stop_reason for name, each in records.items()}),
        cost=total,
        budget=_budget_of_all([each.budget for each in given]),
        notes=tuple(dict.fromkeys((*joined.notes, *(n for each in given for n in each.notes)))),
        threshold=threshold_facts(trained),
        thresholds=thresholds_facts(trained),
        members=facts,
        spread=spread_of(answers),
    )


def _reasons(reasons: Mapping[str, str]) -> str:
    """Return why the models stopped, for each of them unless all had the same reason."""
    if len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def spread_of(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the standard deviation of each number over several answers; 0 for one answer."""
    numbers = [_numbers(answer) for answer in answers]
    return {
        name: stdev(each[name] for each in numbers) if len(numbers) > 1 else 0.0
        for name in numbers[0]
    }


def cost_difference(before: Cost, after: Cost) -> Cost:
    """Return what was added to a cost."""
    length = len(after.patches)
    patches = (*before.patches, *[0] * length)
    encoding = (*before.encoding_macs, *[0] * length)
    return Cost(
        patches=tuple(b - a for a, b in zip(patches, after.patches, strict=False)),
        pixels_decoded=after.pixels_decoded - before.pixels_decoded,
        bytes_read=_minus(after.bytes_read, before.bytes_read),
        macs=_minus(after.macs, before.macs),
        seconds={key: after.seconds[key] - before.seconds.get(key, 0.0) for key in after.seconds},
        encoding_macs=tuple(b - a for a, b in zip(encoding, after.encoding_macs, strict=False)),
        requests=_minus(after.requests, before.requests),
        file_bytes=after.file_bytes,
    )


def _budget_of_all(budgets: Sequence[BudgetFacts | None]) -> BudgetFacts | None:
    """Return the budget of each model, and whether all met it."""
    known = [budget for budget in budgets if budget is not None]
    return replace(known[0], met=all_met([each.met for each in known])) if known else None


def _minus(after: int | None, before: int | None) -> int | None:
    return None if after is None else after - (before or 0)


def _numbers(answer: Answer) -> dict[str, float]:
    return answer.probabilities or answer.outputs


def _visited(record: PredictionRecord, step: int) -> int:
    return sum(region.visited for region in record.regions_at(step))


def _with_patches_of_all(
    records: Mapping[str, PredictionRecord], mean: Mapping[str, float]
) -> PredictionRecord:
    """Return a record with the patches of all members, or of the one closest to the mean."""
    groups = [each.regions for each in records.values()]
    if all(region.score_kind not in OFF_GRID for group in groups for region in group):
        # With a budget, some members may have reached fewer magnifications than others.
        deepest = max(records.values(), key=lambda each: len(each.mpps))
        return replace(deepest, regions=_joined_regions(groups), rounds=())

    def distance(name: str) -> float:
        own = records[name].probabilities or records[name].outputs
        return sum(abs(own[key] - mean[key]) for key in mean)

    closest = min(records, key=distance)
    chosen = records[closest]
    return replace(chosen, notes=(*chosen.notes, CLOSEST_NOTE.format(name=closest)), rounds=())


def _joined_regions(groups: Sequence[Sequence[Region]]) -> tuple[Region, ...]:
    """Join the patches of several models; a patch's score is the mean over all models.

    A model that did not visit a patch gives it a score of 0, so that the scores of a magnification
    still sum to 1.
    """
    found: dict[str, list[Region]] = {}
    for group in groups:
        for region in group:
            found.setdefault(region.id, []).append(region)
    visits: dict[str, int] = {}  # order of the first visit
    for group in groups:
        for region in sorted(group, key=lambda each: -1 if each.order is None else each.order):
            if region.visited:
                visits.setdefault(region.id, len(visits))
    joined = []
    for key, regions in found.items():
        zooms = [each.zoom_attention for each in regions if each.zoom_attention is not None]
        joined.append(
            replace(
                regions[0],
                score=sum(each.score for each in regions) / len(groups),
                selected=any(each.selected for each in regions),
                order=visits.get(key),
                zoom_attention=sum(zooms) / len(groups) if zooms else None,
                probabilities=None,
                round=None,
            )
        )
    return tuple(sorted(joined, key=lambda region: region.step))
