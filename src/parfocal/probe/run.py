"""Probe several encoders on a cohort: encode a few patches a slide, fit linear probes, compare."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from parfocal.dataset.cohort import Cohort, CohortSlide, read_cohort
from parfocal.dataset.same_file import refuse_equal_contents
from parfocal.dataset.split import Split, fold_cohort, split_cohort
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.right_use import refuse_outside_range
from parfocal.encoders.weights import EncoderError
from parfocal.features.header import SlideSettings
from parfocal.files import refuse_slide_folder, write_whole
from parfocal.metrics import LabeledPredictions, small_classes
from parfocal.metrics.paired import paired_scores
from parfocal.probe.collect import Draw, collect_features
from parfocal.probe.linear import LabeledFeatures, LinearProbe, fit_probe
from parfocal.probe.places import PATCH_PX, SlideFeatures, patch_size_of
from parfocal.probe.table import ProbeReport, ProbeRow
from parfocal.slide.resolution import mpp_of

REPORT_FILE = "probe.json"
PLACES_MAGNIFICATION = 10.0  # of the patches among which places are drawn, if encoders differ

logger = logging.getLogger(__name__)


class ProbeError(Exception):
    """A probe that cannot be run; the message says what to do."""


@dataclass(frozen=True)
class _Encoded:
    """An encoder whose features were computed: its row without scores, and the features."""

    row: ProbeRow
    features: Mapping[str, SlideFeatures]


def probe(
    cohort_csv: Path,
    encoders: Sequence[str],
    out: Path,
    *,
    patches: int = 300,
    magnification: float | None = None,
    metric: str = "auroc_macro",
    folds: int | None = None,
    seed: int = 0,
    device: str = "auto",
    any_mpp: bool = False,
    trust_remote_code: bool = False,
    resamples: int = 2000,
) -> ProbeReport:
    """Probe encoders on the same patches of the same slides.

    The features of each encoder are kept in `out`, so a later call encodes only what is new. A
    slide that fails with one encoder is left out for all.

    Args:
        cohort_csv: table of the labeled slides. Its split or fold column is used if there is one.
        encoders: names of the encoders.
        out: folder to write to.
        patches: number of patches per slide.
        magnification: magnification of the patches of all encoders; None for each one's own.
        metric: metric that ranks the encoders, one of `COMPARED_METRICS`.
        folds: number of folds for cross-validation; None for one split, or for the fold column.
        seed: seed of the split and of the patches.
        device: device of the encoders.
        any_mpp: whether to use encoders at a `magnification` that they were not made for; if False,
            such an encoder has no result.
        trust_remote_code: whether to run code from the repository of an encoder.
        resamples: number of bootstrap resamples of the intervals.

    Raises:
        CohortError: the cohort is invalid, or cannot be split.
        ProbeError: an encoder is listed twice, or too few slides can be read.
        OSError: `out` cannot be written.
    """
    _refuse_repeated(encoders)
    cohort = read_cohort(cohort_csv)
    refuse_slide_folder(out, (slide.path for slide in cohort.slides))
    refuse_equal_contents(cohort.source, cohort.slides)
    splits = _splits(cohort, folds, seed)
    draw = Draw(SlideSettings((magnification or PLACES_MAGNIFICATION,), PATCH_PX), patches, seed)
    mpp = None if magnification is None else mpp_of(magnification)
    encoded: dict[str, _Encoded] = {}
    rows: dict[str, ProbeRow] = {}
    failed: dict[str, str] = {}
    for name in encoders:
        try:
            encoder = load_encoder(name, device=device, trust_remote_code=trust_remote_code)
            if mpp is not None and not any_mpp:
                refuse_outside_range([encoder.spec], [mpp])
            encoded[name] = _encode(name, encoder, cohort, draw, out=out, mpp=mpp, failed=failed)
        except (EncoderError, ValueError) as error:
            rows[name] = ProbeRow(name, reason=" ".join(str(error).split()))
            logger.debug("%s: no result: %s", name, rows[name].reason)
    runs: dict[str, list[LabeledPredictions]] = {}
    for name, each in encoded.items():
        probes = [_fit(cohort, _without(split, failed), each.features) for split in splits]
        runs[name] = [predictions for predictions, _ in probes]
        strengths = tuple(fitted.strength for _, fitted in probes)
        rows[name] = replace(each.row, strengths=strengths)
    for name, scores in paired_scores(runs, metric, resamples=resamples, seed=seed).items():
        rows[name] = replace(rows[name], scores=scores.scores, gap_to_best=scores.gap_to_best)
    report = _report(cohort, rows, runs, metric=metric, draw=draw, failed=failed)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / REPORT_FILE, report.to_json().encode())
    return report


def _refuse_repeated(encoders: Sequence[str]) -> None:
    repeated = [name for name in dict.fromkeys(encoders) if encoders.count(name) > 1]
    if repeated:
        raise ProbeError(f"--encoders: {repeated[0]} is listed twice; list it once.")
    if not encoders or not all(encoders):
        raise ProbeError("--encoders: a name is empty; list names as A,B,C.")


def _splits(cohort: Cohort, folds: int | None, seed: int) -> tuple[Split, ...]:
    if folds is None and all(slide.fold is None for slide in cohort.slides):
        return (split_cohort(cohort, seed=seed),)
    return fold_cohort(cohort, folds, seed=seed)


def _encode(
    name: str,
    encoder: Encoder,
    cohort: Cohort,
    draw: Draw,
    *,
    out: Path,
    mpp: float | None,
    failed: dict[str, str],
) -> _Encoded:
    """Encode the slides of a cohort, and add those that fail to `failed`."""
    size = patch_size_of(encoder.spec, mpp)
    features, reasons = collect_features(cohort.slides, encoder, size, draw, out)
    if not features:
        raise EncoderError(next(iter(reasons.values())))
    for slide_id, reason in reasons.items():
        failed.setdefault(slide_id, reason)
    spec = encoder.spec
    row = ProbeRow(
        name,
        mpp=size.mpp,
        side_px=size.side_px,
        dim=spec.dim,
        weights_hash=spec.weights_hash,
        license=spec.license,
        macs_per_patch=encoder.macs_per_patch(),
        seconds_per_patch=median(each.seconds_per_patch for each in features.values()),
    )
    return _Encoded(row, features)


def _without(split: Split, failed: Mapping[str, str]) -> Split:
    train, val, test = (
        tuple(slide for slide in part if slide.slide_id not in failed)
        for part in (split.train, split.val, split.test)
    )
    return Split(train, val, test)


def _fit(
    cohort: Cohort, split: Split, features: Mapping[str, SlideFeatures]
) -> tuple[LabeledPredictions, LinearProbe]:
    """Fit a probe and predict the test slides."""
    for part, slides in (("train", split.train), ("val", split.val), ("test", split.test)):
        missing = set(cohort.labels) - {slide.label for slide in slides}
        if not slides or (part == "train" and missing):
            what = f"of class {min(missing)!r} " if slides else ""
            raise ProbeError(
                f"{cohort.source.name}: no {part} slide {what}can be used; add slides, or correct "
                "those that cannot be read."
            )
    train, val, test = (
        _labeled(cohort, part, features) for part in (split.train, split.val, split.test)
    )
    fitted = fit_probe(train, val, test.features, len(cohort.labels))
    groups = tuple(slide.patient_id for slide in split.test)
    return LabeledPredictions(cohort.labels, test.truth, fitted.probabilities, groups), fitted


def _labeled(
    cohort: Cohort, slides: Sequence[CohortSlide], features: Mapping[str, SlideFeatures]
) -> LabeledFeatures:
    return LabeledFeatures(
        np.stack([features[slide.slide_id].mean for slide in slides]).astype(np.float64),
        np.array([cohort.labels.index(slide.label) for slide in slides], dtype=np.int64),
    )


def _report(
    cohort: Cohort,
    rows: Mapping[str, ProbeRow],
    runs: Mapping[str, Sequence[LabeledPredictions]],
    *,
    metric: str,
    draw: Draw,
    failed: Mapping[str, str],
) -> ProbeReport:
    """Rank the encoders, and describe the slides that they were tested on."""
    tests = next(iter(runs.values()), [])
    truth = np.concatenate([run.truth for run in tests]) if tests else np.zeros(0, dtype=np.int64)
    few = None
    if tests:
        pooled = LabeledPredictions(
            cohort.labels,
            truth,
            np.concatenate([run.probabilities for run in tests]),
            tuple(group for run in tests for group in run.groups),
        )
        few = small_classes(pooled)
    return ProbeReport(
        cohort=str(cohort.source),
        metric=metric,
        rows=tuple(sorted(rows.values(), key=lambda row: _rank(row, metric))),
        classes={label: int((truth == c).sum()) for c, label in enumerate(cohort.labels)},
        slides=len(cohort.slides),
        runs=len(tests),
        patches=draw.patches,
        seed=draw.seed,
        failed=dict(failed),
        warnings=() if few is None else (few,),
    )


def _rank(row: ProbeRow, metric: str) -> tuple[bool, bool, float]:
    """Return the key by which encoders are sorted: the best first, those without scores last."""
    if row.reason is not None:
        return True, False, 0.0
    value = row.scores[metric].value
    return False, not row.is_best, np.inf if np.isnan(value) else -value
