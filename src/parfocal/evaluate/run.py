"""Evaluate a trained model on a cohort; write metrics.json, predictions.csv and report.html."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import Inputs, NoInputs, cohort_inputs, refuse_features
from parfocal.dataset.leakage import refuse_copies
from parfocal.dataset.lesions import Lesions
from parfocal.dataset.outlines import Outlines
from parfocal.dataset.split import read_left_out
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution
from parfocal.encoders.device import choose_device
from parfocal.evaluate.batch import InputsSource, SlideBatch
from parfocal.evaluate.evaluation import Evaluation
from parfocal.evaluate.folds import Folds, evaluate_members
from parfocal.evaluate.heldout import (
    EvaluationError,
    find_training_slides,
    has_no_slides,
    run_parts,
    select_slides,
    training_slides_error,
)
from parfocal.evaluate.result import (
    EvaluatedSplit,
    EvaluationSettings,
    Failure,
    SlideResult,
    labeled_predictions,
)
from parfocal.evaluate.slide import evaluate_slide
from parfocal.evaluate.task_scores import patient_scores, slide_scores
from parfocal.explain.report import optional_report, write_report
from parfocal.features.open_folder import Features, open_features
from parfocal.features.slide_input import SlideInput
from parfocal.files import OutputError, refuse_slide_folder, write_together
from parfocal.metrics import average_by_patient, compute_scores
from parfocal.models.budget import Budget
from parfocal.models.checkpoint import Checkpoint, SettingValue
from parfocal.models.encoder_places import with_encoders_at
from parfocal.models.ensemble import load_trained
from parfocal.models.late_fusion import Fusion
from parfocal.models.unit import Per
from parfocal.models.visit import given_budget, refuse_fused
from parfocal.printable import all_failed
from parfocal.slide.sources.url import RemoteAccess
from parfocal.tasks import read_task_cohort, task_of
from parfocal.tasks.registry import refuse_fusion
from parfocal.tasks.units import entries_of, unit_inputs

MAX_LISTED = 3  # reasons listed in the message if every slide failed


def evaluate(
    run: Path,
    cohort_csv: Path,
    out: Path,
    *,
    split: EvaluatedSplit = "test",
    features: Features | None = None,
    cache: Path | None = None,
    device: str = "auto",
    allow_training_slides: bool = False,
    external: bool = False,
    overrides: Mapping[str, SettingValue] | None = None,
    encoder_at: str | Mapping[float, str] | None = None,
    trust_remote_code: bool = False,
    again: bool = False,
    distribution: Distribution = EVERYTHING_HERE,
    per: Per | None = None,
    fusion: Fusion | None = None,
    skip_unreadable: bool = False,
    budget: str | Budget | None = None,
    report: bool = True,
    resamples: int = 2000,
    seed: int = 0,
    access: RemoteAccess | None = None,
) -> Evaluation:
    """Evaluate a trained model; write metrics.json, predictions.csv and report.html.

    The part of a slide is the one in the run; for a slide that is not in the run, the one of the
    split column, or else `test`. Whatever goes wrong with a slide, it is recorded as failed, and
    the others follow. The results of finished slides are kept in slides.jsonl.

    Args:
        run: folder of a trained run.
        cohort_csv: table of the slides, with labels that the model knows.
        out: folder to write to.
        split: the part to evaluate on, or "all".
        features: folder of features by parfocal or by another tool, or folders by magnification;
            None to read and encode the slides.
        cache: folder of the feature or pixel cache; None for no cache.
        device: "auto", "cpu" or a CUDA device.
        allow_training_slides: whether to evaluate on training and validation slides, too.
        external: whether the cohort is another than the one of the run, so that equal ids are
            coincidence: the part of a slide is that of the split column, and only a slide with
            the same file counts as a training slide.
        overrides: model settings that replace those of the training.
        encoder_at: where the encoder is now; see `with_encoders_at`. None for where it was.
        trust_remote_code: whether to run code from the repository of an encoder.
        again: whether to run the model again on slides that an earlier call has finished with the
            same model and settings.
        distribution: how the slides are divided among processes.
        per: what to make one prediction for, "slide" or "patient"; None for that of the training.
            A model of slides predicts per patient with a `fusion`.
        fusion: how the predictions for the slides of a patient are joined, "mean" or "max"; None
            for that of the training.
        skip_unreadable: whether a patient goes on with the other slides if one cannot be read; if
            False, the patient has failed.
        budget: how much of each slide the model visits, such as "share=5%" or "settled"; None for
            what it visits by itself.
        report: whether to write report.html.
        resamples: number of bootstrap resamples for the intervals.
        seed: seed of the resampling.
        access: how remote slides are read; None for the defaults.

    Raises:
        BudgetError: the budget is invalid, or the model cannot follow it.
        EvaluationError: there are no slides to evaluate on, all failed, or some are training
            slides; or the model cannot be asked per patient.
        CohortError: the cohort is invalid, has a label that the model does not know, or has the
            id of a training slide with another file.
        CheckpointError: the run cannot be used.
        OutputError: `out` has predictions of `predict`.
    """
    trained = load_trained(run, overrides=overrides, trust_remote_code=trust_remote_code)
    if encoder_at is not None:
        trained = with_encoders_at(trained, encoder_at)
    trained = given_budget(trained, budget, stored=features is not None)
    trained = asked_for(trained, per, fusion)
    refuse_fused(trained.unit, budget)
    cohort = read_task_cohort(
        cohort_csv, task_of(trained), columns=trained.unit.columns, access=access
    )
    refuse_slide_folder(out, (slide.path for slide in cohort.slides))
    _refuse_predictions(out)
    external = external or has_no_slides(run, trained)
    only = trained.magnifications[0] if len(trained.magnifications) == 1 else None
    folder = None
    if features is not None:
        if not trained.encoders:
            refuse_features(features)
        folder = open_features(features, cohort.slides, magnification=only)
    folds = Folds.of_run(run, trained, external=external) if trained.members else None
    if folds is not None:
        parts = dict(folds.parts)
        if not external:
            folds.check(cohort, run, folder)
    else:
        parts = {} if external else run_parts(cohort, run, trained, folder)
    first = run if folds is None else run / next(iter(trained.members))
    left_out = {} if external else read_left_out(first) or {}
    slides = select_slides(cohort, parts, split, left_out)
    refuse_copies(replace(cohort, slides=tuple(slides)), folder)
    names: dict[str, tuple[str, ...]] = {}
    if folds is None:
        training_ids = find_training_slides(trained, slides, parts, folder, external=external)
    else:
        names = {slide.slide_id: folds.names_for(slide, folder) for slide in slides}
        training_ids = [slide_id for slide_id, each in names.items() if not each]
    if training_ids and not allow_training_slides:
        raise training_slides_error(cohort_csv, training_ids, len(slides), external=external)
    entries = entries_of(trained.unit, slides, cohort.source.name)
    if folds is not None:
        names = {each.slide_id: folds.names_of_entry(each, names) for each in entries}
    open_inputs = partial(checkpoint_inputs, trained, folder, cache)
    here = open_inputs(distribution.device_here(device))
    inputs = InputsSource(partial(open_inputs, device), here)
    stored: Literal["stored", "live"] = "stored" if features else "live"
    lesions, negatives = Lesions.of_slides(slides), labels_without_lesions(slides)
    process = _SlideEvaluation(trained, lesions, negatives, folds, names)
    batch = SlideBatch(
        *("evaluating", SlideResult, process, trained, inputs, stored, out),
        again=again,
        skip_unreadable=skip_unreadable,
        distribution=distribution,
    )
    results, failed = batch.run(entries)
    settings = EvaluationSettings(
        split,
        stored,
        external,
        sum(slide.slide_id not in parts for slide in slides),
        len(training_ids),
        resamples,
        seed,
        trained.unit.per,
        trained.unit.fusion,
    )
    evaluation = _score(trained, settings, results, failed)
    _write(evaluation, run, out, report=report)
    return evaluation


@dataclass(frozen=True)
class _SlideEvaluation:
    """Evaluates one open slide or patient.

    Args:
        trained: the model.
        lesions: outlines of the slides.
        negatives: labels of slides without lesions.
        folds: the models of a run with folds; None for a single model.
        names: folds that may predict a slide or patient, by its id.
    """

    trained: Checkpoint
    lesions: Lesions
    negatives: frozenset[str]
    folds: Folds | None
    names: Mapping[str, tuple[str, ...]]

    def __call__(self, slide: CohortSlide, opened: SlideInput) -> SlideResult:
        """Run the model, or those of the folds."""
        outlines = self._true_outlines(slide, opened)
        if self.folds is None:
            return evaluate_slide(slide, opened, self.trained, outlines)
        own = self.folds.models_for(self.names[slide.slide_id])
        return evaluate_members(slide, opened, own, outlines)

    def _true_outlines(self, slide: CohortSlide, opened: SlideInput) -> Outlines | None:
        """Return the outlines; None for a patient, or if they are unknown or not needed."""
        if slide.slides or self.trained.traits.takes == "nothing":
            return None
        outlines = self.lesions.of_input(slide, opened)
        if outlines is None and slide.label in self.negatives:
            return Outlines(())  # its detections are false
        return outlines


def checkpoint_inputs(
    trained: Checkpoint, features: Features | None, cache: Path | None, device: str
) -> Inputs:
    """Move a model to a device, and return what opens slides or patients for it.

    Args:
        trained: the model.
        features: folder of features by parfocal or by another tool, or folders by magnification;
            None to read and encode the slides.
        cache: folder of the feature or pixel cache; None for no cache.
        device: "auto", "cpu" or a CUDA device.
    """
    selected = choose_device(device)
    trained.model.to(selected)
    classes = task_of(trained).classes
    if trained.traits.takes == "nothing":
        return unit_inputs(NoInputs(), trained.unit, classes)
    slides = cohort_inputs(
        trained.slide,
        partial(trained.load_encoders, device=device) if trained.encoders else None,
        features=features,
        feature_encoder=trained.encoders or None,
        skip_unavailable_magnifications=trained.skip_unavailable_magnifications,
        cache=cache,
        device=selected,
    )
    return unit_inputs(slides, trained.unit, classes)


def asked_for(trained: Checkpoint, per: Per | None, fusion: Fusion | None) -> Checkpoint:
    """Return a model that predicts slides or patients; see `evaluate`.

    Raises:
        EvaluationError: the model cannot be asked so.
    """
    try:
        unit = trained.unit.asked_for(per, fusion)
        refuse_fusion(unit.fusion, task_of(trained))
    except ValueError as error:
        raise EvaluationError(str(error)) from None
    return trained if unit == trained.unit else replace(trained, unit=unit)


def labels_without_lesions(slides: Sequence[CohortSlide]) -> frozenset[str]:
    """Return the labels of which no slide has outlines; none if no slide has any."""
    outlined = {slide.label for slide in slides if slide.outlines is not None}
    others = {slide.label for slide in slides} - outlined
    return frozenset(others) if outlined else frozenset()


def _score(
    trained: Checkpoint,
    settings: EvaluationSettings,
    results: Sequence[SlideResult],
    failed: Sequence[Failure],
) -> Evaluation:
    if not results:
        listed = [each.message for each in failed[:MAX_LISTED]]
        listed += ["..."] * (len(failed) > MAX_LISTED)
        raise EvaluationError(f"{all_failed(len(failed), settings.per)}: {'; '.join(listed)}")
    bootstrap = {"resamples": settings.resamples, "seed": settings.seed}
    task = task_of(trained)
    if not task.classes:
        scores = slide_scores(task, results, **bootstrap)
        by_patient = patient_scores(task, results, **bootstrap)
        return Evaluation(trained, settings, tuple(results), tuple(failed), scores, by_patient)
    predictions = labeled_predictions(trained.labels, results, trained.operating_point)
    try:
        by_patient = compute_scores(average_by_patient(predictions), **bootstrap)
    except ValueError as error:
        by_patient = str(error)
    scores = compute_scores(predictions, **bootstrap)
    return Evaluation(trained, settings, tuple(results), tuple(failed), scores, by_patient)


def _refuse_predictions(out: Path) -> None:
    """Refuse a folder of `predict`, because an evaluation would replace its predictions.csv.

    Raises:
        OutputError: there is a predictions.csv with the column of `predict` for failed slides.
    """
    table = out / "predictions.csv"
    if not table.exists():
        return
    with table.open(encoding="utf-8", errors="replace") as file:
        columns = file.readline().rstrip().split(",")
    if "failed" in columns:
        raise OutputError(
            f"{table}: `parfocal predict` wrote this table, and the evaluation would replace it; "
            "choose another --out."
        )


def _write(evaluation: Evaluation, run: Path, out: Path, *, report: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n"
    files = {"metrics.json": content, "predictions.csv": evaluation.to_csv()}
    write_together({out / name: text.encode() for name, text in files.items()})
    if not report:
        return
    page = out / "report.html"
    with optional_report(page, retry_command=f"parfocal report {run} {out} --out {page}"):
        write_report((run, out), page)
