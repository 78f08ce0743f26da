"""What a comparison measures of each model: patches, multiply-accumulates and seconds."""

import csv
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from parfocal.compare.candidate import Candidate
from parfocal.compare.scores import STAGES, Timing
from parfocal.dataset.cohort import Cohort, CohortSlide
from parfocal.dataset.split import read_split
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.weights import EncoderError
from parfocal.features.open_folder import Features
from parfocal.files import write_whole
from parfocal.metrics import LabeledPredictions
from parfocal.models.budget import Budget
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import CheckpointError
from parfocal.models.visit import with_budget
from parfocal.predict.slide import predict
from parfocal.settings.encoders import load_encoders
from parfocal.slide.failure import catch_failure
from parfocal.slide.sources.url import is_at_hand

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedSetup:
    """Data and options that are the same for all models.

    Args:
        source: CSV of the cohort.
        cohort: the slides.
        out: output folder.
        stores: folder of stored features by name of the model; none for models that take pixels.
        seeds: number of training runs of each model or fold.
        cache: folder of features that are not computed again, and of the pixels that models read.
        device: device for training and evaluation.
        timed: number of slides to time from file to prediction.
        unreadable: reason of each slide that is left out, by slide id.
        candidates: the models that are compared.
        missing_encoders: encoders that were warned of because they cannot be loaded.
    """

    source: Path
    cohort: Cohort
    out: Path
    stores: dict[str, Features]
    seeds: int
    cache: Path | None
    device: str
    timed: int
    unreadable: Mapping[str, str]
    candidates: tuple[Candidate, ...] = ()
    missing_encoders: set[str] = field(default_factory=set)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that are compared."""
        return tuple(candidate.name for candidate in self.candidates)

    def warn_of_encoder(self, names: Iterable[str], error: Exception) -> None:
        """Log once that encoders cannot be loaded, as those of another tool may be."""
        text = " and ".join(dict.fromkeys(names))
        if text not in self.missing_encoders:
            self.missing_encoders.add(text)
            logger.warning("no MACs and no seconds per slide with encoder %s: %s", text, error)


def mean_patches(metrics: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean number of patches per slide, given metrics.json of each run."""
    return fmean(sum(step["mean"] for step in each["cost"]["patches"]) for each in metrics)


def mean_macs(
    shared: SharedSetup, candidate: Candidate, metrics: Sequence[Mapping[str, Any]]
) -> float | None:
    """Return the mean multiply-accumulates per slide, including encoding; None if unknown.

    Args:
        shared: the comparison.
        candidate: the model.
        metrics: content of metrics.json of each run.
    """
    costs = [each["cost"] for each in metrics]
    known = [cost["macs"]["mean"] for cost in costs if cost["macs"] is not None]
    macs = fmean(known) if len(known) == len(costs) else None
    encoder = candidate.settings.encoder
    if encoder is None or macs is None:
        return macs
    # With stored features, the evaluation counts the MACs of the model only.
    try:
        # Features at any mpp were accepted before.
        any_mpp = replace(encoder, any_mpp=True)
        encoders = load_encoders(any_mpp, candidate.settings.slide.magnifications)
        encoding = [_encoding_macs(cost["patches"], encoders) for cost in costs]
    except (EncoderError, ValueError) as error:  # one that only another tool has
        names = [encoder.name_at(each) for each in candidate.settings.slide.magnifications]
        shared.warn_of_encoder(names, error)
        return None
    known = [each for each in encoding if each is not None]
    return macs + fmean(known) if len(known) == len(encoding) else None


def _encoding_macs(
    patches: Sequence[Mapping[str, float]], encoders: Sequence[Encoder]
) -> float | None:
    """Return the mean MACs of encoding the patches of each step; None if an encoder has none."""
    total = 0.0
    for step, encoder in zip(patches, encoders, strict=False):
        macs = encoder.macs_per_patch()
        if macs is None:
            return None
        total += step["mean"] * macs
    return total


def read_all_predictions(
    evaluations: Sequence[Path], metrics: Sequence[Mapping[str, Any]]
) -> tuple[LabeledPredictions, ...]:
    """Return the predictions of evaluations, given their folders and metrics.json."""
    return tuple(
        _read_predictions(folder / "predictions.csv", tuple(each["labels"]))
        for folder, each in zip(evaluations, metrics, strict=True)
    )


def _read_predictions(path: Path, labels: tuple[str, ...]) -> LabeledPredictions:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return LabeledPredictions(
        labels,
        np.array([labels.index(row["label"]) for row in rows]),
        np.array([[float(row[f"prob_{label}"]) for label in labels] for row in rows]),
        tuple(row["patient_id"] for row in rows),
    )


def load_or_measure_seconds(
    shared: SharedSetup, candidate: Candidate, run: Path, budget: Budget | None = None
) -> Timing:
    """Time a few test slides on the CPU, and on the GPU if there is one; keep the result."""
    name = "seconds.json" if budget is None else f"seconds-{budget_folder(budget)}.json"
    stored = shared.out / candidate.name / name
    if not stored.exists():
        test_ids = {row.slide_id for row in read_split(run / "split.csv") if row.split == "test"}
        test_ids -= shared.unreadable.keys()
        slides = [s for s in shared.cohort.slides if s.slide_id in test_ids and is_at_hand(s.path)]
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        timing = {
            device: _mean_seconds(shared, run, slides[: shared.timed], device, budget)
            for device in devices
        }
        write_whole(stored, (json.dumps(timing, indent=1) + "\n").encode())
    timing_by_device: Timing = json.loads(stored.read_text("utf-8"))
    return {device: stages for device, stages in timing_by_device.items() if stages}


def budget_folder(budget: Budget) -> str:
    """Return the name of the files of a budget."""
    order = "" if budget.random_seed is None else "-random"
    return f"share-{100 * budget.amount:g}{order}"


def _mean_seconds(
    shared: SharedSetup,
    run: Path,
    slides: Sequence[CohortSlide],
    device: str,
    budget: Budget | None,
) -> dict[str, float]:
    """Return the mean seconds by stage; the first slide is predicted twice, once to warm up.

    A slide that fails is not counted.
    """
    trained = Checkpoint.load(run)
    if budget is not None:
        trained = with_budget(trained, budget)
    trained.model.to(device)
    if not slides or trained.traits.takes == "nothing":
        return {}
    try:
        encoders = trained.load_encoders(device=device)
    except (CheckpointError, EncoderError, ValueError) as error:  # one that another tool has
        shared.warn_of_encoder((each.name for each in trained.encoders), error)
        return {}
    seconds = []
    for slide in [*slides[:1], *slides]:
        with catch_failure(slide.slide_id):
            seconds.append(
                predict(slide.path, trained, mpp=slide.mpp, encoder=encoders).cost.seconds
            )
    seconds = seconds[1:]
    return {stage: fmean(each[stage] for each in seconds) for stage in STAGES} if seconds else {}
