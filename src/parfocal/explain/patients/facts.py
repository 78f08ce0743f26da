"""What the page of a patient says: the answer, threshold, spread, cost and reach."""

from collections.abc import Iterator

from parfocal.explain.bill import percent_of_tissue
from parfocal.explain.patients.card import ModelCard
from parfocal.explain.patients.patient import Patient
from parfocal.tasks.contract import Answer

RISK_NOTE = "A higher risk means that the event is expected earlier; the number has no unit."
MAX_MODELS = 10  # listed with their answers


def headline_of(patient: Patient, card: ModelCard | None) -> str:
    """Return what was predicted, in a few words.

    Args:
        patient: the patient.
        card: the model card, whose task describes a mean; None if the run is not known.
    """
    if not patient.is_mean:
        return patient.first.label
    values = {value.name: value.value for value in patient.values}
    threshold = patient.threshold
    if threshold is not None and len(values) == 2 and threshold.label in values:
        (other,) = values.keys() - {threshold.label}
        return threshold.label if values[threshold.label] >= threshold.value else other
    if patient.first.probabilities:
        return patient.values[0].name
    if card is not None and card.task is not None:
        limits = {each.label: each.value for each in patient.first.thresholds}
        return card.task.describe(Answer(outputs=values), limits)
    return ", ".join(f"{value.name} {value.format(value.value)}" for value in patient.values)


def facts_of(patient: Patient, card: ModelCard | None) -> list[tuple[str, str]]:
    """Return names and texts of what is known about the prediction of a patient.

    Args:
        patient: the patient.
        card: the model card; None if the run of the model is not known.
    """
    return [
        *_threshold(patient, card),
        ("uncertainty", _uncertainty(patient)),
        *_cost(patient),
        *_covariates(patient),
    ]


def _threshold(patient: Patient, card: ModelCard | None) -> Iterator[tuple[str, str]]:
    threshold = patient.threshold
    if threshold is not None:
        text = f"{threshold.label} at or above {threshold.value:.3f} ({threshold.rule})"
        point = None if card is None else card.operating_point
        yield "threshold", text if point is None else f"{text}: {point.summary}"
    elif patient.first.probabilities:
        yield "threshold", "none: the most probable class"
    for each in patient.first.thresholds:
        yield "threshold", f"{each.label} at or above {each.value:.3f} ({each.rule})"
    if "risk" in patient.first.outputs:
        yield "risk", RISK_NOTE


def _uncertainty(patient: Patient) -> str:
    top = patient.values[0]
    if len(top.of_models) > 1:
        listed = [f"{name} {top.format(value)}" for name, value in top.of_models.items()]
        more = [f"and {len(listed) - MAX_MODELS} more"] if len(listed) > MAX_MODELS else []
        text = f"{top.name} {top.text} over {len(listed)} models: " + ", ".join(
            listed[:MAX_MODELS] + more
        )
    else:
        text = "one model, so no spread"
    if not top.of_slides:
        return text
    low, high = top.format(min(top.of_slides)), top.format(max(top.of_slides))
    return f"{text}; between slides, {top.name} is {low} to {high}"


def _cost(patient: Patient) -> Iterator[tuple[str, str]]:
    share = f" ({patient.patches / patient.all_patches:.1%})" if patient.all_patches else ""
    yield "visited", f"{patient.patches:,} of {patient.all_patches:,} patches{share}"
    yield "time", f"{patient.seconds:.1f} s"
    reach = patient.unreachable
    if reach is None:
        yield "out of reach", "unknown"
    else:
        most = ", on the slide with the most" if len(patient.slides) > 1 else ""
        yield "out of reach", percent_of_tissue(reach).removesuffix(" out of reach") + most
    budgets = dict.fromkeys(
        slide.record.budget.limit for slide in patient.slides if slide.record.budget is not None
    )
    if budgets:
        yield "budget", ", ".join(budgets)
    reasons = dict.fromkeys(slide.record.stop_reason for slide in patient.slides)
    yield "stopped because", "; ".join(reasons)


def _covariates(patient: Patient) -> Iterator[tuple[str, str]]:
    """Yield the clinical values that the model used."""
    given = patient.first.covariates
    if given:
        yield (
            "clinical values",
            ", ".join(f"{name} {text or 'missing'}" for name, text in given.items()),
        )
