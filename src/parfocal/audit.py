"""Measure what zooming costs: predictions with the model's own selection and with every patch.

The regret of a magnification is the attention that the model, given every patch, puts on patches
that it did not visit with its own selection. Tissue without a patch, which the model cannot visit
(`slide.roots: share`), counts in proportion to its area: if that is a share u of the tissue, the
regret is u + (1 - u) times the regret over the patches.

The attention needs no classes, so the regret is the same for every task. What zooming costs in the
prediction is the share of other labels for a task with classes, and otherwise the difference of the
predicted numbers, of the scores, and of the loss where each slide has one.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from parfocal.bag import Bag, ExhaustiveBag
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.leakage import refuse_copies
from parfocal.dataset.split import read_left_out
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution
from parfocal.evaluate.batch import InputsSource, SlideBatch
from parfocal.evaluate.heldout import (
    find_training_slides,
    has_no_slides,
    run_parts,
    select_slides,
    training_slides_error,
)
from parfocal.evaluate.result import Failure
from parfocal.evaluate.run import checkpoint_inputs
from parfocal.evaluate.sufficiency import measure_sufficiency
from parfocal.evaluate.zoom_audit import Audit, SlideAudit, output_units
from parfocal.features.open_folder import Features, open_features
from parfocal.features.slide_input import BagInput, SlideInput
from parfocal.files import refuse_slide_folder, write_together
from parfocal.metrics import Score, mean_with_interval, proportion_with_interval
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import require_finite
from parfocal.models.unit import refuse_units
from parfocal.models.visit import answer, given_budget, runner
from parfocal.operating_point import OperatingPoint
from parfocal.prediction import Look, Prediction
from parfocal.printable import all_failed
from parfocal.slide.sources.url import RemoteAccess
from parfocal.tasks import Task, read_task_cohort, task_of

__all__ = ["Audit", "AuditError", "ExhaustiveBag", "SlideAudit", "audit", "regret_of"]


class AuditError(Exception):
    """An audit that is impossible; the message says why."""


def audit(
    run: Path,
    cohort_csv: Path,
    out: Path,
    *,
    features: Features | None = None,
    cache: Path | None = None,
    device: str = "auto",
    external: bool = False,
    again: bool = False,
    budget: str | None = None,
    trust_remote_code: bool = False,
    distribution: Distribution = EVERYTHING_HERE,
    access: RemoteAccess | None = None,
) -> Audit:
    """Measure what zooming costs on the test slides of a run; write audit.json and audit.csv.

    Args:
        run: folder of a trained run.
        cohort_csv: table of the slides, with labels that the model knows.
        out: folder to write to.
        features: folder of features by parfocal or by another tool, or folders by magnification;
            None to read and encode every patch.
        cache: folder of the feature cache; None for no cache.
        device: "auto", "cpu" or a CUDA device.
        external: whether the cohort is another than the one of the run; see `evaluate`.
        again: whether to run the model again on slides that an earlier call has finished.
        budget: how much of each slide the model visits, such as "share=5%" or "settled"; None for
            what it visits by itself.
        trust_remote_code: whether to run code from the repository of an encoder.
        distribution: how the slides are divided among processes.
        access: how remote slides are read; None for the defaults.

    Raises:
        AuditError: the model does not zoom, or every slide failed.
        EvaluationError: there are no test slides, or some are training slides.
        CohortError: the cohort is invalid, or has a label that the model does not know.
        CheckpointError: the run cannot be used.
    """
    trained = Checkpoint.load(run, trust_remote_code=trust_remote_code)
    _refuse_without_zoom(trained)
    trained = given_budget(trained, budget, stored=features is not None)
    cohort = read_task_cohort(cohort_csv, task_of(trained), access=access)
    refuse_slide_folder(out, (slide.path for slide in cohort.slides))
    external = external or has_no_slides(run, trained)
    folder = None if features is None else open_features(features, cohort.slides)
    parts = {} if external else run_parts(cohort, run, trained, folder)
    left_out = {} if external else read_left_out(run) or {}
    slides = select_slides(cohort, parts, "test", left_out)
    refuse_copies(replace(cohort, slides=tuple(slides)), folder)
    training_ids = find_training_slides(trained, slides, parts, folder, external=external)
    if training_ids:
        raise training_slides_error(
            cohort_csv, training_ids, len(slides), external=external, may_allow=False
        )
    open_inputs = partial(checkpoint_inputs, trained, folder, cache)
    here = open_inputs(distribution.device_here(device))
    inputs = InputsSource(partial(open_inputs, device), here)
    process = partial(_audit_slide, trained=trained)
    stored: Literal["stored", "live"] = "stored" if features else "live"
    batch = SlideBatch(
        *("auditing", SlideAudit, process, trained, inputs, stored, out),
        again=again,
        distribution=distribution,
        journal_file="audit.jsonl",
    )
    audited, failed = batch.run(slides)
    if not audited:
        raise AuditError(f"{all_failed(len(failed), 'slide')}; the first: {failed[0].message}")
    result = _summarize(trained, audited, failed)
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"
    files = {"audit.json": content, "audit.csv": result.to_csv()}
    write_together({out / name: text.encode() for name, text in files.items()})
    return result


def regret_of(zoomed: Look, exhaustive: Look, unreachable: float = 0.0) -> float:
    """Compute the exhaustive attention on patches that the zoomed look did not visit.

    Args:
        zoomed: the look with the model's own selection.
        exhaustive: the look at all patches of the same magnification.
        unreachable: share of the tissue that has no patch; it counts as not visited.
    """
    missed = ~torch.isin(exhaustive.rows, zoomed.rows)
    return unreachable + (1 - unreachable) * float(exhaustive.score[missed].sum())


def _refuse_without_zoom(trained: Checkpoint) -> None:
    refuse_units(trained.unit, "an audit")
    if trained.traits.takes_pixels:
        raise AuditError(
            f"model {trained.model_name} takes pixels, so it cannot be given every patch; use the "
            "run of a model that zooms into patches."
        )
    if not trained.traits.zooms:
        raise AuditError(
            f"model {trained.model_name} visits every patch already; use the run of a model that "
            "zooms."
        )


def _audit_slide(slide: CohortSlide, opened: SlideInput, trained: Checkpoint) -> SlideAudit:
    bag = opened.model_input
    assert isinstance(bag, Bag)
    run = runner(trained, opened)
    with torch.no_grad():
        zoomed = answer(trained, opened).prediction
        exhaustive = run(ExhaustiveBag(bag))
        task = task_of(trained)
        point = trained.operating_point or OperatingPoint()
        decision = point.decision(trained.labels)
        sufficiency = None
        if task.classes:
            temperature = point.temperature or 1.0
            sufficiency = measure_sufficiency(
                *(run, bag, exhaustive), decision=decision, temperature=temperature
            )
    for prediction in (zoomed, exhaustive):
        require_finite(prediction, slide.slide_id)
    # Without the rows of patches that do not exist.
    visited, every = opened.locate(zoomed.looks), opened.locate(exhaustive.looks)
    sharpest = opened.sharpest
    lost = opened.unreachable if isinstance(opened, BagInput) else None
    # A model that stops early has no look at the highest magnifications.
    nothing = [Look(look.rows[:0], look.score[:0]) for look in every[len(visited) :]]
    looks = zip([*visited, *nothing], every, lost or (0.0,) * len(every), strict=True)
    return SlideAudit(
        slide,
        _numbers(zoomed, trained),
        _numbers(exhaustive, trained),
        tuple(regret_of(*look) for look in looks),
        lost,
        visited=sum(len(look.rows) for look in visited),
        patches=len(every[-1].rows) if sharpest is None else sharpest.patches,
        sufficiency=sufficiency,
        scaled_difference=None if task.classes else _difference(zoomed, exhaustive, task),
        loss_increase=_loss_increase(zoomed, exhaustive, task, slide),
        decision=decision,
    )


def _numbers(prediction: Prediction, trained: Checkpoint) -> tuple[float, ...]:
    """Return class probabilities, or what a task without classes answers."""
    task, logits = task_of(trained), trained.calibrated(prediction.logits.double().cpu())
    if task.classes:
        return tuple(logits.softmax(dim=0).tolist())
    return tuple(task.answer(logits).outputs.values())


def _difference(zoomed: Prediction, exhaustive: Prediction, task: Task) -> float:
    """Return the largest absolute difference of a number, see `DIFFERENCE_UNIT`."""
    units = output_units(task)
    one, other = (task.answer(each.logits.double().cpu()).outputs for each in (zoomed, exhaustive))
    return max(abs(one[name] - other[name]) / units.get(name, 1.0) for name in one)


def _loss_increase(
    zoomed: Prediction, exhaustive: Prediction, task: Task, slide: CohortSlide
) -> float | None:
    """Return by how much the loss is higher with the own selection; None where undefined."""
    if task.compares_slides or not task.known(slide):
        return None
    target = task.encode(slide)[None]
    losses = [task.loss(each.logits.double().cpu()[None], target) for each in (zoomed, exhaustive)]
    return float(losses[0] - losses[1])


def _summarize(
    trained: Checkpoint, audited: Sequence[SlideAudit], failed: Sequence[Failure]
) -> Audit:
    patients = tuple(each.slide.patient_id for each in audited)

    lost = [each.unreachable[-1] for each in audited if each.unreachable is not None]

    def mean(values: Sequence[float]) -> Score:
        return mean_with_interval(np.array(values, dtype=float), patients)

    return Audit(
        trained,
        tuple(audited),
        tuple(failed),
        agreement=proportion_with_interval(
            np.array([each.agrees for each in audited], dtype=float), patients
        )
        if task_of(trained).classes
        else None,
        difference=mean([each.difference for each in audited]),
        regret=tuple(mean(step) for step in zip(*(each.regret for each in audited), strict=True)),
        unreachable=mean(lost) if len(lost) == len(audited) else None,
        loss_increase=_mean_increase(audited),
    )


def _mean_increase(audited: Sequence[SlideAudit]) -> Score | None:
    known = [(each.loss_increase, each.slide.patient_id) for each in audited]
    found = [(increase, patient) for increase, patient in known if increase is not None]
    if not found:
        return None
    increases, patients = zip(*found, strict=True)
    return mean_with_interval(np.array(increases, dtype=float), patients)
