"""Measure what zooming costs: predictions with the model's own selection and with every patch.

The regret of a magnification is the attention that the model, given every patch, puts on patches
that it did not visit with its own selection. Tissue without a patch, which the model cannot visit
(`slide.roots: share`), counts in proportion to its area: if that is a share u of the tissue, the
regret is u + (1 - u) times the regret over the patches.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from parfocal.bag import Bag, ExhaustiveBag
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.leakage import refuse_copies
from parfocal.dataset.split import read_left_out
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution
from parfocal.evaluate.batch import SlideBatch
from parfocal.evaluate.heldout import (
    find_training_slides,
    has_no_slides,
    run_parts,
    select_slides,
    training_slides_error,
)
from parfocal.evaluate.result import Failure
from parfocal.evaluate.run import checkpoint_inputs
from parfocal.evaluate.sufficiency import (
    DELETED_SHARES,
    KEPT_SHARE,
    Sufficiency,
    measure_sufficiency,
)
from parfocal.evaluate.sufficiency_summary import SufficiencySummary
from parfocal.explain.record import percent_of_tissue
from parfocal.features.open_folder import Features, open_features
from parfocal.features.slide_input import BagInput, SlideInput
from parfocal.files import refuse_slide_folder, write_together
from parfocal.metrics import Score, mean_with_interval, proportion_with_interval
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import require_finite
from parfocal.models.unit import refuse_units
from parfocal.models.visit import answer, budget_text, given_budget, runner
from parfocal.prediction import Look, Prediction
from parfocal.tasks import read_task_cohort, task_of

FORMAT_VERSION = 2  # of audit.json
SUFFICIENCY_COLUMNS = (
    *("sufficient", "sufficient_at_random"),
    *("kept", "kept_at_random", "removed", "removed_at_random"),
)
AT_5 = DELETED_SHARES.index(KEPT_SHARE)


class AuditError(Exception):
    """An audit that is impossible; the message says why."""


@dataclass(frozen=True)
class SlideAudit:
    """Both predictions for one slide.

    Args:
        slide: the slide with its label.
        zoomed: class probabilities with the model's own selection of patches.
        exhaustive: class probabilities with every patch.
        regret: regret of each magnification, lowest first.
        unreachable: share of the tissue that has no patch at each magnification; None if unknown,
            as with stored features of version 1, and then not counted as regret.
        visited: number of patches visited with the model's own selection, at all magnifications.
        patches: number of patches that exhaustive processing would encode: those of the highest
            magnification that pass the tissue test. Both numbers are those of a prediction's bill.
        sufficiency: whether the patches that the model attends to are enough, and needed; None in
            results of earlier versions.
    """

    slide: CohortSlide
    zoomed: tuple[float, ...]
    exhaustive: tuple[float, ...]
    regret: tuple[float, ...]
    unreachable: tuple[float, ...] | None
    visited: int
    patches: int
    sufficiency: Sufficiency | None = None

    @property
    def agrees(self) -> bool:
        """Whether both predictions have the same label."""
        return int(np.argmax(self.zoomed)) == int(np.argmax(self.exhaustive))

    @property
    def difference(self) -> float:
        """Largest absolute difference of the probability of a class."""
        return float(np.abs(np.subtract(self.zoomed, self.exhaustive)).max())


@dataclass(frozen=True)
class Audit:
    """What zooming costs on slides of a cohort.

    Args:
        trained: the model.
        slides: both predictions for each slide.
        failed: slides without predictions.
        agreement: share of the slides with the same label in both predictions.
        difference: mean over slides of the largest difference of a probability.
        regret: mean over slides, for each magnification.
        unreachable: mean share of the tissue that the model cannot reach at its highest
            magnification; None if unknown.
    """

    trained: Checkpoint
    slides: tuple[SlideAudit, ...]
    failed: tuple[Failure, ...]
    agreement: Score
    difference: Score
    regret: tuple[Score, ...]
    unreachable: Score | None

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
        classes = ", ".join(f"{n} {label}" for label, n in self._class_counts().items())
        return (
            f"{len(self.slides)} slides ({classes}): with every patch, "
            f"{self._agreement()} of the labels are the same and probabilities differ by "
            f"{self.difference.value:.3f}; "
            f"regret {regret}; {lost}visited {visited:,} of {patches:,} patches"
            f"{'' if self.sufficiency is None else f'; {self.sufficiency.text}'}"
        )

    @property
    def sufficiency(self) -> SufficiencySummary | None:
        """Whether the patches that the model attends to are enough; None if not all have it."""
        known = tuple(each.sufficiency for each in self.slides if each.sufficiency is not None)
        if len(known) < len(self.slides):
            return None
        return SufficiencySummary(known, tuple(each.slide.patient_id for each in self.slides))

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
            "classes": self._class_counts(),
            "patches": {
                "visited": sum(each.visited for each in self.slides),
                "exhaustive": sum(each.patches for each in self.slides),
            },
            "accuracy": {
                "zoomed": asdict(self._accuracy([slide.zoomed for slide in self.slides])),
                "exhaustive": asdict(self._accuracy([each.exhaustive for each in self.slides])),
            },
            "agreement": asdict(self.agreement),
            "difference": asdict(self.difference),
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

    def to_csv(self) -> str:
        """Return the text of audit.csv, one row per slide."""
        labels, magnifications = self.trained.labels, self.trained.magnifications
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["slide_id", "label", "zoomed", "exhaustive", "difference", "visited", "patches"]
            + [f"regret_{magnification:g}x" for magnification in magnifications]
            + ["unreachable", *SUFFICIENCY_COLUMNS]
        )
        for each in self.slides:
            predicted = [labels[int(np.argmax(p))] for p in (each.zoomed, each.exhaustive)]
            numbers = [f"{each.difference:.6g}", each.visited, each.patches]
            regret = [f"{score:.6g}" for score in each.regret]
            lost = "" if each.unreachable is None else f"{each.unreachable[-1]:.6g}"
            row = [each.slide.slide_id, each.slide.label, *predicted, *numbers, *regret, lost]
            row += _sufficiency_cells(each.sufficiency)
            writer.writerow(row)
        return text.getvalue()

    def _class_counts(self) -> dict[str, int]:
        labels = [each.slide.label for each in self.slides]
        return {label: labels.count(label) for label in self.trained.labels}

    def _agreement(self) -> str:
        score = self.agreement
        assert score.value is not None
        interval = "" if score.low is None else f" ({score.low:.1%} to {score.high:.1%})"
        return f"{score.value:.1%}{interval}"

    def _accuracy(self, probabilities: Sequence[tuple[float, ...]]) -> Score:
        labels = [self.trained.labels[int(np.argmax(each))] for each in probabilities]
        correct = [
            label == each.slide.label for label, each in zip(labels, self.slides, strict=True)
        ]
        patients = tuple(each.slide.patient_id for each in self.slides)
        return proportion_with_interval(np.array(correct, dtype=float), patients)


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
    distribution: Distribution = EVERYTHING_HERE,
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
        distribution: how the slides are divided among processes.

    Raises:
        AuditError: the model does not zoom, or every slide failed.
        EvaluationError: there are no test slides, or some are training slides.
        CohortError: the cohort is invalid, or has a label that the model does not know.
        CheckpointError: the run cannot be used.
    """
    trained = Checkpoint.load(run)
    _refuse_without_zoom(trained)
    trained = given_budget(trained, budget)
    task = task_of(trained)
    if not task.classes:
        raise AuditError(
            f"{run}: an audit compares class probabilities with and without zooming, and the run "
            f"has task {task.name}; evaluate it instead."
        )
    cohort = read_task_cohort(cohort_csv, task)
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
    inputs = checkpoint_inputs(trained, folder, cache, device)

    def process(slide: CohortSlide, opened: SlideInput) -> SlideAudit:
        return _audit_slide(slide, opened, trained)

    stored: Literal["stored", "live"] = "stored" if features else "live"
    batch = SlideBatch(
        *("auditing", SlideAudit, process, trained, inputs, stored, out),
        again=again,
        distribution=distribution,
    )
    audited, failed = batch.run(slides)
    if not audited:
        raise AuditError(f"all {len(failed)} slides failed; the first: {failed[0].message}")
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
        sufficiency = measure_sufficiency(run, bag, exhaustive)
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
        _probabilities(zoomed),
        _probabilities(exhaustive),
        tuple(regret_of(*look) for look in looks),
        lost,
        visited=sum(len(look.rows) for look in visited),
        patches=len(every[-1].rows) if sharpest is None else sharpest.patches,
        sufficiency=sufficiency,
    )


def _sufficiency_cells(found: Sufficiency | None) -> list[str]:
    """Return the cells of a slide in the columns `SUFFICIENCY_COLUMNS`."""
    if found is None:
        return [""] * len(SUFFICIENCY_COLUMNS)
    at_random = found.sufficient_at_random
    numbers = (found.kept, found.kept_at_random, found.removed[AT_5], found.removed_at_random[AT_5])
    counts = [str(found.sufficient), "" if at_random is None else str(at_random)]
    return counts + [f"{number:.6g}" for number in numbers]


def _probabilities(prediction: Prediction) -> tuple[float, ...]:
    return tuple(prediction.logits.double().softmax(dim=0).tolist())


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
        ),
        difference=mean([each.difference for each in audited]),
        regret=tuple(mean(step) for step in zip(*(each.regret for each in audited), strict=True)),
        unreachable=mean(lost) if len(lost) == len(audited) else None,
    )
