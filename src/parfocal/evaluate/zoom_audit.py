"""The result of an audit: what a model predicts with its own selection and with every patch."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from parfocal.dataset.cohort import CohortSlide
from parfocal.evaluate.result import Failure
from parfocal.evaluate.sufficiency import DELETED_SHARES, KEPT_SHARE, Sufficiency
from parfocal.evaluate.sufficiency_summary import SufficiencySummary
from parfocal.explain.bill import percent_of_tissue
from parfocal.explain.record import NOTHING_TO_SKIP
from parfocal.metrics import (
    ResamplableDifference,
    Score,
    proportion_with_interval,
    resampled_scores,
    score_label,
)
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.stopping import answered
from parfocal.models.visit import budget_text
from parfocal.printable import counted, counts_of_each
from parfocal.tasks import Answer, Task, task_of
from parfocal.tasks.joint import Joint
from parfocal.tasks.regression import Regression

FORMAT_VERSION = 2  # of audit.json
SUFFICIENCY_COLUMNS = (
    *("sufficient", "sufficient_at_random"),
    *("kept", "kept_at_random", "removed", "removed_at_random"),
)
AT_5 = DELETED_SHARES.index(KEPT_SHARE)
DIFFERENCE_UNIT = (
    "probabilities as they are, risks of Cox as log-hazards, numbers in standard deviations of the "
    "training slides"
)


@dataclass(frozen=True)
class SlideAudit:
    """Both predictions for one slide.

    Args:
        slide: the slide with its target.
        zoomed: what the model predicts with its own selection of patches: class probabilities, or
            the numbers of a task without classes.
        exhaustive: the same with every patch.
        regret: regret of each magnification, lowest first.
        unreachable: share of the tissue that has no patch at each magnification; None if unknown,
            as with stored features of version 1, and then not counted as regret.
        visited: number of patches visited with the model's own selection, at all magnifications.
        patches: number of patches that exhaustive processing would encode: those of the highest
            magnification that pass the tissue test. Both numbers are those of a prediction's bill.
        sufficiency: whether the patches that the model attends to are enough, and needed; None in
            results of earlier versions, and for a task without classes.
        scaled_difference: largest absolute difference of a number, see `DIFFERENCE_UNIT`; None for
            a task with classes, whose probabilities need no unit.
        loss_increase: by how much the loss of the task is higher with the model's own selection;
            None where it is undefined: without a target, or for Cox, whose loss compares slides.
        decision: for two classes, the lowest probability of the second one at which it is
            predicted; None to predict the most probable class.
    """

    slide: CohortSlide
    zoomed: tuple[float, ...]
    exhaustive: tuple[float, ...]
    regret: tuple[float, ...]
    unreachable: tuple[float, ...] | None
    visited: int
    patches: int
    sufficiency: Sufficiency | None = None
    scaled_difference: float | None = None
    loss_increase: float | None = None
    decision: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether both predictions have the same class."""
        return self.class_of(self.zoomed) == self.class_of(self.exhaustive)

    def class_of(self, probabilities: Sequence[float]) -> int:
        """Return the position of the class that is predicted from probabilities."""
        return answered(probabilities, self.decision)

    @property
    def nothing_to_skip(self) -> bool:
        """Whether the model visits as many patches as exhaustive processing, or more."""
        return self.visited >= self.patches

    @property
    def difference(self) -> float:
        """Largest absolute difference of a predicted number; see `DIFFERENCE_UNIT`."""
        if self.scaled_difference is not None:
            return self.scaled_difference
        return float(np.abs(np.subtract(self.zoomed, self.exhaustive)).max())


@dataclass(frozen=True)
class Audit:
    """What zooming costs on slides of a cohort.

    Args:
        trained: the model.
        slides: both predictions for each slide.
        failed: slides without predictions.
        agreement: share of the slides with the same label in both predictions; None for a task
            without classes.
        difference: mean over slides of the largest difference of a predicted number.
        regret: mean over slides, for each magnification.
        unreachable: mean share of the tissue that the model cannot reach at its highest
            magnification; None if unknown.
        loss_increase: mean over the slides for which it is known; None if it is for none.
    """

    trained: Checkpoint
    slides: tuple[SlideAudit, ...]
    failed: tuple[Failure, ...]
    agreement: Score | None
    difference: Score
    regret: tuple[Score, ...]
    unreachable: Score | None
    loss_increase: Score | None = None

    @property
    def task(self) -> Task:
        """What the model predicts."""
        return task_of(self.trained)

    @property
    def summary(self) -> str:
        """The main results in one line."""
        visited = sum(slide.visited for slide in self.slides)
        patches = sum(slide.patches for slide in self.slides)
        regret = ", ".join(
            f"{score.value:.3f} at {magnification:g}x"
            for magnification, score in zip(self.trained.magnifications, self.regret, strict=True)
        )
        lost = ""
        if self.unreachable is not None and self.unreachable.value is not None:
            lost = f"{percent_of_tissue(self.unreachable.value)}; "
        return (
            f"{self._comparison_text()}; "
            f"regret {regret}; {lost}visited {visited:,} of {patches:,} patches"
            f"{self._nothing_to_skip_text()}"
            f"{'' if self.sufficiency is None else f'; {self.sufficiency.text}'}"
        )

    def _nothing_to_skip_text(self) -> str:
        """Return on how many slides zooming saves nothing, and why; empty if there are none."""
        count, slides = sum(each.nothing_to_skip for each in self.slides), len(self.slides)
        if not count:
            return ""
        found = NOTHING_TO_SKIP
        if slides > 1:
            which = f"all {slides}" if count == slides else f"{count} of {slides}"
            found = NOTHING_TO_SKIP.replace("this slide", f"{which} slides")
        return (
            f" ({found}: encoding all patches at {self.trained.magnifications[-1]:g}x costs no "
            "more, because a model that zooms also visits patches at lower magnifications)"
        )

    def _comparison_text(self) -> str:
        """Return how the predictions with every patch differ, in words."""
        if self.agreement is not None:
            classes = counts_of_each(self._class_counts())
            return (
                f"{counted(len(self.slides), 'slide')} ({classes}): with every patch, "
                f"{_percent(self.agreement)} of the labels are the same and probabilities differ "
                f"by {self.difference.value:.3f}"
            )
        name = self.task.compared[0]
        zoomed, exhaustive = self.scores[name], self.exhaustive_scores[name]
        slides = counted(len(self.slides), "slide")
        return (
            f"{slides}: {score_label(name)} {zoomed.text}, with every patch {exhaustive.text}; "
            f"predictions differ by {self.difference.value:.3f}"
        )

    @property
    def sufficiency(self) -> SufficiencySummary | None:
        """Whether the patches that the model attends to are enough; None if not all have it."""
        known = tuple(each.sufficiency for each in self.slides if each.sufficiency is not None)
        if len(known) < len(self.slides):
            return None
        return SufficiencySummary(known, tuple(each.slide.patient_id for each in self.slides))

    @property
    def scores(self) -> dict[str, Score]:
        """Scores with the model's own selection, of a task without classes."""
        return self._scores([each.zoomed for each in self.slides])

    @property
    def exhaustive_scores(self) -> dict[str, Score]:
        """Scores with every patch, of a task without classes."""
        return self._scores([each.exhaustive for each in self.slides])

    def to_dict(self) -> dict[str, object]:
        """Return the content of audit.json."""
        regret = zip(self.trained.magnifications, self.regret, strict=True)
        return {
            "format_version": FORMAT_VERSION,
            "model": {
                "name": self.trained.model_name,
                "weights_sha256": self.trained.weights_hash,
            },
            "slides": len(self.slides),
            **self._counts_dict(),
            "patches": {
                "visited": sum(each.visited for each in self.slides),
                "exhaustive": sum(each.patches for each in self.slides),
            },
            **self._scores_dict(),
            "difference": asdict(self.difference),
            "loss_increase": None if self.loss_increase is None else asdict(self.loss_increase),
            "regret": [
                {"magnification": magnification, **asdict(score)} for magnification, score in regret
            ],
            "unreachable": None if self.unreachable is None else asdict(self.unreachable),
            "sufficiency": None if self.sufficiency is None else self.sufficiency.to_dict(),
            **({} if self.trained.budget is None else {"budget": budget_text(self.trained.budget)}),
            "failed": [
                {"slide_id": failure.slide.slide_id, "reason": failure.reason}
                for failure in self.failed
            ],
        }

    def _counts_dict(self) -> dict[str, object]:
        """Return the number of slides of each class, or the task."""
        if self.agreement is not None:
            return {"classes": self._class_counts()}
        return {"task": self.trained.task, "difference_unit": DIFFERENCE_UNIT}

    def _scores_dict(self) -> dict[str, object]:
        """Return the scores of both predictions; without classes also what zooming loses."""
        if self.agreement is not None:
            return {
                "accuracy": {
                    "zoomed": asdict(self._accuracy([each.zoomed for each in self.slides])),
                    "exhaustive": asdict(self._accuracy([each.exhaustive for each in self.slides])),
                },
                "agreement": asdict(self.agreement),
            }
        found = {
            "zoomed": self.scores,
            "exhaustive": self.exhaustive_scores,
            "exhaustive_minus_zoomed": self._lost_scores(),
        }
        return {
            "scores": {
                key: {name: asdict(score) for name, score in scores.items()}
                for key, scores in found.items()
            }
        }

    def to_csv(self) -> str:
        """Return the text of audit.csv, one row per slide."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        with_sufficiency = self.agreement is not None
        writer.writerow(
            ["slide_id", *self._answer_header(), "difference", "visited", "patches"]
            + [f"regret_{magnification:g}x" for magnification in self.trained.magnifications]
            + ["unreachable", *(SUFFICIENCY_COLUMNS if with_sufficiency else ("loss_increase",))]
        )
        for each in self.slides:
            numbers = [f"{each.difference:.6g}", each.visited, each.patches]
            regret = [f"{score:.6g}" for score in each.regret]
            lost = "" if each.unreachable is None else f"{each.unreachable[-1]:.6g}"
            row = [each.slide.slide_id, *self._answer_cells(each), *numbers, *regret, lost]
            if with_sufficiency:
                row += _sufficiency_cells(each.sufficiency)
            else:
                row.append("" if each.loss_increase is None else f"{each.loss_increase:.6g}")
            writer.writerow(row)
        return text.getvalue()

    def _answer_header(self) -> list[str]:
        if self.agreement is not None:
            return ["label", "zoomed", "exhaustive"]
        names = answer_names(self.task)
        return [*self.task.columns, *(f"zoomed_{n}" for n in names), *(f"every_{n}" for n in names)]

    def _answer_cells(self, each: SlideAudit) -> list[str]:
        """Return the truth and both predictions of a slide."""
        if self.agreement is not None:
            labels = self.trained.labels
            predicted = [labels[each.class_of(p)] for p in (each.zoomed, each.exhaustive)]
            return [each.slide.label, *predicted]
        truth = self.task.truth(each.slide)
        return [*truth.values(), *(f"{n:.6g}" for n in (*each.zoomed, *each.exhaustive))]

    def _class_counts(self) -> dict[str, int]:
        labels = [each.slide.label for each in self.slides]
        return {label: labels.count(label) for label in self.trained.labels}

    def _accuracy(self, probabilities: Sequence[tuple[float, ...]]) -> Score:
        correct = [
            self.trained.labels[each.class_of(own)] == each.slide.label
            for own, each in zip(probabilities, self.slides, strict=True)
        ]
        patients = tuple(each.slide.patient_id for each in self.slides)
        return proportion_with_interval(np.array(correct, dtype=float), patients)

    def _scores(self, numbers: Sequence[tuple[float, ...]]) -> dict[str, Score]:
        slides, answers = self._known(numbers)
        return self.task.scores(slides, answers)

    def _lost_scores(self) -> dict[str, Score]:
        """Return the scores with every patch minus those with the own selection, in pairs."""
        slides, zoomed = self._known([each.zoomed for each in self.slides])
        _, every = self._known([each.exhaustive for each in self.slides])
        task = self.task
        lost = ResamplableDifference(
            task.resamplable(slides, every), task.resamplable(slides, zoomed)
        )
        return resampled_scores(
            lost, dict.fromkeys(task.compared, "undefined, as one of the scores is")
        )

    def _known(
        self, numbers: Sequence[tuple[float, ...]]
    ) -> tuple[list[CohortSlide], list[Answer]]:
        """Return the slides whose target is known, with answers of these numbers."""
        names = answer_names(self.task)
        pairs = [
            (each.slide, Answer(outputs=dict(zip(names, own, strict=True))))
            for each, own in zip(self.slides, numbers, strict=True)
            if self.task.known(each.slide)
        ]
        return [slide for slide, _ in pairs], [answer for _, answer in pairs]


def answer_names(task: Task) -> tuple[str, ...]:
    """Return the names of the numbers that a task without classes answers."""
    return tuple(task.answer(torch.zeros(len(task.output_names))).outputs)


def output_units(task: Task) -> dict[str, float]:
    """Return the unit of each number in which differences are measured, where it is not 1."""
    if isinstance(task, Regression):
        return dict(zip(task.targets, task.deviations, strict=True))
    if isinstance(task, Joint):
        return {name: unit for part in task.parts for name, unit in output_units(part).items()}
    return {}


def _percent(score: Score) -> str:
    assert score.value is not None
    interval = "" if score.low is None else f" ({score.low:.1%} to {score.high:.1%})"
    return f"{score.value:.1%}{interval}"


def _sufficiency_cells(found: Sufficiency | None) -> list[str]:
    """Return the cells of a slide in the columns `SUFFICIENCY_COLUMNS`."""
    if found is None:
        return [""] * len(SUFFICIENCY_COLUMNS)
    at_random = found.sufficient_at_random
    numbers = (found.kept, found.kept_at_random, found.removed[AT_5], found.removed_at_random[AT_5])
    counts = [str(found.sufficient), "" if at_random is None else str(at_random)]
    return counts + [f"{number:.6g}" for number in numbers]
