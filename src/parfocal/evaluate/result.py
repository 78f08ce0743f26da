"""What an evaluation found: scores with intervals, cost, localization; as JSON and CSV.

docs/formats.md tells what stands in metrics.json and predictions.csv.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from parfocal.cost import Cost
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.localization import Localization
from parfocal.metrics import (
    METRICS,
    Answers,
    Score,
    by_patient,
    confusion,
    mean_score,
    strata_scores,
)
from parfocal.models.checkpoint import Checkpoint
from parfocal.slide.errors import name_once

FORMAT_VERSION = 1
SUMMARY_METRICS = ("auroc_macro", "accuracy", "balanced_accuracy")
Which = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class StepResult:
    """What one look at a slide came to.

    Args:
        level: the magnification asked for; of a model that zooms freely, the number of the look.
        patches: looked at.
        probability: of looking here and not at another magnification; None for a model that
            looks at each.
        localization: against the outlined lesions; None where there are none.
    """

    level: float
    patches: int
    probability: float | None = None
    localization: Localization | None = None


@dataclass(frozen=True)
class SlideResult:
    """What a model said of one slide, and what that took.

    Args:
        slide: with its true label.
        probabilities: in the model's order of labels.
        steps: its looks.
        share_patches: of those that looking at everything would encode; None where unknown.
        cost: the bill.
        localization: of all looks together, where they share one probability and there are
            outlined lesions; else None.
    """

    slide: CohortSlide
    probabilities: tuple[float, ...]
    steps: tuple[StepResult, ...]
    share_patches: float | None
    cost: Cost
    localization: Localization | None = None

    @property
    def patches(self) -> int:
        """How many were looked at."""
        return sum(step.patches for step in self.steps)


@dataclass(frozen=True)
class Failure:
    """A slide without an answer, and why."""

    slide: CohortSlide
    reason: str

    @property
    def told(self) -> str:
        """Which slide it is, and why."""
        told = name_once(self.slide.slide_id, self.reason)
        return f"{told.name}: {told.reason}"


@dataclass(frozen=True)
class Settings:
    """How an evaluation was made.

    Args:
        split: which slides were asked for.
        features: "stored" where they were read from files, so that no patch was encoded.
        external: whether the cohort was said to be another than the run's.
        not_in_run: how many of the slides the run's split does not name.
        seen_in_training: how many of the slides the model was trained on or chosen by.
        resamples: of the intervals.
        seed: of these.
    """

    split: Which
    features: Literal["stored", "live"]
    external: bool
    not_in_run: int
    seen_in_training: int
    resamples: int
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """How a trained model did on slides of a cohort.

    Args:
        trained: the model.
        settings: how it was evaluated.
        results: by slide, in the order of the cohort.
        failed: slides without an answer.
        scores: of slides, by name as `metrics.scores` gives them.
        patient_scores: of patients, whose probabilities are the mean of their slides'; the
            reason where a patient has no one label.
    """

    trained: Checkpoint
    settings: Settings
    results: tuple[SlideResult, ...]
    failed: tuple[Failure, ...]
    scores: dict[str, Score]
    patient_scores: dict[str, Score] | str

    @property
    def answers(self) -> Answers:
        """The probabilities of the slides, and the truth."""
        return answers_of(self.trained.labels, self.results)

    @property
    def summary(self) -> str:
        """What one wants to know first, in a line."""
        patients = len({result.slide.patient_id for result in self.results})
        said = [f"{METRICS[name]} {_said(self.scores[name])}" for name in SUMMARY_METRICS]
        failed = f"; {len(self.failed)} failed" if self.failed else ""
        return (
            f"{len(self.results)} slides of {patients} patients: {', '.join(said)}{self._probability_text()}"
            f"{failed}"
        )

    def to_dict(self) -> dict[str, object]:
        """Give everything as metrics.json has it."""
        trained, settings = self.trained, self.settings
        return {
            "format_version": FORMAT_VERSION,
            "model": {
                "name": trained.model_name,
                "weights_sha256": trained.weights_hash,
                "encoder": None if trained.encoder is None else trained.encoder.name,
                "magnifications": trained.magnifications,
            },
            **asdict(settings),
            "labels": trained.labels,
            "predicted": "the label of the highest probability; of equal ones, the first",
            "interval": "95% percentile bootstrap over patients",
            "slides": _level(self.answers, self.scores),
            "strata": self._strata(),
            "patients": self._patients(),
            "probability": self._probability(),
            "localization": self._localization(),
            "localization_together": self._compared([each.localization for each in self.results]),
            "cost": self._cost(),
            "failed": [
                {"slide_id": failure.slide.slide_id, "reason": failure.reason}
                for failure in self.failed
            ],
        }

    def to_csv(self) -> str:
        """Give a row a slide, as predictions.csv has it."""
        labels, table = self.trained.labels, io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        probabilities = [f"prob_{label}" for label in labels]
        cost = ["patches", "share_patches", "seconds"]
        shares = [f"share_{self._named(level)}" for level in self._chances()]
        head = ["slide_id", "patient_id", "label", "predicted", *probabilities, *cost, *shares]
        writer.writerow(head)
        answers = zip(self.results, self.answers.predicted, strict=True)
        for place, (result, predicted) in enumerate(answers):
            slide, share = result.slide, result.share_patches
            writer.writerow(
                [slide.slide_id, slide.patient_id, slide.label, labels[predicted]]
                + [f"{probability:.6g}" for probability in result.probabilities]
                + [result.patches, "" if share is None else f"{share:.6g}"]
                + [f"{result.cost.seconds['total']:.3f}"]
                + [f"{chances[place]:.6g}" for chances in self._chances().values()]
            )
        return table.getvalue()

    def _strata(self) -> dict[str, object]:
        """Tell how well each stratum is told from the negatives; empty where there are none."""
        drawn = {"resamples": self.settings.resamples, "seed": self.settings.seed}
        strata = tuple(result.slide.stratum for result in self.results)
        found = strata_scores(self.answers, strata, **drawn)
        return {name: {"n": n, "auroc": asdict(score)} for name, (n, score) in found.items()}

    def _patients(self) -> dict[str, object]:
        if isinstance(self.patient_scores, str):
            return {"scores": None, "reason": self.patient_scores}
        rule = {"probabilities": "the mean of those of a patient's slides"}
        return rule | _level(by_patient(self.answers), self.patient_scores)

    def _cost(self) -> dict[str, object]:
        """Sum up what an answer took; of stored features, reading them and the model alone."""
        patches = {
            level: [step.patches if step else 0 for step in steps]
            for level, steps in self._levels().items()
        }
        shares = [r.share_patches for r in self.results if r.share_patches is not None]
        return {
            "patches": [self._at(level) | _spread(counts) for level, counts in patches.items()],
            "share_patches": _spread(shares) if shares else None,
            "macs": _spread([result.cost.macs for result in self.results]),
            "seconds": _spread([result.cost.seconds["total"] for result in self.results]),
        }

    def _localization(self) -> list[dict[str, object]] | None:
        """Compare attention and choice with the lesions, by magnification."""
        rows = []
        for level, steps in self._levels().items():
            found = self._compared([None if step is None else step.localization for step in steps])
            if found is not None:
                rows.append(self._at(level) | found)
        return rows or None

    def _compared(self, localizations: Sequence[Localization | None]) -> dict[str, object] | None:
        """Sum up what is known of the slides."""
        known = [
            (found, result.slide.patient_id)
            for found, result in zip(localizations, self.results, strict=True)
            if found is not None
        ]
        if not known:
            return None
        found, patients = zip(*known, strict=True)
        return _met(found, patients, self.settings)

    def _probability(self) -> list[dict[str, object]] | None:
        """Tell how the choice of where to look divides among the magnifications."""
        return [
            self._at(level) | _spread(chances) for level, chances in self._chances().items()
        ] or None

    def _probability_text(self) -> str:
        """Say the same in a few words."""
        shares = [
            f"{np.mean(chances):.0%} {self._named(level)}"
            for level, chances in self._chances().items()
        ]
        return f"; looks at {', '.join(shares)}" if shares else ""

    def _chances(self) -> dict[float, list[float]]:
        """Give each magnification's share of the probability, slide by slide."""
        return {
            level: [step.probability or 0.0 if step else 0.0 for step in steps]
            for level, steps in self._levels().items()
            if any(step is not None and step.probability is not None for step in steps)
        }

    def _levels(self) -> dict[float, list[StepResult | None]]:
        """Arrange the looks by magnification, slide by slide; None where one was left out."""
        by_slide = [{step.level: step for step in result.steps} for result in self.results]
        levels = sorted({level for steps in by_slide for level in steps})
        return {level: [steps.get(level) for steps in by_slide] for level in levels}

    def _at(self, level: float) -> dict[str, object]:
        return {"magnification" if self.trained.by_magnification else "look": level}

    def _named(self, level: float) -> str:
        return f"{level:g}x" if self.trained.by_magnification else f"look {level:g}"


def answers_of(labels: tuple[str, ...], results: Sequence[SlideResult]) -> Answers:
    """Give the probabilities of slides, and the truth."""
    return Answers(
        labels,
        np.array([labels.index(result.slide.label) for result in results]),
        np.array([result.probabilities for result in results]),
        tuple(result.slide.patient_id for result in results),
    )


def _level(answers: Answers, found: Mapping[str, Score]) -> dict[str, object]:
    """Give scores as the JSON has them, those of a class under its label."""
    classes: dict[str, dict[str, object]] = {
        label: {"n": int((answers.truth == c).sum())} for c, label in enumerate(answers.labels)
    }
    overall: dict[str, object] = {}
    for name, score in found.items():
        measure, _, label = name.partition("/")
        (classes[label] if label else overall)[measure] = asdict(score)
    return {
        "n": len(answers.truth),
        "scores": overall,
        "classes": classes,
        "confusion": {
            "rows": "true",
            "columns": "predicted",
            "counts": confusion(answers).tolist(),
        },
    }


def _met(
    found: Sequence[Localization], patients: tuple[str, ...], settings: Settings
) -> dict[str, object]:
    """Sum up one magnification, each measure beside what chance gives on the same slides."""

    def mean(values: list[float]) -> dict[str, object]:
        drawn = {"resamples": settings.resamples, "seed": settings.seed}
        return asdict(mean_score(np.array(values, dtype=float), patients, **drawn))

    met: dict[str, object] = {
        "slides": len(found),
        "slides_with_lesion_in_reach": sum(each.touching > 0 for each in found),
        "attention": mean([each.mass for each in found]),
        "attention_by_chance": float(np.mean([each.chance for each in found])),
    }
    if all(each.selected for each in found):
        met |= {
            "hit": mean([each.hit for each in found]),
            "hit_by_chance": float(np.mean([each.chance_of_hit for each in found])),
            "selected": mean([each.share for each in found]),
            "selected_by_chance": met["attention_by_chance"],
        }
    return met


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "median": float(np.median(values))}


def _said(score: Score) -> str:
    if score.value is None:
        return f"{score.reason}"
    between = "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{score.value:.3f}{between}"
