"""What a comparison measures of each model: patches, multiply-accumulates and seconds."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from parfocal.compare.candidate import Candidate
from parfocal.compare.scores import STAGES, Timing
from parfocal.dataset.cohort import Cohort, CohortSlide
from parfocal.dataset.split import read_split
from parfocal.encoders.catalog import known_macs
from parfocal.encoders.weights import EncoderError
from parfocal.features.open_folder import Features
from parfocal.files import write_whole
from parfocal.models.budget import Budget, percent
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import CheckpointError
from parfocal.models.visit import with_budget
from parfocal.predict.slide import predict
from parfocal.settings.encoders import load_encoders
from parfocal.settings.sections import EncoderSettings
from parfocal.slide.failure import catch_failure
from parfocal.slide.sources.url import RemoteAccess, is_at_hand

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
        access: how remote slides are read; None for the defaults.
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
    access: RemoteAccess | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that are compared."""
        return tuple(candidate.name for candidate in self.candidates)

    def warn_of_encoder(self, names: Iterable[str], error: Exception) -> None:
        """Log once that encoders cannot be loaded, as those of another tool may be."""
        unique = dict.fromkeys(names)
        text = " and ".join(unique)
        if text not in self.missing_encoders:
            self.missing_encoders.add(text)
            unknown = any(known_macs(name) is None for name in unique)
            missing = "no MACs and no seconds" if unknown else "no seconds"
            logger.warning("%s per slide with encoder %s: %s", missing, text, error)


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
    magnifications = candidate.settings.slide.magnifications
    prices = _macs_per_patch(shared, encoder, magnifications)
    if prices is None:
        return None
    return macs + fmean(_encoding_macs(cost["patches"], prices) for cost in costs)


def _macs_per_patch(
    shared: SharedSetup, encoder: EncoderSettings, magnifications: Sequence[float]
) -> list[int] | None:
    """Return the MACs of encoding a patch of each magnification; None if any is unknown.

    Those of the catalog are known; other encoders are loaded and counted.
    """
    names = [encoder.name_at(each) for each in magnifications]
    published = all(encoder.weights_at(each) is None for each in magnifications)
    prices = [known_macs(name) if published else None for name in names]
    if None in prices:
        try:
            # Features at any mpp were accepted before.
            loaded = load_encoders(replace(encoder, any_mpp=True), magnifications)
        except (EncoderError, ValueError) as error:  # one that only another tool has
            shared.warn_of_encoder(names, error)
            return None
        prices = [each.macs_per_patch() for each in loaded]
    known = [price for price in prices if price is not None]
    return known if len(known) == len(prices) else None


def _encoding_macs(patches: Sequence[Mapping[str, float]], prices: Sequence[int]) -> float:
    """Return the mean MACs of encoding the patches of each step."""
    pairs = zip(patches, prices, strict=False)  # a model may stop before the last magnification
    return sum((step["mean"] * price for step, price in pairs), 0.0)


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
            device: _mean_seconds(
                *(shared, candidate, run, slides[: shared.timed]), device=device, budget=budget
            )
            for device in devices
        }
        write_whole(stored, (json.dumps(timing, indent=1) + "\n").encode())
    timing_by_device: Timing = json.loads(stored.read_text("utf-8"))
    return {device: stages for device, stages in timing_by_device.items() if stages}


def budget_folder(budget: Budget) -> str:
    """Return the name of the files of a budget."""
    order = "" if budget.random_seed is None else "-random"
    return f"share-{percent(budget.amount)}{order}"


def _mean_seconds(
    shared: SharedSetup,
    candidate: Candidate,
    run: Path,
    slides: Sequence[CohortSlide],
    *,
    device: str,
    budget: Budget | None,
) -> dict[str, float]:
    """Return the mean seconds by stage; the first slide is predicted twice, once to warm up.

    A slide that fails is not counted.
    """
    trained = Checkpoint.load(run, trust_remote_code=candidate.trust_remote_code)
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
