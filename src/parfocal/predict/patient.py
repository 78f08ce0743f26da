"""Predict one patient from open slides: one answer, and the record of what each slide has of it."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from parfocal.cost import Cost, ExhaustiveCost
from parfocal.encoders.encoder import Encoder
from parfocal.explain.patient_record import PatientRecord
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import PatientFacts
from parfocal.features.errors import StoreError
from parfocal.features.patient_input import PatientInput
from parfocal.features.slide_input import BagInput, SlideInput
from parfocal.grid import UnavailableMagnificationError
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.unit import fusion_of
from parfocal.predict.ensemble import cost_difference, join_members
from parfocal.predict.facts import exhaustive_cost, stored_exhaustive_cost
from parfocal.predict.patient_table import PatientSlides
from parfocal.predict.slide import record_of, run_on
from parfocal.prediction import Look, Prediction
from parfocal.slide.errors import SlideError
from parfocal.slide.failure import describe_failure, is_disk_full
from parfocal.slide.slide import Slide
from parfocal.slide.sources.url import SlidePath
from parfocal.tasks import task_of

READ_ERRORS = (SlideError, StoreError, OSError)  # any other may be an error of the model


@dataclass(frozen=True)
class OpenSlide:
    """An open slide of a patient.

    Args:
        path: path of the slide, as it was given.
        slide: the slide.
        slide_input: input of the model.
    """

    path: SlidePath
    slide: Slide
    slide_input: SlideInput


class UnreadableSlideError(Exception):
    """A slide of a patient that cannot be read.

    Args:
        path: the slide.
        reason: why it cannot be read.
    """

    def __init__(self, path: SlidePath, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


class Reading:
    """Raises an error of reading a slide as an `UnreadableSlideError`.

    Args:
        path: the slide.
        trained: the model, whose magnifications cannot be chosen.
    """

    def __init__(self, path: SlidePath, trained: Checkpoint) -> None:
        self._path, self._trained = path, trained

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, READ_ERRORS) or is_disk_full(error):
            return
        reason = describe_failure(error)
        if isinstance(error, UnavailableMagnificationError):
            reason = error.message_for_model(self._trained.magnifications)
        raise UnreadableSlideError(self._path, reason) from error


def classify_patient(
    patient: PatientSlides,
    opened: Sequence[OpenSlide],
    trained: Checkpoint,
    encoders: Sequence[Encoder],
    *,
    stored: bool,
    device: torch.device,
) -> PatientRecord:
    """Predict a patient from open slides, with a model or with the members of several.

    A patch that several members visit is read and encoded once.

    Args:
        patient: the patient, with its covariates.
        opened: the slides, at least one.
        trained: the trained model.
        encoders: encoders of the model; empty for stored features and models that take pixels.
        stored: whether the features are stored, so that none is encoded.
        device: device of the model.

    Raises:
        UnreadableSlideError: a patch of a slide cannot be read.
        CovariateError: a covariate of the model is absent.
        OutputNotFiniteError: the model's output is not finite.
    """
    joined = _join(opened, trained)
    counted = [_Counted() for _ in opened]
    runs = []
    members = trained.members or {"": trained}
    for number, (name, member) in enumerate(members.items()):
        member.model.to(device)
        before = [each.slide_input.cost_meter.total() for each in opened]
        given = _with_covariates(joined, patient, member, device)
        # The features of a single slide are read without a guard of their own.
        with Reading(opened[0].path, trained) if len(opened) == 1 else nullcontext():
            prediction = run_on(member, given, models_left=len(members) - number)
        if stored:
            _count_stored(joined, prediction, counted)
        after = [each.slide_input.cost_meter.total() for each in opened]
        added = [cost_difference(*each) for each in zip(before, after, strict=True)]
        runs.append(_Run(name, member, prediction, joined.split(prediction.looks), added))
    records = [
        _joined_record(each, position, trained, runs, encoders, stored=stored)
        for position, each in enumerate(opened)
    ]
    whole = PatientRecord(
        patient.id,
        records[0].model,
        records[0].probabilities,
        records[0].stop_reason,
        joined.cost_meter.total(_sum([each.cost.exhaustive for each in records])),
        tuple(records),
        trained.unit.fusion,
        dict(patient.covariates or {}),
    )
    return _with_facts(whole)


def _with_facts(whole: PatientRecord) -> PatientRecord:
    """Return the record of a patient whose slides say so, with their parts of the attention."""
    ids = tuple(each.slide.id for each in whole.slides)
    slides = tuple(
        replace(
            each,
            patient=PatientFacts(whole.id, ids, whole.share_of(each)),
            covariates=whole.covariates,
        )
        for each in whole.slides
    )
    return replace(whole, slides=slides)


@dataclass(frozen=True)
class _Run:
    """The prediction of one model: its looks at each slide, and what it added to their costs."""

    name: str
    trained: Checkpoint
    prediction: Prediction
    looks: Sequence[tuple[Look, ...]]
    added: Sequence[Cost]


class _Counted(defaultdict[int, set[int]]):
    """The stored patches of a slide that are in its bill, by step."""

    def __init__(self) -> None:
        super().__init__(set)


def _joined_record(
    opened: OpenSlide,
    position: int,
    trained: Checkpoint,
    runs: Sequence[_Run],
    encoders: Sequence[Encoder],
    *,
    stored: bool,
) -> PredictionRecord:
    """Return the record of one slide, of a model or of the mean answer of several.

    Args:
        opened: the slide.
        position: position of the slide among those of the patient.
        trained: the trained model.
        runs: prediction of each member for the patient.
        encoders: encoders of the model.
        stored: whether the features are stored.
    """
    records = {
        run.name: _slide_record(
            *(opened, run.trained, replace(run.prediction, looks=run.looks[position]), encoders),
            stored=stored,
        )
        for run in runs
    }
    first = next(iter(records.values()))
    if not trained.members:
        return first
    added = [run.added[position] for run in runs]
    return join_members(trained, records, added, first.cost)


def _join(opened: Sequence[OpenSlide], trained: Checkpoint) -> PatientInput:
    """Return the input of the model for a patient, without covariates."""
    unit = trained.unit
    fusion = fusion_of(unit, task_of(trained).classes)
    if trained.traits.takes_pixels and fusion is None:
        fusion = "mean"  # of the one slide
    return PatientInput.of(
        [each.slide.id for each in opened],
        [each.slide_input for each in opened],
        fusion=fusion,
        reading=lambda position: Reading(opened[position].path, trained),
    )


def _with_covariates(
    joined: PatientInput, patient: PatientSlides, trained: Checkpoint, device: torch.device
) -> PatientInput:
    """Return an input with the covariates of a patient, as a model encodes them."""
    encoding = trained.unit.covariates
    if encoding is None:
        return joined
    numbers = encoding.encode(patient.covariates or {}, patient.id)
    return replace(joined, covariates=numbers.to(device))


def _slide_record(
    opened: OpenSlide,
    trained: Checkpoint,
    prediction: Prediction,
    encoders: Sequence[Encoder],
    *,
    stored: bool,
) -> PredictionRecord:
    """Return the record of one slide, with the answer for the patient.

    Args:
        opened: the slide.
        trained: the trained model.
        prediction: prediction for the patient, with the looks at this slide.
        encoders: encoders of the model.
        stored: whether the features are stored.
    """
    slide_input = opened.slide_input
    if stored:
        assert isinstance(slide_input, BagInput)
        exhaustive = stored_exhaustive_cost(slide_input, trained)
    else:
        exhaustive = exhaustive_cost(opened.slide, slide_input, trained, encoders)
    of_slide = replace(prediction, running=None, rounds=())
    record = record_of(opened.slide, trained, slide_input, of_slide, exhaustive)
    if isinstance(slide_input, BagInput):  # also of a step at which nothing was visited
        mpps = tuple(slide_input.grid.mpps[step] for step in slide_input.steps)
        record = replace(record, mpps=mpps[: len(prediction.looks)])
    return record


def _count_stored(
    patient: PatientInput, prediction: Prediction, counted: Sequence[_Counted]
) -> None:
    """Add the visited patches to the bill of each slide; stored features add nothing else."""
    by_slide = patient.locate_by_slide(prediction.looks)
    for each, looks, known in zip(patient.slides, by_slide, counted, strict=True):
        for step, look in enumerate(looks):
            new = set(look.rows.tolist()) - known[step]
            each.cost_meter.add_patches(step, len(new))
            known[step] |= new


def _sum(costs: Sequence[ExhaustiveCost | None]) -> ExhaustiveCost | None:
    """Return the cost of processing all slides exhaustively."""
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    macs = [cost.macs for cost in known if cost.macs is not None]
    return ExhaustiveCost(
        known[0].magnification,
        sum(cost.patches for cost in known),
        sum(cost.descendants for cost in known),
        sum(macs) if len(macs) == len(known) else None,
        sum(cost.pixels for cost in known),
    )
