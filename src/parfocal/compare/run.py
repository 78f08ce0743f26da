"""Train, evaluate and time several models on the same splits; an interrupted call is resumable.

OUT/features/ENCODER    features, extracted once for all models that they serve
OUT/MODEL/seed-0        run folders (below them fold-0, ... with folds), each with `evaluation`
OUT/MODEL/seconds.json  seconds per slide, read from its file
OUT/results.csv, .md    the tables, rewritten after each model
OUT/results.png, report.html    the picture and the page, written at the end or on interruption
"""

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

from parfocal.compare.candidate import Candidate, ComparisonError
from parfocal.compare.readable import find_unreadable
from parfocal.compare.scores import STAGES, ComparisonRow, ModelResult, Timing, score_results
from parfocal.compare.stores import prepare_stores
from parfocal.compare.table import to_csv, to_markdown
from parfocal.dataset.cohort import Cohort, CohortSlide, read_cohort, without_slides
from parfocal.dataset.leakage import refuse_copies
from parfocal.dataset.split import read_split
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.weights import EncoderError
from parfocal.evaluate.run import evaluate
from parfocal.explain.read_metrics import read_metrics
from parfocal.explain.report import optional_report
from parfocal.features.folder import FeatureFolder
from parfocal.features.open_folder import Features, open_features
from parfocal.files import refuse_slide_folder, write_whole
from parfocal.metrics import LabeledPredictions
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import CheckpointError
from parfocal.predict.slide import predict
from parfocal.progress import Progress
from parfocal.settings.encoders import load_encoders
from parfocal.settings.stored_features import follow_features
from parfocal.slide.errors import group_failures
from parfocal.slide.failure import catch_failure
from parfocal.slide.sources.url import is_at_hand
from parfocal.train import make_splits, train
from parfocal.train.checks import describe_unreadable
from parfocal.train.folder import claimed

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
    missing_encoders: set[str] = field(default_factory=set)

    def warn_of_encoder(self, names: Iterable[str], error: Exception) -> None:
        """Log once that encoders cannot be loaded, as those of another tool may be."""
        text = " and ".join(dict.fromkeys(names))
        if text not in self.missing_encoders:
            self.missing_encoders.add(text)
            logger.warning("no MACs and no seconds per slide with encoder %s: %s", text, error)


def compare(
    cohort_csv: Path,
    candidates: Sequence[Candidate],
    out: Path,
    *,
    seeds: int = 1,
    features: Features | None = None,
    cache: Path | None = None,
    device: str = "auto",
    metric: str = "weighted_f1",
    timed: int = 3,
    resamples: int = 2000,
    skip_unreadable: bool = False,
) -> list[ComparisonRow]:
    """Compare models, and write results.csv, results.md, results.png and report.html.

    If a model fails, its row has the reason and the other models are still run. The same call
    resumes an interrupted comparison.

    Args:
        cohort_csv: CSV of the slides.
        candidates: the models; see `load_candidates`.
        out: output folder.
        seeds: number of training runs of each model or fold; the seeds are 0, 1, ...
        features: folder of stored features for all models, by parfocal or by another tool, or
            folders by magnification; None extracts them into `out`.
        cache: folder of features that are not computed again, and of the pixels that models read.
        device: device for training and evaluation.
        metric: metric that ranks the models and is plotted.
        timed: number of test slides to time from file to prediction.
        resamples: number of resamples for the intervals.
        skip_unreadable: whether to compare without the slides that cannot be read; if False, they
            are refused before the first training.

    Raises:
        CohortError: the cohort is invalid.
        StoreError: features cannot be written, or were made with other settings.
        ComparisonError: a slide cannot be read, or there is no test slide.
    """
    cohort = read_cohort(cohort_csv, labels=candidates[0].settings.train.labels)
    refuse_slide_folder(out, (slide.path for slide in cohort.slides))
    folder = None if features is None else open_features(features, cohort.slides)
    if folder is not None:
        candidates = [
            replace(each, settings=follow_features(each.settings, folder)) for each in candidates
        ]
    refuse_copies(cohort, folder)
    _require_test_slides(cohort, candidates)
    with claimed(out):
        stores = prepare_stores(
            cohort, candidates, out, features=folder, cache=cache, device=device
        )
        unreadable = _list_unreadable(
            cohort, find_unreadable(cohort, candidates, stores), folder, skip=skip_unreadable
        )
        _require_test_slides(without_slides(cohort, unreadable), candidates)
        shared = SharedSetup(
            cohort_csv, cohort, out, stores.folders, seeds, cache, device, timed, unreadable
        )
        return _run_candidates(shared, candidates, metric, resamples)


def _require_test_slides(cohort: Cohort, candidates: Sequence[Candidate]) -> None:
    """Raise if a model would have no test slides."""
    for candidate in candidates:
        if not all(split.test for split in make_splits(cohort, candidate.settings.train)):
            raise ComparisonError(
                f"{cohort.source.name}: there are no test slides; put some slides into split test, "
                "or set train.test_fraction above 0."
            )


def _list_unreadable(
    cohort: Cohort,
    unreadable: dict[str, str],
    features: FeatureFolder | None,
    *,
    skip: bool,
) -> dict[str, str]:
    """Refuse slides that cannot be read, or log them if they are to be left out."""
    total = len(cohort.slides)
    if unreadable and not skip:
        message = describe_unreadable(unreadable, total, task="compare", features=features)
        raise ComparisonError(f"{cohort.source.name}: {message}")
    for kind in group_failures(unreadable):
        logger.warning("left out: %s", kind)
    if len(unreadable) == total:
        raise ComparisonError(f"{cohort.source.name}: no slide could be used; replace them.")
    return unreadable


def _run_candidates(
    shared: SharedSetup, candidates: Sequence[Candidate], metric: str, resamples: int
) -> list[ComparisonRow]:
    """Run the models, and write the tables after each."""
    out, unreadable = shared.out, shared.unreadable
    results: list[ModelResult] = []
    rows: list[ComparisonRow] = []
    progress = Progress("comparing", len(candidates), unit="models")
    try:
        for candidate in candidates:
            results.append(_run_candidate(shared, candidate))
            if results[-1].reason is None:
                progress.advance(candidate.name)
            else:
                progress.fail(candidate.name)
            rows = score_results(results, metric, resamples=resamples)
            _write_tables(out, rows, metric, unreadable)
    finally:  # an interrupted comparison shows the models that are done
        if rows:
            _write_report(out, rows, metric, unreadable)
    return rows


def _write_tables(
    out: Path, rows: Sequence[ComparisonRow], metric: str, unreadable: Mapping[str, str]
) -> None:
    write_whole(out / "results.csv", to_csv(rows, metric).encode())
    left_out = "".join(f"- {slide_id}: {reason}\n" for slide_id, reason in unreadable.items())
    note = f"\nSlides that cannot be read and are left out:\n\n{left_out}" if left_out else ""
    write_whole(out / "results.md", (to_markdown(rows, metric) + note).encode())


def _write_report(
    out: Path, rows: Sequence[ComparisonRow], metric: str, unreadable: Mapping[str, str]
) -> None:
    # Both import matplotlib, which takes a second.
    from parfocal.compare.picture import draw_comparison  # noqa: PLC0415
    from parfocal.compare.report import comparison_page  # noqa: PLC0415

    picture = draw_comparison(rows, metric)
    write_whole(out / "results.png", picture)
    page = out / "report.html"
    with optional_report(page, retry_command="the same command, which resumes"):
        write_whole(page, comparison_page(rows, metric, picture, unreadable=unreadable).encode())


def _run_candidate(shared: SharedSetup, candidate: Candidate) -> ModelResult:
    """Train, evaluate and time one model; if it fails, the result has the reason."""
    logger.info("%s: training and evaluating", candidate.name)
    try:
        runs = _train(shared, candidate)
        return _collect_result(shared, candidate, runs)
    except Exception as error:  # a bug in one model must not stop the others
        logger.warning("%s failed: %s", candidate.name, error)
        kind = "" if type(error).__module__.startswith("parfocal") else f"{type(error).__name__}: "
        return ModelResult(candidate.name, reason=kind + " ".join(str(error).split()))


def _train(shared: SharedSetup, candidate: Candidate) -> list[Path]:
    """Train and evaluate all runs of a model, and return their folders."""
    store = shared.stores.get(candidate.name)
    runs = []
    for seed in range(shared.seeds):
        settings = candidate.settings
        summary = train(
            shared.cohort,
            replace(settings, train=replace(settings.train, seed=seed)),
            shared.out / candidate.name / f"seed-{seed}",
            features=store,
            cache=shared.cache,
            device=shared.device,
            resume=True,
            progress=False,
            skip_unreadable=bool(shared.unreadable),
            unreadable=shared.unreadable,
        )
        runs += [run.out for run in summary.folds or (summary,)]
    for run in runs:
        if not (run / "evaluation" / "metrics.json").exists():
            evaluate(
                run,
                shared.source,
                run / "evaluation",
                features=store,
                cache=shared.cache,
                device=shared.device,
            )
    return runs


def _collect_result(shared: SharedSetup, candidate: Candidate, runs: Sequence[Path]) -> ModelResult:
    """Read the evaluations of all runs of a model."""
    metrics = [read_metrics(run / "evaluation" / "metrics.json") for run in runs]
    costs = [each["cost"] for each in metrics]
    patches = fmean(sum(step["mean"] for step in cost["patches"]) for cost in costs)
    known = [cost["macs"]["mean"] for cost in costs if cost["macs"] is not None]
    macs = fmean(known) if len(known) == len(costs) else None
    encoder = candidate.settings.encoder
    if encoder is not None and macs is not None:
        # With stored features, the evaluation counts the MACs of the model only.
        try:
            # Features at any mpp were accepted above.
            any_mpp = replace(encoder, any_mpp=True)
            encoders = load_encoders(any_mpp, candidate.settings.slide.magnifications)
            encoding = [_encoding_macs(cost["patches"], encoders) for cost in costs]
            known = [each for each in encoding if each is not None]
            macs = macs + fmean(known) if len(known) == len(encoding) else None
        except (EncoderError, ValueError) as error:  # one that only another tool has
            names = [encoder.name_at(each) for each in candidate.settings.slide.magnifications]
            shared.warn_of_encoder(names, error)
            macs = None
    return ModelResult(
        candidate.name,
        runs=tuple(
            _read_predictions(run / "evaluation" / "predictions.csv", tuple(each["labels"]))
            for run, each in zip(runs, metrics, strict=True)
        ),
        macs=macs,
        patches=patches,
        seconds=_load_or_measure_seconds(shared, candidate, runs[0]),
        failed=sum(len(each["failed"]) for each in metrics),
        classes=_count_classes([run / "evaluation" / "predictions.csv" for run in runs], metrics),
        encoder=metrics[0]["model"].get("encoder"),
    )


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


def _count_classes(files: Sequence[Path], metrics: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the test slides of each class; a slide that several runs test counts once."""
    labels = {}
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            labels.update({row["slide_id"]: row["label"] for row in csv.DictReader(file)})
    return {label: list(labels.values()).count(label) for label in metrics[0]["labels"]}


def _read_predictions(path: Path, labels: tuple[str, ...]) -> LabeledPredictions:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return LabeledPredictions(
        labels,
        np.array([labels.index(row["label"]) for row in rows]),
        np.array([[float(row[f"prob_{label}"]) for label in labels] for row in rows]),
        tuple(row["patient_id"] for row in rows),
    )


def _load_or_measure_seconds(shared: SharedSetup, candidate: Candidate, run: Path) -> Timing:
    """Time a few test slides on the CPU, and on the GPU if there is one; keep the result."""
    stored = shared.out / candidate.name / "seconds.json"
    if not stored.exists():
        test_ids = {row.slide_id for row in read_split(run / "split.csv") if row.split == "test"}
        test_ids -= shared.unreadable.keys()
        slides = [s for s in shared.cohort.slides if s.slide_id in test_ids and is_at_hand(s.path)]
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        timing = {
            device: _mean_seconds(shared, run, slides[: shared.timed], device) for device in devices
        }
        write_whole(stored, (json.dumps(timing, indent=1) + "\n").encode())
    timing_by_device: Timing = json.loads(stored.read_text("utf-8"))
    return {device: stages for device, stages in timing_by_device.items() if stages}


def _mean_seconds(
    shared: SharedSetup, run: Path, slides: Sequence[CohortSlide], device: str
) -> dict[str, float]:
    """Return the mean seconds by stage; the first slide is predicted twice, once to warm up.

    A slide that fails is not counted.
    """
    trained = Checkpoint.load(run)
    trained.model.to(device)
    if not slides:
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
