"""A training that is checked and ready: its runs, one for each fold, which processes may share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from parfocal.distribute.claims import hold
from parfocal.distribute.rebuilt import RebuiltWork
from parfocal.distribute.worklist import Distribution, WorkList
from parfocal.explain.report import optional_report, write_report
from parfocal.settings import TrainSettings
from parfocal.train.devices import train_on_devices
from parfocal.train.folder import CLAIM_FILE, RunError, write_summary
from parfocal.train.operating_point import cross_fit, is_requested
from parfocal.train.summary import RunSummary, aggregate_folds
from parfocal.train.training_run import TrainingRun

FINISH_WAIT_S = 600.0


@dataclass(frozen=True)
class PreparedTraining:
    """A training whose cohort, settings and slides are checked.

    Args:
        out: run folder.
        runs: one run, or one for each fold.
        quiet: whether to show no bar of the folds, because there is one of the epochs.
        rebuild: prepares the same training in another process, which may change keyword arguments
            of `prepare_training`; None if there can be none.
    """

    out: Path
    runs: tuple[TrainingRun, ...]
    quiet: bool = False
    rebuild: "Callable[..., PreparedTraining] | None" = None

    def __reduce__(self) -> tuple[object, ...]:
        """Let a worker process prepare the training for itself: open files cannot be sent."""
        return RebuiltWork, (self.items, self._rebuilder)

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Names of the folds."""
        return tuple(run.folder.path.name for run in self.runs)

    def find(self, item: str) -> RunSummary | None:
        """Return the summary of a fold; None if it is not trained."""
        folder = self.runs[self.items.index(item)].folder
        return folder.read_summary() if folder.finished else None

    def process(self, item: str) -> RunSummary:
        """Train a fold, or continue its training."""
        run = self.runs[self.items.index(item)]
        with run.folder.held():
            return self._train_run(run, resume=True)

    def _train_run(self, run: TrainingRun, *, resume: bool) -> RunSummary:
        """Train a run here, or in a process for each of several devices."""
        if run.settings.train.devices == 1 or run.folder.finished:
            return run.train(resume=resume)
        return train_on_devices(run, self.runs.index(run), self._rebuilder)

    @property
    def _rebuilder(self) -> "Callable[..., PreparedTraining]":
        if self.rebuild is None:
            raise TypeError(f"{self.out}: this training run cannot be sent to another process.")
        return self.rebuild

    def train(self, distribution: Distribution, *, resume: bool) -> RunSummary:
        """Train all runs, of which other processes may train some, and write the report.

        Args:
            distribution: how folds are divided among processes.
            resume: whether to continue the run in the folder.

        Raises:
            RunError: another process reported that a fold failed.
            ShardEndedError: the folds of the shard are done, but not yet those of the others.
        """
        if len(self.runs) == 1:
            return self.finish([self._train_run(self.runs[0], resume=resume)])
        folds = WorkList(
            *(self.out, "training", self),
            unit="folds",
            distribution=distribution,
            stop_at_failure=True,
            quiet=self.quiet,
        )
        ended = {each.item: each for each in folds.run()}
        ended |= {each.item: each for each in folds.rest()}
        for name in self.items:
            if ended[name].reason is not None:
                raise RunError(f"{self.out}: {name} failed: {ended[name].reason}")
        summaries = [ended[name].result for name in self.items]
        return self.finish([each for each in summaries if each is not None])

    def finish(self, summaries: Sequence[RunSummary]) -> RunSummary:
        """Write the summary of the folds and the report.

        Args:
            summaries: one for each run.
        """
        return finish_training(self.out, summaries, self.runs[0].settings.train)


def finish_training(out: Path, runs: Sequence[RunSummary], settings: TrainSettings) -> RunSummary:
    """Write the summary of the folds and the report.

    Args:
        out: run folder.
        runs: summary of each fold, or of the one run.
        settings: training settings.
    """
    summary = runs[0]
    if len(runs) > 1:
        with hold(out / CLAIM_FILE, wait_s=FINISH_WAIT_S):  # other processes may write the same
            folds = cross_fit(list(runs), settings) if is_requested(settings) else list(runs)
            summary = aggregate_folds(out, folds)
            write_summary(summary)
    page = out / "report.html"
    with optional_report(page, retry_command=f"parfocal report {out} --out {page}"):
        write_report((out,), page)
    return summary
