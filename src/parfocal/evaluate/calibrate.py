"""Calibrate when a model stops visiting a slide, on validation slides or on another cohort.

The model visits each slide in rounds to the end. With folds, the rule of a fold is made of the
validation slides of all folds, each visited by the model of its fold, except those that are test
slides of the fold: these are for checking the rule. A slide that several folds validate counts
once. With another cohort, each fold visits all slides and gets its own rule.
"""

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from parfocal.bag import Bag
from parfocal.dataset.cohort import Cohort, CohortSlide
from parfocal.dataset.inputs import Inputs
from parfocal.dataset.leakage import slide_fingerprint
from parfocal.dataset.split import read_split
from parfocal.evaluate.heldout import (
    EvaluationError,
    find_training_slides,
    run_parts,
    training_slides_error,
)
from parfocal.evaluate.run import checkpoint_inputs
from parfocal.features.folder import FeatureFolder
from parfocal.features.open_folder import Features, open_features
from parfocal.features.slide_input import SlideInput
from parfocal.files import write_whole
from parfocal.models.budget import percent
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import require_finite
from parfocal.models.description import description_path
from parfocal.models.ensemble import fold_folders
from parfocal.models.rounds import ROUND_PATCHES, Rounds
from parfocal.models.stopping import StoppingRule, calibrate, slides_needed
from parfocal.models.unit import refuse_units
from parfocal.models.visit import (
    NO_CLASS,
    NO_RULE,
    has_one_class,
    runner,
    with_budget,
    zoom_counts,
)
from parfocal.operating_point import OperatingPoint
from parfocal.printable import all_failed, counted, counts_of_each, named_number
from parfocal.progress import Progress
from parfocal.slide.failure import catch_failure
from parfocal.slide.sources.url import RemoteAccess
from parfocal.tasks import read_task_cohort, task_of

logger = logging.getLogger(__name__)

KEY = "stopping"  # of checkpoint.json
DEFAULT_DISAGREEMENT = 0.05
MIN_PROBABILITY = 0.9
SHARED_NOTE = (
    "the epoch was also chosen on the validation slides, so check the rule on test slides "
    "(parfocal evaluate --budget settled)"
)


@dataclass(frozen=True)
class Trajectory:
    """The answers of a model to one slide, round by round.

    Args:
        slide_id: id of the slide.
        probabilities: class probabilities after each round from which on the answer can settle:
            those that visit the highest magnification.
        patches: number of patches visited after each of these rounds.
    """

    slide_id: str
    probabilities: tuple[tuple[float, ...], ...]
    patches: tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """The rule of one run.

    Args:
        run: folder of the run.
        labels: the classes.
        rule: its rule.
        children: number of patches in the smallest possible round, the children of one patch.
        external: whether the slides are from a cohort other than that of the run.
    """

    run: Path
    labels: tuple[str, ...]
    rule: StoppingRule
    children: int
    external: bool = False

    @property
    def text(self) -> str:
        """The rule in one line."""
        rule, total = self.rule, sum(self.rule.slides.values())
        settled = ", ".join(
            named_number(label, f"above {threshold:.3f}" if threshold < 1 else "never")
            for label, threshold in zip(self.labels, rule.thresholds, strict=True)
        )
        text = (
            f"{self.run}: settled: {settled}; on {total} slides "
            f"(answers after all rounds: {counts_of_each(rule.slides)}) "
            f"{rule.share_patches:.1%} of the patches of all rounds, "
            f"another class on {rule.disagreements}"
        )
        if not self.external and rule.can_stop:
            text = f"{text}; {SHARED_NOTE}"
        if rule.can_stop and rule.share_patches == 1:
            text = f"{text}. With this rule, no slide stops before its last round"
            if rule.round_patches >= 2 * self.children:
                text = f"{text}; use smaller rounds (--round-patches below {rule.round_patches})"
        if all(threshold < 1 for threshold in rule.thresholds):
            return text
        needed = slides_needed(rule.max_disagreement, len(self.labels))
        more = "more validation slides, folds or another cohort (--external)"
        if self.external:
            more = "a larger cohort"
        return (
            f"{text}. A class that never settles needs {counted(needed, 'slide')} of other classes "
            f"to show a disagreement of at most {percent(rule.max_disagreement)}%: use {more}, or "
            "allow more with --max-disagreement"
        )


def calibrate_runs(
    run: Path,
    cohort_csv: Path,
    *,
    features: Features | None = None,
    cache: Path | None = None,
    device: str = "auto",
    external: bool = False,
    max_disagreement: float = DEFAULT_DISAGREEMENT,
    min_probability: float = MIN_PROBABILITY,
    round_patches: int = ROUND_PATCHES,
    trust_remote_code: bool = False,
    access: RemoteAccess | None = None,
) -> list[Calibration]:
    """Calibrate the stopping rule of a run, or of each of its folds, and store it in them.

    Args:
        run: folder of a trained run, or of a run with folds.
        cohort_csv: table with the validation slides of the run, or of another cohort.
        features: folder of features by parfocal or by another tool, or folders by magnification;
            None to read and encode the slides.
        cache: folder of the feature cache; None for no cache.
        device: "auto", "cpu" or a CUDA device.
        external: whether the cohort is not that of the run; if True, all its slides are used, and
            only a slide with the same file counts as a training slide.
        max_disagreement: largest share of slides on which a model that stops may give another class
            than after all rounds.
        min_probability: probability that an answer that settles has at least.
        round_patches: number of patches that a round visits.
        trust_remote_code: whether to run code from the repository of an encoder.
        access: how remote slides are read; None for the defaults.

    Raises:
        EvaluationError: the run has no validation slides, or trained on them; or slides of another
            cohort were used in training.
        BudgetError: the model cannot follow a budget.
        CohortError: the cohort is invalid, or has other slides than the run.
        CheckpointError: the run cannot be used.
    """
    if not 0 < max_disagreement < 1:
        raise EvaluationError(
            f"max_disagreement={max_disagreement:g}: give a share of slides above 0 and below 1."
        )
    if not 0 <= min_probability < 1:
        raise EvaluationError(
            f"min_probability={min_probability:g}: give a probability from 0 to below 1."
        )
    folders = fold_folders(run) or (run,)
    trained = [Checkpoint.load(folder, trust_remote_code=trust_remote_code) for folder in folders]
    for each in trained:
        refuse_units(each.unit, "a stopping rule")
        _refuse(each)
    cohort = read_task_cohort(cohort_csv, task_of(trained[0]), access=access)
    folder = None if features is None else open_features(features, cohort.slides)
    trajectories = []
    choose = _external_slides if external else _validation_slides
    for each, path in zip(trained, folders, strict=True):
        slides = choose(each, path, cohort, folder)
        inputs = checkpoint_inputs(each, folder, cache, device)
        trajectories.append(_visit(each, slides, inputs, round_patches))
    calibrations = []
    for number, (each, path) in enumerate(zip(trained, folders, strict=True)):
        files: tuple[str, ...] = ()
        if external:
            known = trajectories[number]
            prints = (slide_fingerprint(slide, folder) for slide in cohort.slides)
            files = tuple(sorted({each for each in prints if each is not None}))
        else:
            known = known_trajectories(trajectories, number, _test_ids(path))
        point = each.operating_point or OperatingPoint()
        rule = calibrate(
            [t.probabilities for t in known],
            [t.patches for t in known],
            each.labels,
            round_patches=round_patches,
            max_disagreement=max_disagreement,
            min_probability=min_probability,
            magnifications=len(each.magnifications),
            decision=point.decision(each.labels),
        )
        rule = replace(rule, files=files, temperature=point.temperature or 1.0, k=zoom_counts(each))
        store_rule(path, rule)
        calibrations.append(Calibration(path, each.labels, rule, _fewest_children(each), external))
    return calibrations


def known_trajectories(
    by_fold: Sequence[Sequence[Trajectory]], fold: int, tested: Collection[str]
) -> list[Trajectory]:
    """Return the trajectories that make the rule of a fold: one for each validation slide.

    Several folds may validate a slide; that of the fold itself is used first.

    Args:
        by_fold: trajectories of the validation slides of each fold.
        fold: number of the fold.
        tested: ids of the slides that the fold tests, which are left out.
    """
    once: dict[str, Trajectory] = {}
    for own in (by_fold[fold], *by_fold):
        for each in own:
            once.setdefault(each.slide_id, each)
    return [each for each in once.values() if each.slide_id not in tested]


def store_rule(run: Path, rule: StoppingRule) -> None:
    """Add the rule to the checkpoint of a run, in place of the one that it has."""
    path = description_path(run)
    description = json.loads(path.read_text(encoding="utf-8"))
    content = json.dumps({**description, KEY: asdict(rule)}, indent=2) + "\n"
    write_whole(path, content.encode())


def _refuse(trained: Checkpoint) -> None:
    """Refuse a model that has no classes or does not visit patches in rounds."""
    if trained.traits.takes_pixels:
        raise EvaluationError(
            f"model {trained.model_name} takes pixels and does not visit patches in rounds, so "
            "there is no rule to calibrate."
        )
    with_budget(trained, NO_RULE)
    if not has_one_class(trained):
        raise EvaluationError(NO_CLASS)


def _fewest_children(trained: Checkpoint) -> int:
    """Return the number of children of a patch, at the zoom with the fewest."""
    return min(round(high / low) ** 2 for low, high in pairwise(trained.magnifications))


def _validation_slides(
    trained: Checkpoint, run: Path, cohort: Cohort, features: FeatureFolder | None
) -> list[CohortSlide]:
    ids = trained.training.slides.get("val", [])
    instead = "predict with a fixed budget, such as --budget share=5%"
    if not ids:
        raise EvaluationError(
            f"{run}: the run has no validation slides to calibrate the rule on; train with "
            "train.val_fraction above 0 or with slides of split val, give a cohort that is not in "
            f"the run with --external, or {instead}."
        )
    if trained.training.refit:
        raise EvaluationError(
            f"{run}: the model was refitted on its validation slides, so its predictions for them "
            "are too optimistic; train without train.refit, give a cohort that is not in the run "
            f"with --external, or {instead}."
        )
    run_parts(cohort, run, trained, features)  # refuses other files of the same names
    slides = [slide for slide in cohort.slides if slide.slide_id in ids]
    if len(slides) < len(set(ids)):
        missing = sorted(set(ids) - {slide.slide_id for slide in slides})
        raise EvaluationError(
            f"{cohort.source.name}: {len(missing)} of the {len(set(ids))} validation slides of "
            f"{run} are not in the cohort, such as {missing[0]}; give the cohort of the training."
        )
    return slides


def _external_slides(
    trained: Checkpoint, run: Path, cohort: Cohort, features: FeatureFolder | None
) -> list[CohortSlide]:
    slides = list(cohort.slides)
    found = find_training_slides(trained, slides, {}, features, external=True)
    if found:
        raise training_slides_error(
            cohort.source, found, len(slides), external=True, may_allow=False
        )
    return slides


def _test_ids(run: Path) -> set[str]:
    return {row.slide_id for row in read_split(run / "split.csv") if row.split == "test"}


def _visit(
    trained: Checkpoint, slides: Sequence[CohortSlide], inputs: Inputs, round_patches: int
) -> list[Trajectory]:
    """Visit slides in rounds to the end."""
    found, progress, reason = [], Progress("calibrating", len(slides)), None
    for slide in slides:
        with catch_failure(slide.slide_id) as attempt:
            with inputs.open(slide) as opened, torch.no_grad():
                found.append(_trajectory(trained, slide, opened, round_patches))
            progress.advance(slide.slide_id)
        if attempt.reason is not None:
            reason = attempt.reason
            progress.fail(slide.slide_id)
    if not found:
        raise EvaluationError(f"{all_failed(len(slides), 'slide')}; the last: {reason}")
    return found


def _trajectory(
    trained: Checkpoint, slide: CohortSlide, opened: SlideInput, round_patches: int
) -> Trajectory:
    bag = opened.model_input
    assert isinstance(bag, Bag)
    prediction = Rounds(runner(trained, opened), bag, round_patches=round_patches).finish()
    require_finite(prediction, slide.slide_id)
    steps = len(prediction.rounds[-1].patches)
    rounds = [each for each in prediction.rounds if len(each.patches) == steps]
    return Trajectory(
        slide.slide_id,
        tuple(
            tuple(trained.calibrated(each.logits.double()).softmax(dim=0).tolist())
            for each in rounds
        ),
        tuple(sum(each.patches) for each in rounds),
    )
