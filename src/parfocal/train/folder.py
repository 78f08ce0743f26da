"""A run folder: what training leaves behind.

settings.yaml           the settings, defaults included, and the order of the classes
split.csv               which slide was learned from, chosen by, left for testing
metrics.csv, refit.csv  a row an epoch
tensorboard/            the same, for TensorBoard
failed.csv              slides that could not be used, and why
summary.json            the run in a few numbers
checkpoint.*            the trained model, see `parfocal.models.checkpoint`
resume/                 only until the run is finished
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from statistics import mean

import yaml

from parfocal.dataset.cohort import CohortSlide
from parfocal.files import write_whole
from parfocal.models.checkpoint import SETTINGS_FILE

RESUME_FOLDER = "resume"


class RunError(Exception):
    """A run that cannot start or go on; the message says which, what and what to do."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over as many slides as there are to learn from came to.

    Args:
        epoch: counted from 1.
        train_loss: mean over the slides drawn.
        val_loss: mean over validation slides; None where there are none, as in a refit.
        val_accuracy: likewise.
        val_weighted_f1: likewise.
        val_auroc: macro, likewise; None also where a class has no validation slide.
        learning_rate: in this epoch.
        patches_encoded: 0 where features are stored or in the cache.
        seconds: by the clock on the wall.
    """

    epoch: int
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    val_weighted_f1: float | None
    val_auroc: float | None
    learning_rate: float
    patches_encoded: int
    seconds: float


@dataclass(frozen=True)
class RunSummary:
    """A run in a few numbers; of several folds, sums, and means over them.

    Args:
        out: the run folder.
        best_epoch: whose weights were kept, counted from 1; None of several folds.
        epochs: trained, those of a refit included.
        val_loss: of the best epoch.
        val_weighted_f1: likewise.
        val_auroc: likewise; None where a class has no validation slide.
        patches_encoded: in all epochs.
        seconds: in all epochs.
        failed: why each slide that was left out was.
        folds: the runs, where there are several.
    """

    out: Path
    best_epoch: int | None
    epochs: int
    val_loss: float
    val_weighted_f1: float
    val_auroc: float | None
    patches_encoded: int
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)
    folds: tuple["RunSummary", ...] = ()


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes a run folder; every file whole or not at all."""

    path: Path

    @property
    def finished(self) -> bool:
        """Whether there is a trained model in it."""
        return (self.path / SETTINGS_FILE).exists()

    def check(self, settings: str, split: str, *, resume: bool) -> None:
        """Refuse a folder that cannot be taken for a run.

        Args:
            settings: as YAML.
            split: as CSV.
            resume: go on with the run that is there, which must be the same one.

        Raises:
            RunError: the folder is in use, or what is there is of another run.
        """
        refuse_used(self.path, resume=resume)
        for path, content in self._told(settings, split):
            if path.exists() and path.read_text(encoding="utf-8") != content:
                raise RunError(
                    f"{path}: the run there has {_difference(path, content)}; --resume goes on "
                    "with the same settings and cohort only. Give them, or another --out."
                )

    def claim(self, settings: str, split: str) -> None:
        """Take a folder for a run, once all is checked, writing down its settings and split."""
        self._resume_folder.mkdir(parents=True, exist_ok=True)
        for path, content in self._told(settings, split):
            write_whole(path, content.encode())

    def resume_file(self, name: str) -> Path:
        """Give the path of a file that is kept only until the run is finished."""
        return self._resume_folder / name

    def write_epochs(self, name: str, epochs: Sequence[Epoch]) -> None:
        """Write a row an epoch to `<name>.csv`."""
        header = [member.name for member in fields(Epoch)]
        self._write_table(f"{name}.csv", [header, *(astuple(epoch) for epoch in epochs)])

    def finish(self, summary: RunSummary) -> None:
        """Write the summary, and which slides failed."""
        self._write_table("failed.csv", [("slide_id", "reason"), *summary.failed.items()])
        write_summary(summary)

    def forget(self) -> None:
        """Remove what only --resume needs."""
        shutil.rmtree(self._resume_folder, ignore_errors=True)

    def read_summary(self) -> RunSummary:
        """Read what `finish` wrote."""
        content = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        return RunSummary(**{**content, "out": self.path, "folds": ()})

    def _told(self, settings: str, split: str) -> tuple[tuple[Path, str], ...]:
        return (self.path / "settings.yaml", settings), (self.path / "split.csv", split)

    @property
    def _resume_folder(self) -> Path:
        return self.path / RESUME_FOLDER

    def _write_table(self, name: str, rows: Iterable[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_whole(self.path / name, text.getvalue().encode())


def refuse_used(path: Path, *, resume: bool) -> None:
    """Refuse a folder that holds something, unless a run in it is to be resumed."""
    if not path.exists() or not any(path.iterdir()):
        return
    if not resume:
        raise RunError(
            f"{path}: the folder is not empty. Give another --out, or --resume to go on with the "
            "run in it."
        )
    # A killed run has the last from its first moment on, one of several folds the first fold.
    if not any((path / name).exists() for name in ("settings.yaml", "fold-0", RESUME_FOLDER)):
        raise RunError(
            f"{path}: the folder is not empty, and there is no run in it to go on with. Give the "
            "--out of the stopped run."
        )


def write_summary(summary: RunSummary) -> None:
    """Write summary.json; of folds, with theirs in it."""
    content = json.dumps(asdict(summary), indent=2, default=str) + "\n"
    write_whole(summary.out / "summary.json", content.encode())


def _difference(path: Path, content: str) -> str:
    """Name the first setting in which a run differs."""
    if path.suffix != ".yaml":
        return "other slides"
    there = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, values in yaml.safe_load(content).items():
        for key, value in values.items():
            found = there.get(section, {}).get(key)
            if found != value:
                return f"{section}.{key} {found}, not {value}"
    return "other settings"


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """Give the epoch of the highest weighted F1; of several, of the lowest validation loss."""
    return max(epochs, key=_goodness)


def _goodness(epoch: Epoch) -> tuple[float, float]:
    assert epoch.val_weighted_f1 is not None
    assert epoch.val_loss is not None
    return round(epoch.val_weighted_f1, 6), -epoch.val_loss


def refuse_too_few(
    train: Sequence[CohortSlide],
    val: Sequence[CohortSlide],
    failed: dict[str, str],
    labels: Sequence[str],
) -> None:
    """Refuse to go on where failed slides leave nothing to learn a class from or to choose by."""
    left = {slide.label for slide in train if slide.slide_id not in failed}
    missing = [f"train slide of class {label!r}" for label in labels if label not in left]
    if val and all(slide.slide_id in failed for slide in val):
        missing.append("validation slide")
    if missing:
        slide_id, reason = next(iter(failed.items()))
        raise RunError(
            f"no {missing[0]} is left: {len(failed)} slides failed, the first {slide_id} "
            f"({reason}) Mend or replace them, or add slides."
        )


def several(out: Path, runs: list[RunSummary]) -> RunSummary:
    """Sum up the folds, and write it down."""
    aurocs = [run.val_auroc for run in runs if run.val_auroc is not None]
    summary = RunSummary(
        out=out,
        best_epoch=None,
        epochs=sum(run.epochs for run in runs),
        val_loss=mean(run.val_loss for run in runs),
        val_weighted_f1=mean(run.val_weighted_f1 for run in runs),
        val_auroc=mean(aurocs) if len(aurocs) == len(runs) else None,
        patches_encoded=sum(run.patches_encoded for run in runs),
        seconds=sum(run.seconds for run in runs),
        failed={slide_id: reason for run in runs for slide_id, reason in run.failed.items()},
        folds=tuple(runs),
    )
    write_summary(summary)
    return summary
