"""Evaluate a run with folds: each slide by the folds that have not seen its patient.

A slide of the run is predicted by the fold that tests it, so the scores are out of fold. A slide
that is not in the run is predicted by all folds, and gets the mean of their answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import torch

from parfocal.dataset.cohort import Cohort, CohortSlide, Part
from parfocal.dataset.outlines import Outlines
from parfocal.dataset.patient_inputs import with_covariates
from parfocal.dataset.patients import slides_of
from parfocal.dataset.split import SPLIT_FILE, read_split
from parfocal.evaluate.heldout import find_training_slides, made_rule, run_parts
from parfocal.evaluate.mean_looks import mean_looks
from parfocal.evaluate.result import SlideResult, StepResult
from parfocal.evaluate.slide import compare_with_lesions, evaluate_slide, visit_slide
from parfocal.features.open_folder import Features
from parfocal.features.slide_input import SlideInput
from parfocal.models.budget import all_met
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.ensemble import fold_folders
from parfocal.tasks import Answer, mean_answer, task_of


@dataclass(frozen=True)
class Folds:
    """The models of a run with folds, and the slides that each of them tests.

    Args:
        trained: the model with members.
        tests: ids of the slides that each fold tests, by name of the fold.
        parts: part of each slide of the run, by id: "test" if a fold tests it.
    """

    trained: Checkpoint
    tests: Mapping[str, frozenset[str]]
    parts: Mapping[str, Part]

    @classmethod
    def of_run(cls, run: Path, trained: Checkpoint, *, external: bool) -> "Folds":
        """Read the splits of the folds.

        Args:
            run: folder of the run.
            trained: the model with members.
            external: whether the slides to evaluate are not those of the run.
        """
        tests: dict[str, frozenset[str]] = {}
        parts: dict[str, Part] = {}
        for folder in () if external else fold_folders(run):
            rows = read_split(folder / SPLIT_FILE)
            tests[folder.name] = frozenset(row.slide_id for row in rows if row.split == "test")
            for row in rows:
                if row.split == "test" or row.slide_id not in parts:
                    parts[row.slide_id] = row.split
        return cls(trained, tests, parts)

    def check(self, cohort: Cohort, run: Path, features: Features | None) -> None:
        """Check that the ids of a cohort identify the slides of the run; see `run_parts`."""
        for folder in fold_folders(run):
            run_parts(cohort, folder, self.trained, features)

    def names_for(self, slide: CohortSlide, features: Features | None) -> tuple[str, ...]:
        """Return the folds that may predict a slide; none if all have seen it in training."""
        members = self.trained.members
        if slide.slide_id in self.parts:
            return tuple(
                name
                for name, ids in self.tests.items()
                if slide.slide_id in ids and not made_rule(members[name], slide, features)
            )
        return tuple(
            name
            for name, member in members.items()
            if not find_training_slides(
                member, [slide], self.parts, features, external=not self.parts
            )
        )

    def names_of_entry(
        self, entry: CohortSlide, names: Mapping[str, tuple[str, ...]]
    ) -> tuple[str, ...]:
        """Return the folds that may predict a slide, or all slides of a patient.

        Args:
            entry: a slide or a patient.
            names: folds that may predict each slide, by slide id.
        """
        own = [names[slide.slide_id] for slide in slides_of([entry])]
        return tuple(name for name in self.trained.members if all(name in each for each in own))

    def models_for(self, names: Sequence[str]) -> Checkpoint:
        """Return the model with only some of its members; with all if there are none."""
        members = self.trained.members
        return replace(self.trained, members={name: members[name] for name in names or members})


def evaluate_members(
    slide: CohortSlide, opened: SlideInput, trained: Checkpoint, outlines: Outlines | None
) -> SlideResult:
    """Run each member on one open slide, and return the mean answer.

    A patch that several members visit is read and encoded once; the cost is that of all together.
    The visited patches are the mean over the members. What the stopping rules of the members left
    out is visited when the cost of all has been recorded. Attention and detections are compared
    with the lesions as the mean over the members, see `mean_looks`. Each member encodes the
    clinical covariates in its own way.

    Args:
        slide: the slide with its target.
        opened: the opened slide.
        trained: the model with members.
        outlines: the lesions; None where the cohort has no outlines.
    """
    device = next(trained.model.parameters()).device
    names, visits = tuple(trained.members), []
    for position, member in enumerate(trained.members.values()):
        member.model.to(device)
        own = _with_own_covariates(opened, slide, member, device)
        if len(names) == 1:
            return replace(evaluate_slide(slide, own, member, outlines), folds=names)
        visits.append(visit_slide(slide, own, member, models_left=len(names) - position))
    cost = opened.cost_meter.total()
    mean = _mean_result([visit.result for visit in visits], trained.labels)
    after_all_rounds = [visit.finish() for visit in visits if visit.finish is not None]
    full = _mean_result(after_all_rounds, trained.labels).as_full if after_all_rounds else None
    whole = replace(mean, cost=cost, folds=names, full=full)
    looks = mean_looks([visit.looks for visit in visits])
    if looks is None or len(looks) != len(whole.steps):
        return whole
    return compare_with_lesions(whole, looks, opened, trained, outlines)


def _mean_result(results: Sequence[SlideResult], labels: Sequence[str]) -> SlideResult:
    """Return the mean of the results of several members, with the cost up to the last one."""
    last = results[-1]
    classes = labels if last.probabilities else ()
    answers = [
        Answer(dict(zip(classes, each.probabilities, strict=True)), each.outputs)
        for each in results
    ]
    mean = mean_answer(answers)
    shares = [each.share_patches for each in results if each.share_patches is not None]
    numbers = [answer.probabilities or answer.outputs for answer in answers]
    return SlideResult(
        last.slide,
        tuple(mean.probabilities.values()),
        _mean_steps(results),
        fmean(shares) if shares else None,
        last.cost,
        unreachable=last.unreachable,
        budget_met=all_met([each.budget_met for each in results]),
        outputs=mean.outputs,
        spread={name: stdev(each[name] for each in numbers) for name in numbers[0]},
    )


def _with_own_covariates(
    opened: SlideInput, slide: CohortSlide, member: Checkpoint, device: torch.device
) -> SlideInput:
    """Return an input with the covariates as a member encodes them; the input without any."""
    encoding = member.unit.covariates
    if encoding is None:
        return opened
    return with_covariates(opened, encoding.encode(slide.values, slide.slide_id).to(device))


def _mean_steps(results: Sequence[SlideResult]) -> tuple[StepResult, ...]:
    """Return the steps with the mean number of visited patches over the members.

    It is rounded, but is 0 only where no member visited a patch. The probability of sampling is
    the mean, too: 0 where a member did not sample.
    """
    steps: dict[float, list[StepResult]] = {}
    for result in results:
        for step in result.steps:
            steps.setdefault(step.key, []).append(step)
    samples = any(step.probability is not None for own in steps.values() for step in own)
    return tuple(
        StepResult(
            key,
            _rounded_mean([step.patches for step in own], len(results)),
            sum(step.probability or 0.0 for step in own) / len(results) if samples else None,
        )
        for key, own in sorted(steps.items())
    )


def _rounded_mean(counts: Sequence[int], number: int) -> int:
    return max(round(sum(counts) / number), min(sum(counts), 1))


def fold_scores(trained: Checkpoint, results: Sequence[SlideResult]) -> dict[str, object] | None:
    """Return the scores of each fold on the slides that it alone predicted; None without folds.

    Args:
        trained: the model with members; each scores with its own task, such as its own intervals.
        results: the predictions.

    Returns:
        Entries of metrics.json: the folds with their scores, and the mean and standard deviation
        over the folds in which a score is defined.
    """
    tasks = {name: task_of(member) for name, member in trained.members.items()}
    by_fold: dict[str, list[SlideResult]] = {}
    for result in results:
        if len(result.folds) == 1 and tasks[result.folds[0]].known(result.slide):
            by_fold.setdefault(result.folds[0], []).append(result)
    if len(by_fold) < 2:
        return None
    folds = []
    for name in sorted(by_fold, key=lambda each: int(each.rpartition("-")[2])):
        own, task = by_fold[name], tasks[name]
        answers = [
            Answer(dict(zip(task.classes, each.probabilities, strict=True)), each.outputs)
            for each in own
        ]
        scores = task.scores([each.slide for each in own], answers, resamples=0)
        values = {key: score.value for key, score in scores.items()}
        folds.append({"name": name, "n": len(own), "scores": values})
    return {"folds": folds, "mean_over_folds": _means([fold["scores"] for fold in folds])}


def _means(scores: Sequence[object]) -> dict[str, dict[str, float | int | None]]:
    """Return mean and standard deviation of each score over the folds that define it."""
    result: dict[str, dict[str, float | int | None]] = {}
    tables = [each for each in scores if isinstance(each, dict)]
    for name in tables[0]:
        values = [each[name] for each in tables if each.get(name) is not None]
        result[name] = {
            "folds": len(values),
            "mean": fmean(values) if values else None,
            "sd": stdev(values) if len(values) > 1 else None,
        }
    return result
