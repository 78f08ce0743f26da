"""The metrics of an epoch and the summary of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from parfocal.metrics import METRICS

# Metrics in the log line of an epoch and in the progress bar: column of metrics.csv -> label.
LOGGED = {
    "train_loss": "loss",
    "val_loss": "validation loss",
    "val_weighted_f1": METRICS["weighted_f1"],
    "val_auroc": METRICS["auroc_macro"],
}


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
    """The summary of a run; for a run with folds, sums and means over the folds.

    Args:
        out: run folder.
        best_epoch: epoch whose weights were kept, counted from 1; None for a run with folds.
        epochs: number of trained epochs, including a refit.
        val_loss: validation loss of the best epoch.
        val_weighted_f1: weighted F1 of the best epoch on the validation slides.
        val_auroc: macro AUROC of the best epoch on the validation slides; None if a class has no
            validation slide.
        patches_encoded: number of patches encoded in all epochs.
        seconds: wall-clock time of all epochs in seconds.
        failed: reason of each slide that was left out, by slide id.
        folds: summary of each fold; empty for a run without folds.
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


def best_epoch(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the highest weighted F1, and the lowest loss in a tie."""
    return max(epochs, key=_rank)


def _rank(epoch: Epoch) -> tuple[float, float]:
    assert epoch.val_weighted_f1 is not None
    assert epoch.val_loss is not None
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
    assert best.val_weighted_f1 is not None
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
    )


def aggregate_folds(out: Path, folds: Sequence[RunSummary]) -> RunSummary:
    """Return the summary of a run with folds: sums of counts, means of validation metrics."""
    aurocs = [fold.val_auroc for fold in folds if fold.val_auroc is not None]
    return RunSummary(
        out=out,
        best_epoch=None,
        epochs=sum(fold.epochs for fold in folds),
        val_loss=mean(fold.val_loss for fold in folds),
        val_weighted_f1=mean(fold.val_weighted_f1 for fold in folds),
        val_auroc=mean(aurocs) if len(aurocs) == len(folds) else None,
        patches_encoded=sum(fold.patches_encoded for fold in folds),
        seconds=sum(fold.seconds for fold in folds),
        failed={slide_id: reason for fold in folds for slide_id, reason in fold.failed.items()},
        folds=tuple(folds),
    )
