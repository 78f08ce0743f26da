"""Checks of a cohort's slides before and during training."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from parfocal.dataset.cohort import Cohort, CohortSlide
from parfocal.features.folder import FeatureFolder
from parfocal.features.foreign.folder import ForeignFolder
from parfocal.grid import Reach
from parfocal.printable import counted
from parfocal.settings import TrainSettings
from parfocal.slide.errors import group_failures
from parfocal.slide.resolution import mpp_of, same_resolution
from parfocal.train.folder import RunError

logger = logging.getLogger(__name__)

MAX_KINDS = 5  # kinds of failures in a message


def refuse_too_few(
    train_slides: Sequence[CohortSlide],
    val_slides: Sequence[CohortSlide],
    failed: dict[str, str],
    labels: Sequence[str],
) -> None:
    """Refuse to train if a class has no training slide, or if all validation slides failed.

    Args:
        train_slides: training slides.
        val_slides: validation slides; empty in a refit.
        failed: reason of each slide that could not be used, by slide id.
        labels: class labels; empty for a task without classes.

    Raises:
        RunError: a class has no training slide left, or no validation slide is left.
    """
    remaining = {slide.label for slide in train_slides if slide.slide_id not in failed}
    missing = [f"training slide of class {label!r}" for label in labels if label not in remaining]
    if not remaining:
        missing = ["training slide"]
    if val_slides and all(slide.slide_id in failed for slide in val_slides):
        missing.append("validation slide")
    if not missing:
        return
    if not failed:
        raise RunError(
            f"there is no {missing[0]}; add slides, or change the split or train.exclude_strata."
        )
    slide_id, reason = next(iter(failed.items()))
    raise RunError(
        f"no {missing[0]} is left: {counted(len(failed), 'slide')} failed, the first is {slide_id} "
        f"({reason}) Replace them, or add slides."
    )


def refuse_unreadable(
    unreadable: Mapping[str, str], total: int, features: FeatureFolder | None = None
) -> None:
    """Refuse to train without the slides that cannot be read.

    Args:
        unreadable: reason of each slide that cannot be read, by slide id.
        total: number of slides that were checked.
        features: features that are read; None if the slide files are.

    Raises:
        RunError: there are such slides.
    """
    if unreadable:
        raise RunError(describe_unreadable(unreadable, total, task="train", features=features))


def describe_unreadable(
    unreadable: Mapping[str, str],
    total: int,
    *,
    task: str,
    features: FeatureFolder | None = None,
) -> str:
    """Return a message about slides that cannot be read, which says what to do.

    Args:
        unreadable: reason of each slide that cannot be read, by slide id.
        total: number of slides that were checked.
        task: what may be done without them, such as "train".
        features: features that are read; None if the slide files are.
    """
    kinds = group_failures(unreadable)
    listed = "; ".join(kind.rstrip(".") for kind in kinds[:MAX_KINDS])
    more = "; ..." if len(kinds) > MAX_KINDS else ""
    skip = ""
    if len(unreadable) < total:
        skip = f", or {task} without them with --skip-unreadable"
    command = "inspect" if features is None else "features"
    return (
        f"{len(unreadable)} of {total} slides cannot be read ({listed}{more}). Repair or remove "
        f"them{skip}; `parfocal {command}` lists all."
    )


def log_left_out(unreadable: Mapping[str, str]) -> None:
    """Log the slides that are left out because they cannot be read, one line for each reason.

    Args:
        unreadable: reason of each slide, by slide id.
    """
    for kind in group_failures(unreadable):
        logger.warning("left out: %s", kind)


def refuse_missing_outlines(slides: Sequence[CohortSlide], negative_class: str) -> None:
    """Refuse to train a model that needs outlines if a slide with a lesion has none.

    Args:
        slides: training slides.
        negative_class: label of the slides without a lesion.

    Raises:
        RunError: a slide of another class has no outlines.
    """
    for slide in slides:
        if slide.label != negative_class and slide.outlines is None:
            raise RunError(
                f"slide {slide.slide_id} ({slide.label}) has no outlines, and the model is trained "
                "on them; add them in the column outlines, or remove the slide. If "
                f"{negative_class!r} is not the label of slides without a lesion, set "
                "model.negative_class."
            )


def refuse_unknown_strata(cohort: Cohort, settings: TrainSettings) -> None:
    """Refuse a stratum in `train.exclude_strata` that no slide has.

    Raises:
        RunError: a stratum is unknown.
    """
    known = sorted({slide.stratum for slide in cohort.slides if slide.stratum})
    for stratum in settings.exclude_strata:
        if stratum not in known:
            raise RunError(
                f"{cohort.source.name}: train.exclude_strata: no slide has stratum {stratum!r} "
                f"(known: {', '.join(known) or 'none'}); correct or remove it."
            )


def log_reach(run: Path, reaches: Mapping[str, Reach]) -> None:
    """Log the share of the tissue that the model cannot reach.

    Args:
        run: folder of the run.
        reaches: reach of each slide, by slide id, without slides whose reach is unknown.
    """
    if not reaches:
        return
    mean = sum(reach.unreachable for reach in reaches.values()) / len(reaches)
    worst = max(reaches, key=lambda slide_id: reaches[slide_id].unreachable)
    text = f"{mean:.1%} of the tissue out of reach, on average over {len(reaches)} slides"
    if mean:
        text += f"; the most, {reaches[worst].unreachable:.1%}, in slide {worst}"
    logger.info("%s: %s", run, text)


def log_true_resolutions(folder: FeatureFolder, magnifications: Sequence[float]) -> None:
    """Log once where the true resolutions of features differ from their nominal magnifications.

    Args:
        folder: the features, of which slides were opened.
        magnifications: nominal magnifications of the run.
    """
    if not isinstance(folder, ForeignFolder):
        return
    differing = []
    for magnification in magnifications:
        true, nominal = folder.true_mpps(magnification), mpp_of(magnification)
        if true is None:
            _log_once(f"{folder}: no slide file is available, so true resolutions are unknown")
            return
        if not all(same_resolution(nominal, each) for each in true):
            differing.append(
                f"{magnification:g}x is {true[1]:.3g} µm/px ({true[0]:.3g} to {true[2]:.3g}), not "
                f"{nominal:.3g}"
            )
    if differing:
        _log_once(
            f"{folder}: true resolutions differ from the nominal ones: {'; '.join(differing)}"
        )


@cache
def _log_once(text: str) -> None:
    """Log a text unless this process has logged it before."""
    logger.info("%s", text)
