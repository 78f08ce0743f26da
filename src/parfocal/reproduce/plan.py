"""What a reproduction would take, before any of it is done: slides, patches, hours, disk."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from parfocal.compare import Candidate, shared_slide_settings
from parfocal.dataset.readers import look_through
from parfocal.dataset.readers.listing import Row
from parfocal.dataset.readers.tcga_prad import REGION_PX
from parfocal.encoders.encoder import choose_device
from parfocal.reproduce.count import Counted, count_patches
from parfocal.reproduce.experiments import Experiment, Reproduction
from parfocal.reproduce.measure import Encoding, painted_slide, time_encoding, time_learning

HOUR, GB = 3600, 1e9
FLOAT16, RGB = 2, 3  # bytes of a feature, and of a pixel


@dataclass(frozen=True)
class Step:
    """A part of the work.

    Args:
        what: is done.
        times: how often, in words.
        patches: of a slide that are encoded or looked at.
        hours: in all.
        gigabytes: left on the disk.
    """

    what: str
    times: str
    patches: float
    hours: float
    gigabytes: float


@dataclass(frozen=True)
class Plan:
    """What a reproduction would take.

    Args:
        name: of the tables.
        facts: in sentences: the slides, their patches, what was measured.
        steps: of the work.
        free: bytes on the disk that would be written to.
    """

    name: str
    facts: tuple[str, ...]
    steps: tuple[Step, ...]
    free: int

    @property
    def hours(self) -> float:
        """Those of all steps."""
        return sum(step.hours for step in self.steps)

    @property
    def gigabytes(self) -> float:
        """Those of all steps."""
        return sum(step.gigabytes for step in self.steps)

    def to_markdown(self) -> str:
        """Give the plan as text."""
        lines = [["step", "times", "patches a slide", "hours", "GB"], ["---"] * 5]
        lines += [
            [s.what, s.times, f"{s.patches:,.0f}", _short(s.hours), _short(s.gigabytes)]
            for s in self.steps
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        total = (
            f"At most {_short(self.hours)} hours: every epoch is counted, and many runs stop "
            f"earlier. {_short(self.gigabytes)} GB, and {self.free / GB:,.0f} GB are free there."
        )
        return "\n\n".join([f"# {self.name}", "\n".join(self.facts), table, total]) + "\n"


@dataclass(frozen=True)
class Basis:
    """What the hours are reckoned from.

    Args:
        rows: the slides that are here.
        encoding: of a patch; None where no features are stored.
        counted: patches of a slide, likewise.
        painted: a slide for models of pixels.
        device: where it would run.
    """

    rows: tuple[Row, ...]
    encoding: Encoding | None
    counted: Counted | None
    painted: Path
    device: str

    @property
    def tested(self) -> int:
        """How many slides are tested on."""
        return sum(row.split == "test" for row in self.rows)

    @property
    def extraction(self) -> Iterator[Step]:
        """Extracting features once for all models, where any are given them."""
        if self.encoding is not None and self.counted is not None:
            patches = sum(self.counted.by_magnification.values())
            encoded = patches * len(self.rows)
            hours = encoded * self.encoding.seconds / HOUR
            size = encoded * self.encoding.features * FLOAT16
            yield Step("features, for all models", "once", patches, hours, size / GB)

    @property
    def regions(self) -> Iterator[Step]:
        """Cutting regions out of slides, where the set is one of regions."""
        cut = sum(row.region is not None for row in self.rows)
        if cut:
            yield Step("regions", "once", 0, 0, cut * REGION_PX**2 * RGB / GB)

    def training(self, candidate: Candidate, *, label: str, seeds: int) -> Step:
        """Training a model and testing it, every epoch and seed."""
        settings = candidate.settings
        stored = self.counted if settings.encoder is not None else None
        step = time_learning(
            candidate,
            in_dim=self.encoding.features if self.encoding is not None else 0,
            num_classes=len({row.label for row in self.rows}),
            sharpest=stored.by_magnification[settings.slide.magnifications[-1]] if stored else None,
            painted=self.painted,
            device=self.device,
        )
        passes = settings.train.epochs * (1 + settings.train.refit)
        looked_at = passes * (len(self.rows) - self.tested) + self.tested
        return Step(
            label,
            f"{seeds} x {passes} epochs",
            step.patches,
            seeds * looked_at * step.seconds / HOUR,
            seeds * step.weights / GB,
        )


def plan(
    reproduction: Reproduction, data: Path, out: Path, *, seeds: int = 3, device: str = "auto"
) -> Plan:
    """Reckon what a reproduction would take, from the set's label files and a short measurement.

    A few slides are opened to count their patches; nothing is written.

    Args:
        reproduction: the tables.
        data: folder of their data set; what is missing of it is told.
        out: folder that would be written to.
        seeds: runs of each experiment.
        device: where it would run.

    Raises:
        CohortError: the folder does not hold the data set.
        SettingsError: what is given makes no run.
        EncoderError: a network cannot be had.
    """
    listing, checked = look_through(reproduction.data, data, partial=True)
    candidates = [
        candidate for members in reproduction.candidates().values() for candidate in members
    ]
    gone = len(checked.missing) + len(checked.damaged) + listing.absent
    with _measured(reproduction, candidates, checked.whole, str(choose_device(device))) as basis:
        steps = [*basis.regions, *basis.extraction]
        for candidate in candidates:
            experiment = reproduction.experiments[candidate.name]
            label = _labeled(reproduction, candidate.name, experiment)
            runs = 1 if experiment.kind == "timing" else seeds
            steps.append(basis.training(candidate, label=label, seeds=runs))
    facts = (_slides(basis, gone), *([basis.counted.told] if basis.counted else []))
    free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.exists()))
    return Plan(reproduction.name, (*facts, _how(basis)), tuple(steps), free.free)


@contextmanager
def _measured(
    reproduction: Reproduction, candidates: list[Candidate], rows: tuple[Row, ...], device: str
) -> Iterator[Basis]:
    """Paint a slide, count patches and time the encoder, where there is one."""
    encoding = counted = None
    featured = [candidate for candidate in candidates if candidate.settings.encoder is not None]
    with painted_slide(reproduction.image) as painted:
        if featured:
            encoder, settings = featured[0].settings.encoder, shared_slide_settings(featured)
            assert encoder is not None
            assert reproduction.patches is not None
            counted = count_patches(rows, settings, reproduction.patches)
            encoding = time_encoding(encoder, settings, painted=painted, device=device)
        yield Basis(rows, encoding, counted, painted, device)


def _labeled(reproduction: Reproduction, name: str, experiment: Experiment) -> str:
    if experiment.kind == "timing":
        return f"{reproduction.label_of(name.removesuffix('-all'))}, all patches, for the time"
    return reproduction.label_of(name)


def _slides(basis: Basis, gone: int) -> str:
    paths = {row.path for row in basis.rows}
    size = sum(path.stat().st_size for path in paths) / GB
    missing = f"; {gone} more are missing or damaged" if gone else ""
    return (
        f"Slides or regions: {len(basis.rows)}, {basis.tested} of them to test on, in {len(paths)} "
        f"files of {_short(size)} GB{missing}."
    )


def _how(basis: Basis) -> str:
    encoded = ""
    if basis.encoding is not None:
        encoded = (
            "reading and encoding a patch of a painted slide, "
            f"{1000 * basis.encoding.seconds:.3g} ms; "
        )
    return (
        f"Measured on {basis.device} with {torch.get_num_threads()} threads: {encoded}one step of "
        "training of each model on one slide, its batches not made use of."
    )


def _short(number: float) -> str:
    """Give a number with two digits that tell."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
