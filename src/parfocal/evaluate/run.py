"""A model over a cohort -> metrics with intervals: metrics.json and predictions.csv."""

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from parfocal.bag import SQUARES, Look, PixelSource, run_model
from parfocal.dataset.cohort import Cohort, CohortSlide, Part, read_cohort
from parfocal.dataset.inputs import Inputs, LiveBags, StoredBags
from parfocal.dataset.leakage import (
    OTHER_COHORT,
    fingerprint,
    refuse_other_files,
    warn_of_parts,
)
from parfocal.dataset.localization import Localization, blind_chance, joined, localize
from parfocal.dataset.outlines import Outlines, read_outlines
from parfocal.dataset.pixels import LivePixels
from parfocal.dataset.split import read_split
from parfocal.encoders.encoder import choose_device
from parfocal.evaluate.result import (
    Evaluation,
    Failure,
    Settings,
    SlideResult,
    StepResult,
    Which,
    answers_of,
)
from parfocal.explain.report import beside_results, write_report
from parfocal.features.cache import FeatureCache
from parfocal.features.errors import StoreError, UnwritableError
from parfocal.features.pixel_cache import PixelCache
from parfocal.features.slide_input import SlideInput
from parfocal.files import write_together
from parfocal.grid import UnfitError
from parfocal.metrics import Score, by_patient, scores
from parfocal.models.checkpoint import Checkpoint, Setting
from parfocal.slide.errors import SlideError

TOLD = 3  # reasons, where no slide has an answer

logger = logging.getLogger(__name__)


class EvaluationError(Exception):
    """An evaluation that would not mean what it says; the message says why and what to do."""


def evaluate(
    run: Path,
    cohort_csv: Path,
    out: Path,
    *,
    split: Which = "test",
    features: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    allow_training_slides: bool = False,
    external: bool = False,
    changed: Mapping[str, Setting] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Evaluation:
    """Find out how good a trained model is; write metrics.json, predictions.csv, report.html.

    A slide stands in the part the run put it in; one the run has not seen, where the cohort
    says, else in `test`. A slide that cannot be read is listed as failed, and the others go on.

    Args:
        run: folder of a trained run.
        cohort_csv: the slides, with labels the model knows.
        out: folder to write to.
        split: which slides.
        features: folder of feature files; None to read and encode the slides.
        cache: folder that keeps features between visits.
        device: where to run.
        allow_training_slides: whether to score slides the model was trained on or chosen by.
        external: the cohort is another than the run's, so that equal ids say nothing: a slide
            stands where the cohort says, and has been seen only if its very file has.
        changed: arguments of the model to be used in place of those it was trained with.
        resamples: of the intervals.
        seed: of these.

    Raises:
        EvaluationError: there is nothing to evaluate on, or slides the model has seen.
        CohortError: the cohort has an error, a label the model does not know, or ids of slides
            the run has seen for other files.
        CheckpointError: the run cannot be used.
    """
    trained = Checkpoint.load(run, changed=changed)
    cohort = read_cohort(cohort_csv, labels=trained.labels)
    parts = {} if external else parts_of(cohort, run, trained, features)
    chosen = chosen_slides(cohort, parts, split)
    seen = _seen(trained, chosen, parts, features, external=external)
    if seen and not allow_training_slides:
        raise _refusal(cohort_csv, seen, chosen)
    outlines = {s.slide_id: read_outlines(s.outlines) for s in chosen if s.outlines}
    inputs = inputs_of(trained, features, cache, device)
    results, failed = [], []
    for number, slide in enumerate(chosen, start=1):
        try:
            with inputs.open(slide) as opened:
                results.append(_examine(slide, opened, trained, outlines.get(slide.slide_id)))
            logger.info("%d/%d %s", number, len(chosen), slide.slide_id)
        except UnwritableError:
            raise  # a full disk is no fault of the slide
        except (SlideError, StoreError) as error:
            failed.append(Failure(slide, _reason(error, trained)))
            logger.warning("%d/%d %s failed", number, len(chosen), slide.slide_id)
    settings = Settings(
        split,
        "stored" if features else "live",
        external,
        sum(slide.slide_id not in parts for slide in chosen),
        len(seen),
        resamples,
        seed,
    )
    evaluation = _score(trained, settings, results, failed)
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n"
    written = {"metrics.json": content, "predictions.csv": evaluation.to_csv()}
    write_together({out / name: text.encode() for name, text in written.items()})
    page = out / "report.html"
    with beside_results(page, again=f"parfocal report {run} {out} --out {page}"):
        write_report((run, out), page)
    return evaluation


def parts_of(
    cohort: Cohort, run: Path, trained: Checkpoint, features: Path | None
) -> dict[str, Part]:
    """Tell in which part of a run slides stood, by id, once it is sure that these are the same.

    Raises:
        EvaluationError: ids have lost the zeros they had in training.
        CohortError: ids are those of slides the run has seen, and the files are others.
    """
    parts = {row.slide_id: row.split for row in read_split(run / "split.csv")}
    _refuse_lost_zeros(cohort, parts)
    refuse_other_files(cohort, trained.training.fingerprints, features)
    warn_of_parts(cohort, parts)
    return parts


def chosen_slides(cohort: Cohort, parts: Mapping[str, Part], split: Which) -> list[CohortSlide]:
    """Give the slides of a part.

    Args:
        cohort: to choose from.
        parts: in which slides stood in the run, by id; others stand where the cohort says.
        split: the part.

    Raises:
        EvaluationError: there is none.
    """
    standing = [
        (slide, parts.get(slide.slide_id, slide.split or "test")) for slide in cohort.slides
    ]
    chosen = [slide for slide, part in standing if split in (part, "all")]
    if not chosen:
        counts = Counter(part for _, part in standing)
        found = ", ".join(f"{count} of {part}" for part, count in sorted(counts.items()))
        raise EvaluationError(
            f"{cohort.source.name}: no slide of split {split!r} (there are {found}); choose "
            "another split, or give a cohort the run has not seen."
        )
    new = [slide for slide in chosen if slide.slide_id not in parts]
    if new:
        unsaid = "count as test, as the table has no split column"
        why = unsaid if new[0].split is None else "stand where the table's split column says"
        told = len(new), len(chosen), why
        logger.info("%d of the %d slides to evaluate are not in the run, and %s", *told)
    return chosen


def _refuse_lost_zeros(cohort: Cohort, parts: Mapping[str, str]) -> None:
    """Refuse slides whose names a spreadsheet took for numbers: no one would know them again."""
    shorter = {name.lstrip("0"): name for name in parts}
    for slide in cohort.slides:
        name = shorter.get(slide.slide_id.lstrip("0"))
        if slide.slide_id.isdecimal() and slide.slide_id not in parts and name is not None:
            raise EvaluationError(
                f"{cohort.source.name} row {slide.row}: slide_id {slide.slide_id!r} was {name!r} "
                "in training; give it its zeros back (a spreadsheet keeps them in cells of text)."
            )


def _reason(error: SlideError | StoreError, trained: Checkpoint) -> str:
    """Say why a slide has no answer."""
    if isinstance(error, UnfitError):
        return error.for_model(trained.magnifications)
    return str(error)


def _seen(
    trained: Checkpoint,
    chosen: Sequence[CohortSlide],
    parts: Mapping[str, Part],
    features: Path | None,
    *,
    external: bool,
) -> list[str]:
    """List slides that the model, or a patient of which the model, has seen in training.

    Of slides that were in the run it says so itself; others are known again by their files.
    """
    training = trained.training
    slides = {name for part in training.slides.values() for name in part}
    patients = {name for part in training.patients.values() for name in part}
    files = set(training.fingerprints.values())
    return [
        s.slide_id
        for s in chosen
        if (not external and (s.slide_id in slides or s.patient_id in patients))
        or (files and s.slide_id not in parts and fingerprint(s, features) in files)
    ]


def _refusal(
    cohort_csv: Path, seen: Sequence[str], chosen: Sequence[CohortSlide]
) -> EvaluationError:
    some = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
    return EvaluationError(
        f"{cohort_csv.name}: the model was trained on or chosen by {len(seen)} of the "
        f"{len(chosen)} slides, or others of their patients ({some}), so scores on them would "
        f"flatter it; leave them out, or say --allow-training-slides; {OTHER_COHORT}."
    )


def inputs_of(
    trained: Checkpoint, features: Path | None, cache: Path | None, device: str
) -> Inputs:
    """Give slides as the model was trained on, and put the model where they are."""
    place = choose_device(device)
    trained.model.to(place)
    if trained.encoder is None:
        if features is not None:
            raise EvaluationError(
                f"{features}: model {trained.model_name} encodes by itself, so it cannot use "
                "stored features; leave --features out."
            )
        kept = None if cache is None else PixelCache(cache)
        return LivePixels(
            trained.slide,
            skip_unavailable_magnifications=trained.skip_unavailable_magnifications,
            cache=kept,
        )
    if features is not None:
        return StoredBags(features, trained.slide, encoder=trained.encoder, device=place)
    encoder = trained.load_encoder(device=device)
    assert encoder is not None
    return LiveBags(encoder, trained.slide, cache=FeatureCache(cache) if cache else None)


def _examine(
    slide: CohortSlide, opened: SlideInput, trained: Checkpoint, outlines: Outlines | None
) -> SlideResult:
    """Ask the model about one slide."""
    with torch.no_grad(), opened.bill.counted():
        (answer,) = run_model(trained.model, [opened.given]).slides
    cost = opened.bill.close()
    outlined = outlines if outlines is not None and outlines.polygons else None
    looks = opened.locate(answer.looks)
    met = [None if outlined is None else _met(look, outlined, opened) for look in looks]
    seen = tuple(_seen_at(step, look, trained, met[step]) for step, look in enumerate(looks))
    return SlideResult(
        slide,
        tuple(answer.logits.double().softmax(dim=0).tolist()),
        seen,
        _share(opened, sum(each.patches for each in seen)),
        cost,
        None if outlined is None or not _joint(looks) else localize(joined(looks), outlined),
    )


def _joint(looks: Sequence[Look]) -> bool:
    """Tell whether one probability is spread over all looks."""
    return looks[0].score_kind == "probability"


def _met(look: Look, outlines: Outlines, opened: SlideInput) -> Localization | None:
    """Compare a look with the lesions; squares of any place and size, with ones laid blindly."""
    if not look.attention.any():  # another magnification has it all
        return None
    blind = None
    if look.score_kind in SQUARES:
        assert isinstance(opened.given, PixelSource)
        blind = blind_chance(look, outlines, opened.given)
    return localize(look, outlines, blind=blind)


def _seen_at(step: int, look: Look, trained: Checkpoint, met: Localization | None) -> StepResult:
    assert look.places is not None
    level = float(step)
    if trained.by_magnification:
        mpp = look.places.mpps.median().item()
        level = min(trained.magnifications, key=lambda m: abs(math.log(mpp * m / 10)))
    order = look.places.order
    return StepResult(
        level,
        patches=len(look.rows) if order is None else int((order >= 0).sum()),
        probability=float(look.attention.sum()) if look.score_kind == "probability" else None,
        localization=met,
    )


def _share(opened: SlideInput, patches: int) -> float | None:
    """Give the share of all patches there are at the sharpest magnification."""
    sharpest = opened.sharpest
    return None if sharpest is None or sharpest.patches == 0 else patches / sharpest.patches


def _score(
    trained: Checkpoint,
    settings: Settings,
    results: Sequence[SlideResult],
    failed: Sequence[Failure],
) -> Evaluation:
    if not results:
        told = [each.told for each in failed[:TOLD]] + ["..."] * (len(failed) > TOLD)
        raise EvaluationError(
            f"all {len(failed)} slides failed, so there is nothing to score: {'; '.join(told)}"
        )
    answers = answers_of(trained.labels, results)
    drawn = {"resamples": settings.resamples, "seed": settings.seed}
    try:
        patients: dict[str, Score] | str = scores(by_patient(answers), **drawn)
    except ValueError as error:
        patients = str(error)
    found = scores(answers, **drawn)
    return Evaluation(trained, settings, tuple(results), tuple(failed), found, patients)
