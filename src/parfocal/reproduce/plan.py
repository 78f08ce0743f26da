"""Estimate a reproduction before it is run: slides, patches, hours, disk space."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from parfocal.compare import Candidate, shared_slide_settings
from parfocal.dataset.readers import check_data_set
from parfocal.dataset.readers.listing import Row
from parfocal.dataset.readers.tcga_prad import REGION_PX
from parfocal.encoders.device import choose_device
from parfocal.reproduce.experiments import Experiment, Reproduction
from parfocal.reproduce.patch_counts import PatchCounts, count_patches
from parfocal.reproduce.speed import EncodingSpeed, painted_slide, time_encoding, time_training
from parfocal.settings import EncoderSettings, RunSettings

HOUR, GB = 3600, 1e9
FLOAT16_BYTES, RGB_BYTES = 2, 3


@dataclass(frozen=True)
class Step:
    """A step of the plan.

    Args:
        name: what is done.
        repeats: how often, as text.
        patches: number of patches per slide that are encoded or visited.
        hours: total hours.
        gigabytes: disk space.
    """

    name: str
    repeats: str
    patches: float
    hours: float
    gigabytes: float


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a reproduction.

    Args:
        name: name of the reproduction.
        facts: sentences about the slides, their patches and the measurement.
        steps: steps with their cost.
        free: free bytes on the output disk.
    """

    name: str
    facts: tuple[str, ...]
    steps: tuple[Step, ...]
    free: int

    @property
    def hours(self) -> float:
        """Hours of all steps."""
        return sum(step.hours for step in self.steps)

    @property
    def gigabytes(self) -> float:
        """Disk space of all steps."""
        return sum(step.gigabytes for step in self.steps)

    def to_markdown(self) -> str:
        """Return the plan as text."""
        lines = [["step", "repeats", "patches per slide", "hours", "GB"], ["---"] * 5]
        lines += [
            [s.name, s.repeats, f"{s.patches:,.0f}", _short(s.hours), _short(s.gigabytes)]
            for s in self.steps
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        total = (
            f"At most {_short(self.hours)} hours: the estimate counts all epochs, and many runs "
            f"stop early. Disk space: {_short(self.gigabytes)} GB; {self.free / GB:,.0f} GB are "
            "free."
        )
        return "\n\n".join([f"# {self.name}", "\n".join(self.facts), table, total]) + "\n"


@dataclass(frozen=True)
class Measurements:
    """Measurements that the estimate is based on.

    Args:
        rows: slides that are present and undamaged.
        encoding: speed of encoding by magnification; None if no model takes features.
        counts: patches per slide; None if no model takes features.
        painted: slide file for models that take pixels.
        device: device of the measurement.
    """

    rows: tuple[Row, ...]
    encoding: dict[float, EncodingSpeed] | None
    counts: PatchCounts | None
    painted: Path
    device: str

    @property
    def test_slides(self) -> int:
        """Number of test slides."""
        return sum(row.split == "test" for row in self.rows)

    def extraction_steps(self) -> Iterator[Step]:
        """Yield the step that extracts features, if any model takes them."""
        if self.encoding is not None and self.counts is not None:
            counts, speeds = self.counts.by_magnification, self.encoding
            slides = len(self.rows)
            seconds = sum(count * speeds[each].seconds for each, count in counts.items())
            values = sum(count * speeds[each].features for each, count in counts.items())
            hours, size = slides * seconds / HOUR, slides * values * FLOAT16_BYTES
            patches = sum(counts.values())
            yield Step("features, for all models", "once", patches, hours, size / GB)

    def region_steps(self) -> Iterator[Step]:
        """Yield the step that cuts regions out of slides, if the data set has regions."""
        regions = sum(row.region is not None for row in self.rows)
        if regions:
            yield Step("regions", "once", 0, 0, regions * REGION_PX**2 * RGB_BYTES / GB)

    def _in_dim(self, settings: RunSettings) -> int | list[int]:
        """Return the features per patch: one number, or one for each encoder of a model."""
        if self.encoding is None or settings.encoder is None:
            return 0
        widths = [self.encoding[each].features for each in settings.slide.magnifications]
        return widths if isinstance(settings.encoder.name, dict) else widths[0]

    def training_step(self, candidate: Candidate, *, label: str, seeds: int) -> Step:
        """Return the step that trains and evaluates a model, for all epochs and seeds."""
        settings = candidate.settings
        counts = self.counts if settings.encoder is not None else None
        speed = time_training(
            candidate,
            in_dim=self._in_dim(settings),
            num_classes=len({row.label for row in self.rows}),
            num_patches=counts.by_magnification[settings.slide.magnifications[-1]]
            if counts
            else None,
            painted=self.painted,
            device=self.device,
        )
        epochs = settings.train.epochs * (1 + settings.train.refit)
        slides = epochs * (len(self.rows) - self.test_slides) + self.test_slides
        return Step(
            label,
            f"{seeds} x {epochs} epochs",
            speed.patches,
            seeds * slides * speed.seconds / HOUR,
            seeds * speed.weights / GB,
        )


def plan(
    reproduction: Reproduction, data: Path, out: Path, *, seeds: int = 3, device: str = "auto"
) -> Plan:
    """Estimate the cost of a reproduction from the label files and a short measurement.

    A few slides are opened to count their patches. Nothing is written.

    Args:
        reproduction: the tables.
        data: folder of the data set; missing slides are counted.
        out: output folder of the reproduction.
        seeds: number of training runs of each experiment.
        device: device of the reproduction.

    Raises:
        CohortError: the folder is not the data set.
        SettingsError: a setting is invalid.
        EncoderError: a network is not available.
    """
    listing, checked = check_data_set(reproduction.data, data, partial=True)
    candidates = [
        candidate for members in reproduction.candidates().values() for candidate in members
    ]
    missing = len(checked.missing) + len(checked.damaged) + listing.absent
    with _measure(
        reproduction, candidates, checked.complete, str(choose_device(device))
    ) as measured:
        steps = [*measured.region_steps(), *measured.extraction_steps()]
        for candidate in candidates:
            experiment = reproduction.experiments[candidate.name]
            label = _step_label(reproduction, candidate.name, experiment)
            runs = 1 if experiment.kind == "timing" else seeds
            steps.append(measured.training_step(candidate, label=label, seeds=runs))
    facts = [_describe_slides(measured, missing)]
    if measured.counts:
        facts.append(measured.counts.summary)
    facts.append(_describe_measurement(measured))
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    return Plan(reproduction.name, tuple(facts), tuple(steps), shutil.disk_usage(existing).free)


@contextmanager
def _measure(
    reproduction: Reproduction, candidates: list[Candidate], rows: tuple[Row, ...], device: str
) -> Iterator[Measurements]:
    """Paint a slide, count patches and time the encoder, if there is one."""
    encoding = counts = None
    with_features = [c for c in candidates if c.settings.encoder is not None]
    with painted_slide(reproduction.image) as painted:
        if with_features:
            settings = shared_slide_settings(with_features)
            assert reproduction.patches is not None
            counts = count_patches(rows, settings, reproduction.patches)
            encoder = _shared_encoder(with_features)
            encoding = time_encoding(encoder, settings, painted=painted, device=device)
        yield Measurements(rows, encoding, counts, painted, device)


def _shared_encoder(candidates: Sequence[Candidate]) -> EncoderSettings:
    """Return the encoders of all magnifications of some models; the first model decides."""
    names: dict[float, str] = {}
    weights: dict[float, Path] = {}
    first = candidates[0].settings.encoder
    assert first is not None
    for candidate in reversed(candidates):
        encoder = candidate.settings.encoder or first
        for each in candidate.settings.slide.magnifications:
            names[each] = encoder.name_at(each)
            file = encoder.weights_at(each)
            weights = {**weights, each: file} if file is not None else weights
    return replace(first, name=names, weights=weights)


def _step_label(reproduction: Reproduction, name: str, experiment: Experiment) -> str:
    if experiment.kind == "timing":
        return f"{reproduction.label_of(name.removesuffix('-all'))}, all patches, for the time"
    return reproduction.label_of(name)


def _describe_slides(measured: Measurements, missing: int) -> str:
    paths = {row.path for row in measured.rows}
    size = sum(path.stat().st_size for path in paths) / GB
    missing_text = f"; {missing} more are missing or damaged" if missing else ""
    return (
        f"Slides or regions: {len(measured.rows)}, of which {measured.test_slides} are test "
        f"slides, in {len(paths)} files of {_short(size)} GB{missing_text}."
    )


def _describe_measurement(measured: Measurements) -> str:
    encoding = ""
    if measured.encoding is not None:
        seconds = dict.fromkeys(speed.seconds for speed in measured.encoding.values())
        encoding = (
            "reading and encoding a patch of a painted slide, "
            f"{' or '.join(f'{1000 * each:.3g} ms' for each in seconds)}; "
        )
    return (
        f"Measured on {measured.device} with {torch.get_num_threads()} threads: {encoding}one "
        "training step of each model on one slide, without batches."
    )


def _short(number: float) -> str:
    """Format a number with two significant digits."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
