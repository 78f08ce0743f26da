"""The trainings of a comparison, one for each model, seed and fold, which processes may share."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from parfocal.compare.candidate import Candidate, ComparisonError
from parfocal.compare.measure import SharedSetup
from parfocal.compare.teachers import teachers_first, with_teacher_run
from parfocal.dataset.cohort import Cohort, without_slides
from parfocal.dataset.split import split_to_csv
from parfocal.distribute.work import Ended
from parfocal.evaluate.run import evaluate
from parfocal.settings import RunSettings
from parfocal.slide.failure import reraise_interrupt
from parfocal.train.folder import OtherRunError, RunFolder, refuse_used
from parfocal.train.prepared import PreparedTraining, finish_training
from parfocal.train.run import make_splits, prepare_training

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """One training of a comparison.

    Args:
        candidate: the model.
        seed: seed of the training.
        fold: number of the fold; None without folds.
    """

    candidate: Candidate
    seed: int
    fold: int | None

    @property
    def run(self) -> str:
        """Path of the run, or of the folds of a seed, in the folder of the comparison."""
        return f"{self.candidate.name}/seed-{self.seed}"

    @property
    def item(self) -> str:
        """Path of the run folder in the folder of the comparison."""
        return self.run if self.fold is None else f"{self.run}/fold-{self.fold}"


@dataclass(frozen=True)
class Trainings:
    """The trainings of a comparison as shared work: each is evaluated as well.

    Args:
        shared: data and options of the comparison.
    """

    shared: SharedSetup
    _failed: dict[str, str] = field(default_factory=dict)  # reason by name of the model
    _prepared: dict[str, PreparedTraining] = field(default_factory=dict)  # the latest only

    def __getstate__(self) -> dict[str, object]:
        """Leave out what each process prepares for itself."""
        return {"shared": self.shared, "_failed": {}, "_prepared": {}}

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Paths of the run folders; those of teachers come first."""
        return tuple(self._trainings)

    def of(self, candidate: Candidate) -> list[Training]:
        """Return the trainings of a model."""
        return [each for each in self._trainings.values() if each.candidate is candidate]

    def candidate(self, item: str) -> Candidate:
        """Return the model of a training."""
        return self._trainings[item].candidate

    def ready(self, item: str) -> bool:
        """Return whether the teacher of a training, if it has one, is trained."""
        training = self._trainings[item]
        teacher = self._settings(training).train.teacher
        if not isinstance(teacher, Path) or not teacher.is_relative_to(self.shared.out):
            return True
        name = teacher.relative_to(self.shared.out).as_posix()
        of_teacher = [each.item for each in self._trainings.values() if each.run == name]
        return all(self._is_done(each) or self._has_failed(each) for each in of_teacher)

    def refuse_other_runs(self) -> None:
        """Refuse a folder in which a model was trained with other settings or slides.

        Raises:
            ComparisonError: there is such a model; the earlier runs and tables are unchanged.
        """
        for training in self._trainings.values():
            try:
                if self._seems_another(training):
                    self._prepare(training)
            except OtherRunError as error:
                raise ComparisonError(str(error)) from error
            except Exception as error:  # it is reported when the model's turn comes
                reraise_interrupt(error)

    def find(self, item: str) -> Path | None:
        """Return the folder of a training that is evaluated, too; None if it is not."""
        training = self._trainings[item]
        with self._failures_of(training):
            if not self._is_done(item):
                return None
            self._prepare(training)  # raises if the run has other settings or slides
            return self.shared.out / item

    def process(self, item: str) -> Path:
        """Train and evaluate a model, or go on with that."""
        training, run = self._trainings[item], self.shared.out / item
        with self._failures_of(training):
            logger.info("%s: training and evaluating", item)
            prepared = self._prepare(training)
            summary = prepared.process(prepared.items[training.fold or 0])
            if training.fold is None:
                prepared.finish([summary])
            evaluate(
                run,
                self.shared.source,
                run / "evaluation",
                features=self.shared.stores.get(training.candidate.name),
                cache=self.shared.cache,
                device=self.shared.device,
                trust_remote_code=training.candidate.trust_remote_code,
                access=self.shared.access,
            )
            return run

    def finish(self, candidate: Candidate, ended: Sequence[Ended[Path]]) -> None:
        """Write the summaries of the folds of a model whose trainings have all ended.

        Args:
            candidate: the model.
            ended: its trainings.
        """
        new = {each.item for each in ended if each.by != "found"}
        trainings = [each for each in self.of(candidate) if each.fold is not None]
        for name in dict.fromkeys(each.run for each in trainings):
            folds = [each for each in trainings if each.run == name]
            out = self.shared.out / name
            if (out / "summary.json").exists() and not new & {each.item for each in folds}:
                continue
            folders = [RunFolder(self.shared.out / each.item) for each in folds]
            summaries = [folder.read_summary() for folder in folders]
            finish_training(out, summaries, candidate.settings.train)

    def _seems_another(self, training: Training) -> bool:
        """Return whether a folder may hold a run with other settings; no slide is read."""
        settings = self._settings(training)
        train = replace(settings.train, labels=self.shared.cohort.labels or None)
        split = make_splits(self._readable, train)[training.fold or 0]
        out = self.shared.out
        try:
            refuse_used(out / training.run, resume=True, folds=training.fold is not None)
            RunFolder(out / training.item).check(
                replace(settings, train=train), split_to_csv(split), resume=True
            )
        except OtherRunError:
            return True
        return False

    @cached_property
    def _readable(self) -> Cohort:
        return without_slides(self.shared.cohort, self.shared.unreadable)

    @cached_property
    def _trainings(self) -> dict[str, Training]:
        trainings = []
        for candidate in teachers_first(self.shared.candidates):
            count = len(make_splits(self._readable, candidate.settings.train))
            folds: Sequence[int | None] = [None] if count == 1 else range(count)
            for seed in range(self.shared.seeds):
                trainings += [Training(candidate, seed, fold) for fold in folds]
        return {each.item: each for each in trainings}

    def _settings(self, training: Training) -> RunSettings:
        shared, seed = self.shared, training.seed
        settings = with_teacher_run(
            training.candidate.settings, shared.models, shared.out, seed=seed
        )
        return replace(settings, train=replace(settings.train, seed=seed))

    def _is_done(self, item: str) -> bool:
        return (self.shared.out / item / "evaluation" / "metrics.json").exists()

    def _has_failed(self, item: str) -> bool:
        return self._trainings[item].candidate.name in self._failed

    @contextmanager
    def _failures_of(self, training: Training) -> Iterator[None]:
        """Turn any error into one that says why the model failed: the others are still run."""
        name = training.candidate.name
        if name in self._failed:
            raise ComparisonError(self._failed[name])
        try:
            yield
        except Exception as error:  # a bug in one model must not stop the others
            reraise_interrupt(error)
            logger.warning("%s failed: %s", name, error)
            self._failed[name] = describe_error(error)
            raise ComparisonError(self._failed[name]) from error

    def _prepare(self, training: Training) -> PreparedTraining:
        """Check what the trainings of a model and seed need, once for all folds."""
        prepared = self._prepared.get(training.run)
        if prepared is None:
            shared = self.shared
            prepared = prepare_training(
                shared.cohort,
                self._settings(training),
                shared.out / training.run,
                features=shared.stores.get(training.candidate.name),
                cache=shared.cache,
                device=shared.device,
                resume=True,
                progress=False,
                skip_unreadable=bool(shared.unreadable),
                unreadable=shared.unreadable,
            )
            self._prepared.clear()
            self._prepared[training.run] = prepared
        return prepared


def describe_error(error: Exception) -> str:
    """Return why a model failed, in one line; with the kind of an error that is not ours."""
    kind = "" if type(error).__module__.startswith("parfocal") else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())
