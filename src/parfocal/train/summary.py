"""The metrics of an epoch and the summary of a run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

from parfocal.metrics import METRICS, score_label

# Metrics in the log line of an epoch and in the progress bar: column of metrics.csv -> label.
LOGGED = {
    "train_loss": "loss",
    "val_loss": "validation loss",
    "val_weighted_f1": METRICS["weighted_f1"],
    "val_auroc": METRICS["auroc_macro"],
}
CLASS_COLUMNS = ("val_accuracy", "val_weighted_f1", "val_auroc")  # of a task with classes
MAX_SCORES = 3  # in a line of text


@dataclass(frozen=True)
class Epoch:
    """The metrics of one epoch.

    Args:
        epoch: number of the epoch, counted from 1.
        train_loss: mean loss of the drawn training slides.
        val_loss: mean cross-entropy of the validation slides; None in a refit, which has none.
        val_accuracy: accuracy on the validation slides; None in a refit.
        val_weighted_f1: weighted F1 on the validation slides; None in a refit.
        val_auroc: macro AUROC on the validation slides; None in a refit, or if a class has no
            validation slide.
        learning_rate: learning rate.
        patches_encoded: number of patches encoded; 0 if all features are stored or cached.
        seconds: wall-clock time in seconds.
        val_scores: scores on the validation slides, by name, of a task without classes.
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
    val_scores: dict[str, float | None] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, object]:
        """The columns of metrics.csv; those of classes only for a task with classes."""
        values = asdict(self)
        scores = values.pop("val_scores")
        if not scores:
            return values
        others = {f"val_{name}": score for name, score in scores.items()}
        after = list(values)[3:]  # epoch, train_loss, val_loss
        kept = {name: values[name] for name in after if name not in CLASS_COLUMNS}
        return {name: values[name] for name in list(values)[:3]} | others | kept

    @property
    def numbers(self) -> dict[str, int | float]:
        """The columns of metrics.csv that have a number."""
        return {name: value for name, value in self.row.items() if isinstance(value, int | float)}

    @property
    def text(self) -> str:
        """The metrics, in a line for people."""
        numbers = self.numbers
        labels = LOGGED | {f"val_{name}": score_label(name) for name in self.val_scores}
        parts = [f"{labels[name]} {numbers[name]:.3f}" for name in labels if name in numbers]
        if self.patches_encoded:
            parts.append(f"{self.patches_encoded:,} patches encoded")
        return ", ".join([*parts, f"{self.seconds:.1f} s"])


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run; for a run with folds, sums and means over the folds.

    Args:
        out: run folder.
        best_epoch: epoch whose weights were kept, counted from 1; None for a run with folds.
        epochs: number of trained epochs, including a refit.
        val_loss: validation loss of the best epoch.
        val_weighted_f1: weighted F1 of the best epoch on the validation slides; None for a task
            without classes.
        val_auroc: macro AUROC of the best epoch on the validation slides; None if a class has no
            validation slide, or for a task without classes.
        patches_encoded: number of patches encoded in all epochs.
        seconds: wall-clock time of all epochs in seconds.
        failed: reason of each slide that was left out, by slide id.
        folds: summary of each fold; empty for a run without folds.
        val_scores: scores of the best epoch on the validation slides, by name, of a task without
            classes.
        operating_point: threshold and temperature in words, with the note; None without them.
        zoom: whether the model learned where to zoom, a `parfocal.train.zoom_check.ZoomCheck`; None
            for a model that does not zoom.
    """

    out: Path
    best_epoch: int | None
    epochs: int
    val_loss: float
    val_weighted_f1: float | None
    val_auroc: float | None
    patches_encoded: int
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)
    folds: tuple["RunSummary", ...] = ()
    val_scores: dict[str, float | None] = field(default_factory=dict)
    operating_point: str | None = None
    zoom: dict[str, int | float | str | None] | None = None

    @property
    def quality(self) -> str:
        """The scores on the validation slides, in a few words."""
        if self.val_weighted_f1 is not None:
            return f"weighted F1 {self.val_weighted_f1:.3f}"
        scores = {name: score for name, score in self.val_scores.items() if score is not None}
        listed = [
            f"{score_label(name)} {score:.3f}" for name, score in list(scores.items())[:MAX_SCORES]
        ]
        return ", ".join(listed or [f"loss {self.val_loss:.3f}"])


def best_epoch(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the highest weighted F1, and the lowest loss in a tie.

    For a task without classes, that with the lowest loss.
    """
    return max(epochs, key=_rank)


def _rank(epoch: Epoch) -> tuple[float, float]:
    assert epoch.val_loss is not None
    if epoch.val_weighted_f1 is None:
        return 0.0, -epoch.val_loss
    return round(epoch.val_weighted_f1, 6), -epoch.val_loss


def summarize(
    out: Path, best: Epoch, epochs: Sequence[Epoch], failed: dict[str, str]
) -> RunSummary:
    """Summarize a run without folds.

    Args:
        out: run folder.
        best: epoch whose weights were kept.
        epochs: all trained epochs, including a refit.
        failed: reason of each slide that was left out, by slide id.
    """
    assert best.val_loss is not None
    return RunSummary(
        out=out,
        best_epoch=best.epoch,
        epochs=len(epochs),
        val_loss=best.val_loss,
        val_weighted_f1=best.val_weighted_f1,
        val_auroc=best.val_auroc,
        patches_encoded=sum(epoch.patches_encoded for epoch in epochs),
        seconds=sum(epoch.seconds for epoch in epochs),
        failed=failed,
        val_scores=best.val_scores,
    )


def aggregate_folds(out: Path, folds: Sequence[RunSummary]) -> RunSummary:
    """Return the summary of a run with folds: sums of counts, means of validation metrics."""
    return RunSummary(
        out=out,
        best_epoch=None,
        epochs=sum(fold.epochs for fold in folds),
        val_loss=mean(fold.val_loss for fold in folds),
        val_weighted_f1=_mean([fold.val_weighted_f1 for fold in folds]),
        val_auroc=_mean([fold.val_auroc for fold in folds]),
        patches_encoded=sum(fold.patches_encoded for fold in folds),
        seconds=sum(fold.seconds for fold in folds),
        failed={slide_id: reason for fold in folds for slide_id, reason in fold.failed.items()},
        folds=tuple(folds),
        val_scores={
            name: _mean([fold.val_scores.get(name) for fold in folds])
            for name in folds[0].val_scores
        },
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value is."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None
