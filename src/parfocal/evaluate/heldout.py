"""Select the slides to evaluate on, and detect slides that the model was trained on."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from parfocal.dataset.cohort import Cohort, CohortSlide, Part
from parfocal.dataset.leakage import (
    EXTERNAL_HINT,
    refuse_other_files,
    slide_fingerprint,
    warn_of_changed_parts,
)
from parfocal.dataset.split import read_split
from parfocal.evaluate.result import EvaluatedSplit
from parfocal.features.open_folder import Features
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.ensemble import is_fold
from parfocal.models.stopping import StoppingRule

logger = logging.getLogger(__name__)


class EvaluationError(Exception):
    """An evaluation that is impossible or would be misleading; the message says what to do."""


def has_no_slides(run: Path, trained: Checkpoint) -> bool:
    """Return whether a run does not record which slides it has, as models from the Hub do not.

    Args:
        run: folder of the run.
        trained: the model of the run.
    """
    return not trained.training.slides and not (run / "split.csv").exists()


def run_parts(
    cohort: Cohort, run: Path, trained: Checkpoint, features: Features | None
) -> dict[str, Part]:
    """Return the part of each slide in a run by id, after checking that ids identify the slides.

    Args:
        cohort: the slides to evaluate on.
        run: folder of the run.
        trained: the model of the run.
        features: folder of features; None to read the slide files.

    Raises:
        EvaluationError: ids have lost the leading zeros that they had in training.
        CohortError: a slide has the id of a training slide but another file.
    """
    parts = {row.slide_id: row.split for row in read_split(run / "split.csv")}
    _refuse_lost_zeros(cohort, parts)
    refuse_other_files(cohort, trained.training.fingerprints, features)
    if not is_fold(run):  # folds have test slides of their own, whatever the split column says
        warn_of_changed_parts(cohort, parts)
    return parts


def select_slides(
    cohort: Cohort, parts: Mapping[str, Part], split: EvaluatedSplit, left_out: Collection[str] = ()
) -> list[CohortSlide]:
    """Return the slides of a part.

    Args:
        cohort: the slides to select from.
        parts: part of each slide in the run, by id; other slides are in the part of the split
            column, or else in `test`; or in none, if the table has the parts of several folds, of
            which the run used one.
        split: the part, or "all".
        left_out: ids of slides that the run left out, because they could not be read. They are in
            the part of the split column, so that those of a test set count as failed; else in none.

    Raises:
        EvaluationError: there are no such slides.
    """
    slides = cohort.slides if split == "all" else _of_fold(cohort.slides, {*parts, *left_out})
    assigned = [
        (slide, parts.get(slide.slide_id, slide.split or "test"))
        for slide in slides
        if slide.slide_id not in left_out or slide.split is not None or split == "all"
    ]
    if len(assigned) < len(slides):
        logger.warning(
            "%d of the %d slides were left out of the run, because they could not be read; they "
            "are not evaluated",
            *(len(slides) - len(assigned), len(slides)),
        )
    selected = [slide for slide, part in assigned if split in (part, "all")]
    if not selected:
        counts = Counter(part for _, part in assigned)
        found = ", ".join(f"{count} {part}" for part, count in sorted(counts.items()))
        raise EvaluationError(
            f"{cohort.source.name}: no slide in split {split!r} (found: {found}); choose another "
            "split, or a cohort with slides that are not in the run."
        )
    new = [slide for slide in selected if slide.slide_id not in parts]
    if new:
        logger.info(
            "%d of the %d slides to evaluate are not in the run; %s",
            *(len(new), len(selected)),
            "without a split column they count as test slides"
            if new[0].split is None
            else "their part is that of the split column",
        )
    return selected


def _of_fold(slides: Sequence[CohortSlide], of_run: Collection[str]) -> Sequence[CohortSlide]:
    """Return the slides without those that the table leaves out of the fold of the run.

    Args:
        slides: slides of a table.
        of_run: ids of the slides of the run.
    """
    used = [slide for slide in slides if slide.slide_id in of_run]
    if not used or not used[0].fold_parts or len(used) == len(slides):
        return slides
    logger.info(
        "%d of the %d slides are in no part of this fold; they are not evaluated",
        *(len(slides) - len(used), len(slides)),
    )
    return used


def find_training_slides(
    trained: Checkpoint,
    slides: Sequence[CohortSlide],
    parts: Mapping[str, Part],
    features: Features | None,
    *,
    external: bool,
) -> list[str]:
    """Return the ids of slides that were used in training, or whose patients were.

    Slides of the run are identified by id and patient, other slides by their files. If the model
    follows a stopping rule, slides of another cohort that the rule was calibrated on count, too,
    even if they are test slides of the run.

    Args:
        trained: the model.
        slides: the slides to evaluate on.
        parts: part of each slide in the run, by id.
        features: folder of features; None to read the slide files.
        external: whether the cohort is another than the one of the run, so that ids and patients
            do not identify slides.
    """
    training = trained.training
    slide_ids = {name for part in training.slides.values() for name in part}
    patients = {name for part in training.patients.values() for name in part}
    files = set(training.fingerprints.values())
    if external and not files:
        logger.warning(
            "the run records no fingerprints of its slides, so it is unknown whether slides were "
            "used in training"
        )
    known = files | _calibration_files(trained)

    def is_known(slide: CohortSlide) -> bool:
        if not external and (slide.slide_id in slide_ids or slide.patient_id in patients):
            return True
        if slide.slide_id in parts:
            return made_rule(trained, slide, features)
        return bool(known) and slide_fingerprint(slide, features) in known

    return [slide.slide_id for slide in slides if is_known(slide)]


def made_rule(trained: Checkpoint, slide: CohortSlide, features: Features | None) -> bool:
    """Return whether the stopping rule that a model follows was calibrated on a slide.

    Args:
        trained: the model.
        slide: a slide of any cohort, identified by its file; see `calibrate --external`.
        features: folder of features; None to read the slide file.
    """
    files = _calibration_files(trained)
    return bool(files) and slide_fingerprint(slide, features) in files


def _calibration_files(trained: Checkpoint) -> frozenset[str]:
    rule = trained.budget
    return frozenset(rule.files) if isinstance(rule, StoppingRule) else frozenset()


def training_slides_error(
    cohort_file: Path, found: Sequence[str], total: int, *, external: bool, may_allow: bool = True
) -> EvaluationError:
    """Return the error for an evaluation on training slides.

    Args:
        cohort_file: the table of the cohort.
        found: ids of the training slides.
        total: number of slides to evaluate on.
        external: whether the cohort was declared to be another than the one of the run.
        may_allow: whether the command has an option to allow training slides.
    """
    some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    which = "slides" if external else "slides, or other slides of their patients,"
    remedy = "remove them" + (", or use --allow-training-slides" if may_allow else "")
    hint = "" if external else f"; {EXTERNAL_HINT}"
    return EvaluationError(
        f"{cohort_file.name}: {len(found)} of the {total} {which} were used for training, "
        f"validation or calibration ({some}), so scores would be too optimistic; {remedy}{hint}."
    )


def _refuse_lost_zeros(cohort: Cohort, parts: Mapping[str, str]) -> None:
    """Raise if a spreadsheet has turned the ids of training slides into numbers."""
    by_number = {name.lstrip("0"): name for name in parts}
    for slide in cohort.slides:
        name = by_number.get(slide.slide_id.lstrip("0"))
        if slide.slide_id.isdecimal() and slide.slide_id not in parts and name is not None:
            raise EvaluationError(
                f"{cohort.source.name} row {slide.row}: slide_id {slide.slide_id!r} was {name!r} "
                "in training; restore its leading zeros (format the column as text in the "
                "spreadsheet)."
            )
