"""The run folder that training writes.

settings.yaml           all settings, defaults included, and the class labels in order
split.csv               part of each slide: train, val or test
metrics.csv, refit.csv  one row per epoch
tensorboard/, mlruns/, wandb/    the same metrics for another program, with train.logger
failed.csv              slides that could not be read and were left out, with the reason
summary.json            the summary of the run
checkpoint.*            the trained model, see `parfocal.models.checkpoint`
resume/                 training state for --resume, until the run is finished
.claim                  names the process that trains, while it does
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from parfocal.dataset.split import FAILED_FILE, SPLIT_FILE
from parfocal.distribute.claims import Claim, hold
from parfocal.distribute.work_folder import FOLDER as WORK_FOLDER
from parfocal.files import write_whole
from parfocal.models.description import DESCRIPTION_FILE
from parfocal.settings import RunSettings, load_run_settings
from parfocal.train.summary import Epoch, RunSummary

SETTINGS_FILE = "settings.yaml"
RESUME_FOLDER = "resume"
CLAIM_FILE = ".claim"
# Settings that --resume may change.
MAY_DIFFER = {("train", "max_memory_gb"), ("train", "logger"), ("train", "devices")}


class RunError(Exception):
    """A run that cannot start or continue; the message says why and what to do."""


class OtherRunError(RunError):
    """The folder holds a run with other settings, slides or folds."""


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes a run folder; an interruption leaves no incomplete file.

    Args:
        path: path of the folder.
        process_claim: claim on the folder, which this process holds while it trains; None if the
            folder is only read.
    """

    path: Path
    process_claim: "RunClaim | None" = None

    @property
    def finished(self) -> bool:
        """Whether the folder holds a trained model."""
        return (self.path / DESCRIPTION_FILE).exists()

    def check(self, settings: RunSettings, split: str, *, resume: bool) -> None:
        """Check that a run may write to the folder.

        Args:
            settings: settings of the run.
            split: content of split.csv.
            resume: whether to continue a run in the folder, which must have the same settings and
                split; if False, the folder must be empty.

        Raises:
            RunError: the folder is in use, or holds a run that cannot be continued.
        """
        refuse_used(self.path, resume=resume)
        if self._settings_file.exists():
            self._check_same_settings(settings)
        if self._split_file.exists() and self._split_file.read_text(encoding="utf-8") != split:
            raise self._different_run("other slides")

    def start(
        self, settings: RunSettings, split: str, left_out: Mapping[str, str] | None = None
    ) -> None:
        """Write the settings and the split of a run that starts or continues.

        Args:
            settings: settings of the run.
            split: content of split.csv.
            left_out: reason of each slide that was left out before the split, by slide id.
        """
        self._resume_folder.mkdir(parents=True, exist_ok=True)
        self._write_failed(left_out or {})  # first, since --resume reads it if there is a split
        write_whole(self._settings_file, settings.to_yaml().encode())
        write_whole(self._split_file, split.encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the claim on the folder for a block.

        Raises:
            ClaimError: another process has it.
        """
        claim = self.process_claim or RunClaim()
        with claim.held(self.path):
            yield

    def check_claim(self) -> None:
        """Check that no other process has taken over the folder.

        Raises:
            ClaimError: one has.
        """
        if self.process_claim is not None:
            self.process_claim.check()

    def resume_file(self, name: str) -> Path:
        """Return the path of a file that is kept until the run is finished."""
        return self._resume_folder / name

    def write_epochs(self, name: str, epochs: Sequence[Epoch]) -> None:
        """Write `<name>.csv` with one row per epoch."""
        rows = [epoch.row for epoch in epochs]
        header = list(rows[0] if rows else {})
        self._write_table(f"{name}.csv", [header, *(list(row.values()) for row in rows)])

    def finish(self, summary: RunSummary) -> None:
        """Write summary.json and failed.csv."""
        self._write_failed(summary.failed)
        write_summary(summary)

    def remove_resume_files(self) -> None:
        """Remove the files that only --resume needs."""
        shutil.rmtree(self._resume_folder, ignore_errors=True)

    def read_summary(self) -> RunSummary:
        """Read summary.json."""
        content = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        return RunSummary(**{**content, "out": self.path, "folds": ()})

    def _check_same_settings(self, settings: RunSettings) -> None:
        existing, version = load_run_settings(self._settings_file)
        difference = _difference(existing, settings)
        if difference is not None:
            raise self._different_run(difference)
        if version == 1 and not self.finished:
            raise RunError(
                f"{self.path}: the run was started by an earlier parfocal and cannot be continued "
                "by this one. Finish it with the earlier version, or train again with another "
                "--out."
            )

    def _different_run(self, difference: str) -> OtherRunError:
        return OtherRunError(
            f"{self.path}: the run in this folder has {difference}. To continue it, use the same "
            "settings and cohort; to train another one, use another --out."
        )

    @property
    def _settings_file(self) -> Path:
        return self.path / SETTINGS_FILE

    @property
    def _split_file(self) -> Path:
        return self.path / SPLIT_FILE

    @property
    def _resume_folder(self) -> Path:
        return self.path / RESUME_FOLDER

    def _write_failed(self, failed: Mapping[str, str]) -> None:
        self._write_table(FAILED_FILE, [("slide_id", "reason"), *failed.items()])

    def _write_table(self, name: str, rows: Iterable[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_whole(self.path / name, text.getvalue().encode())


class RunClaim:
    """The claim on a run folder.

    Args:
        claim: the claim, if this process holds it; None to make it when the training begins.
    """

    def __init__(self, claim: Claim | None = None) -> None:
        self._claim = claim

    @contextmanager
    def held(self, path: Path) -> Iterator[None]:
        """Hold the claim on a run folder for a block, unless it is held already.

        Raises:
            ClaimError: another process has it.
        """
        if self._claim is not None:
            yield
            return
        try:
            with claimed(path) as self._claim:
                yield
        finally:
            self._claim = None

    def check(self) -> None:
        """Check that the claim is held, if it was made.

        Raises:
            ClaimError: another process has taken over the folder.
        """
        if self._claim is not None:
            self._claim.check()


@contextmanager
def claimed(path: Path) -> Iterator[Claim]:
    """Claim a folder for this process for a block, so that no other one writes to it.

    The folder is created if needed, and removed if it is empty at the end.

    Raises:
        ClaimError: another process has it.
        OSError: the folder cannot be written to.
    """
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        with hold(path / CLAIM_FILE) as claim:
            yield claim
    finally:
        with suppress(OSError):  # not empty
            for folder in created:
                folder.rmdir()


def refuse_used(path: Path, *, resume: bool, folds: bool = False) -> None:
    """Refuse a folder that is not empty, unless it holds a run to resume.

    Args:
        path: the folder.
        resume: whether to continue a run in it.
        folds: whether the run has folds, each in a folder of its own.

    Raises:
        RunError: the folder is not empty.
        OtherRunError: the run in the folder has folds and this one has none, or the reverse.
    """
    if not path.exists() or all(_is_temporary(each) for each in path.iterdir()):
        return
    if not resume:
        raise RunError(
            f"{path}: the folder is not empty. Use another --out, or --resume to continue the run "
            "in it."
        )
    # An interrupted run has a resume folder from its start; with folds, any of them may be first.
    has_run = any((path / name).exists() for name in (SETTINGS_FILE, RESUME_FOLDER))
    has_folds = any(path.glob("fold-[0-9]*"))
    if not has_run and not has_folds:
        raise RunError(
            f"{path}: the folder is not empty, and there is no run in it to continue. Give the "
            "--out of the interrupted run."
        )
    if has_run if folds else has_folds:
        there, here = (
            ("no folds", "this one has folds") if folds else ("folds", "this one has none")
        )
        raise OtherRunError(
            f"{path}: the run in this folder has {there}, and {here}. To continue it, use the same "
            "settings and cohort; to train another one, use another --out."
        )


def _is_temporary(path: Path) -> bool:
    return path.name in (CLAIM_FILE, WORK_FOLDER) or path.suffix == ".part"


def write_summary(summary: RunSummary) -> None:
    """Write summary.json, with the summaries of the folds."""
    content = json.dumps(asdict(summary), indent=2, default=str) + "\n"
    write_whole(summary.out / "summary.json", content.encode())


def _difference(existing: RunSettings, settings: RunSettings) -> str | None:
    """Return a text that names the first setting in which two runs differ; None if none does."""
    old, new = existing.to_plain(), settings.to_plain()
    for section in dict.fromkeys((*new, *old)):
        old_values, new_values = old.get(section, {}), new.get(section, {})
        for key in dict.fromkeys((*new_values, *old_values)):
            if (section, key) in MAY_DIFFER:
                continue
            if old_values.get(key) != new_values.get(key):
                return f"{section}.{key} {old_values.get(key)}, not {new_values.get(key)}"
    return None
