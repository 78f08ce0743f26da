"""What skipping costs: a model's own choice beside the same weights with everything visible.

Regret, at a magnification, is the attention that the weights give to patches the model never
visited, once they are shown all of them.
"""

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from parfocal.bag import Bag, Look, Prediction
from parfocal.dataset.cohort import CohortSlide, read_cohort
from parfocal.evaluate.result import Failure
from parfocal.evaluate.run import chosen_slides, inputs_of, parts_of
from parfocal.features.errors import StoreError, UnwritableError
from parfocal.files import write_together
from parfocal.metrics import Score, mean_score
from parfocal.models.checkpoint import Checkpoint
from parfocal.slide.errors import SlideError

logger = logging.getLogger(__name__)


class AuditError(Exception):
    """A model of which there is nothing to audit; the message says why."""


class Everything:
    """A bag that goes on to all children, whatever a model selects.

    Args:
        bag: that is looked at.
    """

    def __init__(self, bag: Bag) -> None:
        self._bag = bag

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Which patches these are."""
        return self._bag.rows

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """False where a patch does not exist."""
        return self._bag.valid

    def features(self) -> Float[Tensor, "n d"]:
        """Give the patches' features."""
        return self._bag.features()

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Give (column, row) of the patches."""
        return self._bag.cells()

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "Everything":
        """Go on to all children."""
        return Everything(self._bag.zoom(None))


@dataclass(frozen=True)
class SlideAudit:
    """One slide, looked at both ways.

    Args:
        slide: with its label.
        own: probabilities by the model's own choice of patches.
        everything: probabilities with every patch visible.
        regret: by magnification, lowest first, where all is visible.
        visited: patches, of its own choice.
        patches: that there are.
    """

    slide: CohortSlide
    own: tuple[float, ...]
    everything: tuple[float, ...]
    regret: tuple[float, ...]
    visited: int
    patches: int

    @property
    def agrees(self) -> bool:
        """Whether both ways give the same label."""
        return int(np.argmax(self.own)) == int(np.argmax(self.everything))

    @property
    def difference(self) -> float:
        """The largest difference of a class's probability."""
        return float(np.abs(np.subtract(self.own, self.everything)).max())


@dataclass(frozen=True)
class Audit:
    """What skipping costs on the slides of a cohort.

    Args:
        trained: the model.
        slides: each looked at both ways.
        failed: slides without an answer.
        agreement: share of the slides with the same label both ways.
        difference: mean over slides of the largest difference of a probability.
        regret: mean over slides, by magnification.
    """

    trained: Checkpoint
    slides: tuple[SlideAudit, ...]
    failed: tuple[Failure, ...]
    agreement: Score
    difference: Score
    regret: tuple[Score, ...]

    @property
    def summary(self) -> str:
        """What one wants to know first, in a line."""
        visited = sum(slide.visited for slide in self.slides)
        patches = sum(slide.patches for slide in self.slides)
        regret = ", ".join(
            f"{score.value:.3f} at {magnification:g}x"
            for magnification, score in zip(self.trained.magnifications, self.regret, strict=True)
        )
        return (
            f"{len(self.slides)} slides: with everything visible the label is the same on "
            f"{self.agreement.value:.1%}, probabilities differ by {self.difference.value:.3f}; "
            f"regret {regret}; visited {visited:,} of {patches:,} patches"
        )

    def to_dict(self) -> dict[str, object]:
        """Give everything as audit.json has it."""
        regret = zip(self.trained.magnifications, self.regret, strict=True)
        return {
            "format_version": 1,
            "model": {
                "name": self.trained.model_name,
                "weights_sha256": self.trained.weights_hash,
            },
            "slides": len(self.slides),
            "accuracy": {
                "own": self._accuracy([slide.own for slide in self.slides]),
                "everything": self._accuracy([slide.everything for slide in self.slides]),
            },
            "agreement": asdict(self.agreement),
            "difference": asdict(self.difference),
            "regret": [
                {"magnification": magnification, **asdict(score)} for magnification, score in regret
            ],
            "failed": [
                {"slide_id": failure.slide.slide_id, "reason": failure.reason}
                for failure in self.failed
            ],
        }

    def to_csv(self) -> str:
        """Give a row a slide, as audit.csv has it."""
        labels, magnifications = self.trained.labels, self.trained.magnifications
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["slide_id", "label", "own", "everything", "difference", "visited", "patches"]
            + [f"regret_{magnification:g}x" for magnification in magnifications]
        )
        for each in self.slides:
            told = [labels[int(np.argmax(answer))] for answer in (each.own, each.everything)]
            numbers = [f"{each.difference:.6g}", each.visited, each.patches]
            regret = [f"{score:.6g}" for score in each.regret]
            writer.writerow([each.slide.slide_id, each.slide.label, *told, *numbers, *regret])
        return text.getvalue()

    def _accuracy(self, answers: Sequence[tuple[float, ...]]) -> float:
        labels = [self.trained.labels[int(np.argmax(answer))] for answer in answers]
        right = [label == each.slide.label for label, each in zip(labels, self.slides, strict=True)]
        return float(np.mean(right))


def audit(
    run: Path,
    cohort_csv: Path,
    out: Path,
    *,
    features: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    external: bool = False,
) -> Audit:
    """Find out what skipping costs on a run's test slides, and write audit.json and audit.csv.

    Args:
        run: folder of a trained run.
        cohort_csv: the slides, with labels the model knows.
        out: folder to write to.
        features: folder of feature files; None to read and encode the slides, all of them.
        cache: folder that keeps features between visits.
        device: where to run.
        external: the cohort is another than the run's, as of `evaluate`.

    Raises:
        AuditError: the model does not zoom, or every slide failed.
        EvaluationError: there is no test slide.
        CohortError: the cohort has an error, or a label the model does not know.
        CheckpointError: the run cannot be used.
    """
    trained = Checkpoint.load(run)
    cohort = read_cohort(cohort_csv, labels=trained.labels)
    inputs = inputs_of(trained, features, cache, device)
    audited, failed = [], []
    parts = {} if external else parts_of(cohort, run, trained, features)
    for slide in chosen_slides(cohort, parts, "test"):
        try:
            with inputs.open(slide) as opened:
                audited.append(_both_ways(slide, opened.given, trained))
        except UnwritableError:
            raise  # a full disk is no fault of the slide
        except (SlideError, StoreError) as error:
            failed.append(Failure(slide, str(error)))
            logger.warning("%s failed", slide.slide_id)
    if not audited:
        raise AuditError(f"all {len(failed)} slides failed; the first: {failed[0].told}")
    result = _sum_up(trained, audited, failed)
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"
    written = {"audit.json": content, "audit.csv": result.to_csv()}
    write_together({out / name: text.encode() for name, text in written.items()})
    return result


def _both_ways(slide: CohortSlide, given: object, trained: Checkpoint) -> SlideAudit:
    if not isinstance(given, Bag):
        raise AuditError(
            f"model {trained.model_name} reads pixels by itself, so it cannot be shown every "
            "patch; give the run of a model that zooms into patches."
        )
    with torch.no_grad():
        own: Prediction = trained.model(given)
        everything: Prediction = trained.model(Everything(given))
    if all(look.selected is None for look in own.looks):
        raise AuditError(
            f"model {trained.model_name} looks at everything already, so nothing is skipped; give "
            "the run of a model that zooms."
        )
    regret = [regret_of(*looks) for looks in zip(own.looks, everything.looks, strict=True)]
    return SlideAudit(
        slide,
        _probabilities(own),
        _probabilities(everything),
        tuple(regret),
        visited=sum(len(look.rows) for look in own.looks),
        patches=sum(len(look.rows) for look in everything.looks),
    )


def regret_of(own: Look, everything: Look) -> float:
    """Give the attention, where all is visible, on patches that the own look has not."""
    missed = ~torch.isin(everything.rows, own.rows)
    return float(everything.attention[missed].sum())


def _probabilities(prediction: Prediction) -> tuple[float, ...]:
    return tuple(prediction.logits.double().softmax(dim=0).tolist())


def _sum_up(trained: Checkpoint, audited: Sequence[SlideAudit], failed: Sequence[Failure]) -> Audit:
    patients = tuple(each.slide.patient_id for each in audited)

    def mean(values: Sequence[float]) -> Score:
        return mean_score(np.array(values, dtype=float), patients)

    return Audit(
        trained,
        tuple(audited),
        tuple(failed),
        agreement=mean([each.agrees for each in audited]),
        difference=mean([each.difference for each in audited]),
        regret=tuple(mean(step) for step in zip(*(each.regret for each in audited), strict=True)),
    )
