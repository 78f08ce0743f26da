"""Train, test and time several models over the same splits; goes on where it stopped.

OUT/features/ENCODER    what the encoder made of the slides, once for all models
OUT/MODEL/seed-0        run folders, of several folds one each below, with an `evaluation` in each
OUT/MODEL/seconds.json  how long slides took, read from their files
OUT/results.csv, .md    the table, written anew after each model
OUT/results.png, report.html    the picture, drawn at the end, also where it is stopped
"""

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from parfocal.compare.candidate import Candidate, ComparisonError, shared_slide_settings
from parfocal.compare.table import STAGES, Result, Row, Timing, rows_of, to_csv, to_markdown
from parfocal.dataset.cohort import Cohort, CohortSlide, read_cohort
from parfocal.dataset.split import read_split
from parfocal.encoders.encoder import Encoder, load_encoder
from parfocal.evaluate.run import evaluate
from parfocal.explain.report import beside_results
from parfocal.features.extract import extract_cohort
from parfocal.files import write_whole
from parfocal.metrics import Answers
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.slide import predict
from parfocal.settings import EncoderSettings
from parfocal.train import splits_of, train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What is the same for all models.

    Args:
        source: the cohort's CSV.
        cohort: the slides, without those that have no features.
        out: folder of the comparison.
        stores: folder of features by encoder; an encoder without one reads slides as it goes.
        seeds: runs of each model, or of each fold.
        cache: of models that are given pixels, or have no stored features.
        device: where models are trained and tested.
        timed: slides that are read from their files for the seconds.
    """

    source: Path
    cohort: Cohort
    out: Path
    stores: dict[str, Path]
    seeds: int
    cache: Path | None
    device: str
    timed: int


def compare(
    cohort_csv: Path,
    candidates: Sequence[Candidate],
    out: Path,
    *,
    seeds: int = 1,
    features: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    metric: str = "weighted_f1",
    timed: int = 3,
    resamples: int = 2000,
) -> list[Row]:
    """Compare models: results.csv, results.md, results.png and report.html.

    A model that fails is told with the reason, and the others go on. The same call goes on with
    what is in `out`, model by model.

    Args:
        cohort_csv: the slides.
        candidates: see `load_candidates`.
        out: folder to write to.
        seeds: trainings of each model, or of each fold, from seed 0 on.
        features: folder of stored features, for all models; None to extract them into `out`.
        cache: folder that keeps what models of pixels read.
        device: where models are trained and tested.
        metric: by which the best is found, and that is drawn.
        timed: test slides that are read from their files for the seconds.
        resamples: of the intervals.

    Raises:
        CohortError: the cohort has an error.
        StoreError: features cannot be written, or do not fit.
        ComparisonError: no slide has features, or none is left to test on.
    """
    cohort = read_cohort(cohort_csv, labels=candidates[0].settings.train.labels)
    for candidate in candidates:
        if not all(split.test for split in splits_of(cohort, candidate.settings.train)):
            raise ComparisonError(
                f"{cohort_csv.name}: no slide to test on, and a comparison is of tests; have some "
                "in split test, or a train.test_fraction above 0."
            )
    stores = _stores(cohort, candidates, out, features, device)
    for store in stores.values():
        there = tuple(s for s in cohort.slides if (store / f"{s.slide_id}.h5").exists())
        cohort = replace(cohort, slides=there)
    if not cohort.slides:
        raise ComparisonError(
            f"{cohort_csv.name}: no slide could be used, so there is nothing to compare; the log "
            "says why each failed."
        )
    fair = Comparison(cohort_csv, cohort, out, stores, seeds, cache, device, timed)
    results: list[Result] = []
    rows: list[Row] = []
    try:
        for candidate in candidates:
            results.append(_result(fair, candidate))
            rows = rows_of(results, metric, resamples=resamples)
            _tell(out, rows, metric)
    finally:  # a comparison that is stopped shows what it has
        if rows:
            _show(out, rows, metric)
    return rows


def _tell(out: Path, rows: Sequence[Row], metric: str) -> None:
    write_whole(out / "results.csv", to_csv(rows, metric).encode())
    write_whole(out / "results.md", to_markdown(rows, metric).encode())


def _show(out: Path, rows: Sequence[Row], metric: str) -> None:
    # matplotlib, which both need, takes a second
    from parfocal.compare.picture import draw  # noqa: PLC0415
    from parfocal.compare.report import page_of  # noqa: PLC0415

    picture = draw(rows, metric)
    write_whole(out / "results.png", picture)
    page = out / "report.html"
    with beside_results(page, again="the same command, which goes on from here"):
        write_whole(page, page_of(rows, metric, picture).encode())


def _stores(
    cohort: Cohort, candidates: Sequence[Candidate], out: Path, features: Path | None, device: str
) -> dict[str, Path]:
    """Extract features once an encoder, at the magnifications of all its models."""
    stores: dict[str, Path] = {}
    wanted = [e.settings.encoder for e in candidates if e.settings.encoder is not None]
    for encoder in wanted:
        if features is not None:
            stores[encoder.name] = features
        elif encoder.name not in stores:
            sharing = [
                e
                for e in candidates
                if e.settings.encoder and e.settings.encoder.name == encoder.name
            ]
            store = out / "features" / encoder.name.replace(":", "-").replace("/", "-")
            extracted = extract_cohort(
                [(slide.slide_id, slide.path, slide.mpp) for slide in cohort.slides],
                store,
                encoder=_load(encoder, device),
                settings=shared_slide_settings(sharing),
            )
            for slide_id, reason in extracted.failed.items():
                logger.warning("slide %s takes no part: %s", slide_id, reason)
            stores[encoder.name] = store
    return stores


def _load(settings: EncoderSettings, device: str) -> Encoder:
    return load_encoder(
        settings.name, device=device, weights=settings.weights, runtime=settings.runtime
    )


def _result(fair: Comparison, candidate: Candidate) -> Result:
    """Train, test and time one model; whatever goes wrong is its result, and the next follows."""
    logger.info("%s: training and testing", candidate.name)
    try:
        folders = _train(fair, candidate)
        return _tested(fair, candidate, folders)
    except Exception as error:  # any at all: a fault of one method must not cost the others
        logger.warning("%s failed: %s", candidate.name, error)
        kind = "" if type(error).__module__.startswith("parfocal") else f"{type(error).__name__}: "
        return Result(candidate.name, reason=kind + " ".join(str(error).split()))


def _train(fair: Comparison, candidate: Candidate) -> list[Path]:
    """Give the run folders of a model, each trained and tested."""
    store = _store(fair, candidate)
    runs = []
    for seed in range(fair.seeds):
        settings = candidate.settings
        summary = train(
            fair.cohort,
            replace(settings, train=replace(settings.train, seed=seed)),
            fair.out / candidate.name / f"seed-{seed}",
            features=store,
            cache=fair.cache,
            device=fair.device,
            resume=True,
            progress=False,
        )
        runs += [run.out for run in summary.folds or (summary,)]
    for run in runs:
        if not (run / "evaluation" / "metrics.json").exists():
            evaluate(
                run,
                fair.source,
                run / "evaluation",
                features=store,
                cache=fair.cache,
                device=fair.device,
            )
    return runs


def _store(fair: Comparison, candidate: Candidate) -> Path | None:
    encoder = candidate.settings.encoder
    return None if encoder is None else fair.stores[encoder.name]


def _tested(fair: Comparison, candidate: Candidate, runs: Sequence[Path]) -> Result:
    """Sum up the evaluations of a model."""
    found = [json.loads((run / "evaluation" / "metrics.json").read_text("utf-8")) for run in runs]
    costs = [each["cost"] for each in found]
    patches = fmean(sum(step["mean"] for step in cost["patches"]) for cost in costs)
    macs = fmean(cost["macs"]["mean"] for cost in costs)
    encoder = candidate.settings.encoder
    if encoder is not None:
        # Of stored features the evaluation's bill is the model's alone.
        a_patch = _load(encoder, "cpu").macs_per_patch(candidate.settings.slide.patch_size)
        macs += patches * a_patch
    return Result(
        candidate.name,
        runs=tuple(
            _answers(run / "evaluation" / "predictions.csv", tuple(each["labels"]))
            for run, each in zip(runs, found, strict=True)
        ),
        macs=macs,
        patches=patches,
        seconds=_seconds(fair, candidate, runs[0]),
        failed=sum(len(each["failed"]) for each in found),
    )


def _answers(path: Path, labels: tuple[str, ...]) -> Answers:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return Answers(
        labels,
        np.array([labels.index(row["label"]) for row in rows]),
        np.array([[float(row[f"prob_{label}"]) for label in labels] for row in rows]),
        tuple(row["patient_id"] for row in rows),
    )


def _seconds(fair: Comparison, candidate: Candidate, run: Path) -> Timing:
    """Time a few test slides from file to answer, on the CPU, and on the GPU where there is one."""
    kept = fair.out / candidate.name / "seconds.json"
    if not kept.exists():
        tested = {row.slide_id for row in read_split(run / "split.csv") if row.split == "test"}
        slides = [s for s in fair.cohort.slides if s.slide_id in tested and s.path.exists()]
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        timing = {device: _timed(run, slides[: fair.timed], device) for device in devices}
        write_whole(kept, (json.dumps(timing, indent=1) + "\n").encode())
    found: Timing = json.loads(kept.read_text("utf-8"))
    return {device: stages for device, stages in found.items() if stages}


def _timed(run: Path, slides: Sequence[CohortSlide], device: str) -> dict[str, float]:
    """Give the mean seconds by stage; the first slide is looked at once before, to warm up."""
    trained = Checkpoint.load(run)
    trained.model.to(device)
    encoder = trained.load_encoder(device=device)
    bills = [
        predict(slide.path, trained, mpp=slide.mpp, encoder=encoder).cost.seconds
        for slide in [*slides[:1], *slides]
    ][1:]
    return {stage: fmean(bill[stage] for bill in bills) for stage in STAGES} if bills else {}
