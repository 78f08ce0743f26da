"""The result of a probe: a row for each encoder, as text and as JSON."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from parfocal.encoders.catalog import find_card
from parfocal.metrics import METRICS
from parfocal.metrics.paired import ScoreSummary
from parfocal.printable import counts_of_each
from parfocal.slide.resolution import magnification_of

FORMAT, FORMAT_VERSION = "parfocal probe", 1


@dataclass(frozen=True)
class ProbeRow:
    """The probe of one encoder.

    Args:
        name: name of the encoder, as given.
        reason: why it has no scores; None if it has.
        mpp: resolution of its patches, in µm per pixel.
        side_px: side of its patches, in pixels.
        dim: number of features.
        weights_hash: hash of its weights.
        license: license of its weights.
        macs_per_patch: multiply-accumulates per patch; None if unknown.
        seconds_per_patch: median over slides of the time of encoding a patch, without reading it.
        scores: by metric.
        gap_to_best: score of the best encoder minus the score of this one; None for the best.
        strengths: strength of regularization (scikit-learn's C) of each run.
    """

    name: str
    reason: str | None = None
    mpp: float | None = None
    side_px: int | None = None
    dim: int | None = None
    weights_hash: str | None = None
    license: str | None = None
    macs_per_patch: int | None = None
    seconds_per_patch: float | None = None
    scores: Mapping[str, ScoreSummary] = field(default_factory=dict)
    gap_to_best: ScoreSummary | None = None
    strengths: tuple[float, ...] = ()

    @property
    def is_best(self) -> bool:
        """Whether no other encoder has a higher score."""
        return self.reason is None and self.gap_to_best is None

    @property
    def is_lower(self) -> bool:
        """Whether it is worse than the best encoder: the interval of the gap leaves out 0."""
        gap = self.gap_to_best
        return gap is not None and not np.isnan(gap.low) and not gap.low <= 0 <= gap.high


@dataclass(frozen=True)
class ProbeReport:
    """The probes of several encoders on the same slides.

    Args:
        cohort: the table of the cohort, for the next command.
        metric: metric that ranks the encoders.
        rows: the encoders, best first, then those that failed.
        classes: number of test slides of each class, each slide counted once.
        slides: number of slides of the cohort.
        runs: number of splits.
        patches: number of patches per slide, at most.
        seed: seed of the draws.
        failed: reason of each slide that is left out, by slide id.
        warnings: what limits the scores.
    """

    cohort: str
    metric: str
    rows: tuple[ProbeRow, ...]
    classes: dict[str, int]
    slides: int
    runs: int
    patches: int
    seed: int
    failed: dict[str, str]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the report as JSON; a number that is not defined is null."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(_defined(content), indent=1, allow_nan=False) + "\n"

    def lines(self) -> list[str]:
        """Return the report for people."""
        done = [row for row in self.rows if row.reason is None]
        counts = counts_of_each(self.classes)
        lines = []
        if done:
            folds = f" of {self.runs} folds" if self.runs > 1 else ""
            lines += [
                f"{sum(self.classes.values())} test slides{folds} ({counts}), up to "
                f"{self.patches} patches each",
                "",
                *_table(
                    [
                        "encoder",
                        "patch",
                        "features",
                        METRICS[self.metric],
                        "gap to best",
                        "s/patch",
                        "GMAC/patch",
                    ],
                    [self._cells(row) for row in done],
                ),
                "",
                *self._conclusion(done),
            ]
        return [*lines, *self.warnings]

    def advice(self, *, trust_remote_code: bool = False) -> str | None:
        """Return what to do next; None if no encoder has a result.

        Args:
            trust_remote_code: whether encoders run code from their repositories.
        """
        done = [row for row in self.rows if row.reason is None]
        if not done:
            return None
        close = [row.name for row in done[1:] if not row.is_lower]
        best, mpp = done[0].name, done[0].mpp
        card = find_card(best)
        models, at = "abmil,zoommil-hindsight", ""
        if card is not None and card.mpps and mpp is not None:  # not at lower magnifications
            models = "abmil,mean-mlp"
            at = f" --set slide.magnifications={magnification_of(mpp):g}"
        others = f"run this also with {close[0]}, which may be as good: " if close else ""
        trust = " --trust-remote-code" if trust_remote_code else ""
        return (
            f"{others}parfocal compare {shlex.quote(self.cohort)} --models {models} "
            f"--encoder {shlex.quote(best)}{at}{trust} --out comparison"
        )

    def _cells(self, row: ProbeRow) -> list[str]:
        assert row.mpp is not None
        assert row.seconds_per_patch is not None
        macs = row.macs_per_patch
        return [
            row.name,
            f"{row.side_px} px at {magnification_of(row.mpp):g}x",
            str(row.dim),
            row.scores[self.metric].text,
            "best" if row.gap_to_best is None else row.gap_to_best.text,
            f"{row.seconds_per_patch:.3g}",
            "unknown" if macs is None else f"{macs / 1e9:.3g}",
        ]

    def _conclusion(self, done: Sequence[ProbeRow]) -> list[str]:
        """Say which encoders differ from the best one."""
        best, others = done[0], done[1:]
        close = [row.name for row in others if not row.is_lower]
        worse = [row.name for row in others if row.is_lower]
        lines = []
        if close:
            lines.append(
                f"{best.name} and {', '.join(close)}: their difference is within the 95% interval "
                "of the gap, so these slides cannot separate them."
            )
        if worse:
            lines.append(f"{', '.join(worse)}: lower than {best.name} beyond the interval.")
        lines.append("A probe sees the mean of a few patches.")
        return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _defined(value: object) -> object:
    """Replace numbers that are not defined by None, as JSON has it."""
    if isinstance(value, dict):
        return {key: _defined(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
