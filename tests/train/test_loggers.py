"""Loggers of the metrics of each epoch."""

import threading
from pathlib import Path
from typing import get_args

import pytest

from parfocal.cli import arguments
from parfocal.compare import Candidate, compare
from parfocal.settings import load_settings
from parfocal.settings.sections import LoggerName
from parfocal.train import RunError, loggers
from parfocal.train.loggers import (
    PACKAGES,
    opened_logger,
    quiet_write_errors,
    require_logger,
    run_name,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "abmil" / "fold-0"
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text("train:\n  epochs: 3\nmodel:\n  name: abmil\n")
    return folder


def test_the_option_and_the_setting_have_the_same_names():
    names = get_args(LoggerName)
    assert get_args(arguments.LoggerName) == names
    assert set(names) == {"csv", *PACKAGES}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_logger_that_is_not_installed_is_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    with pytest.raises(
        RunError,
        match=rf"^train.logger: {PACKAGES[name][1]} is not installed; install it with `pip install "
        rf"'parfocal\[{name}\]'`, or use --logger csv\. metrics\.csv has the same numbers\.$",
    ):
        require_logger(name)


def test_a_comparison_refuses_a_missing_logger_before_it_reads_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loggers, "find_spec", lambda module: None)
    candidate = Candidate("abmil", load_settings("abmil", overrides=["train.logger=wandb"]))
    with pytest.raises(RunError, match="Weights & Biases is not installed"):
        compare(tmp_path / "missing.csv", [candidate], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_a_logger_nothing_is_written(run: Path):
    with opened_logger("csv", run, "metrics") as log:
        assert log is None
    assert [path.name for path in run.iterdir()] == ["settings.yaml"]


def test_tensorboard_gets_metrics_and_settings(run: Path):
    pytest.importorskip("tensorboard")
    with opened_logger("tensorboard", run, "metrics") as log:
        log.log_metrics({"train_loss": 0.5}, step=1)
        log.finalize("success")
    (event,) = (run / "tensorboard/metrics").glob("events*")
    assert b"train_loss" in event.read_bytes()
    assert "train.epochs: '3'" in (run / "tensorboard/metrics/hparams.yaml").read_text()


def test_mlflow_writes_to_the_run_folder(run: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with opened_logger("mlflow", run, "metrics") as log:
        log.log_metrics({"train_loss": 0.5}, step=1)
        log.finalize("success")
    client = mlflow.tracking.MlflowClient(log._tracking_uri)
    stored = client.get_run(log.run_id)
    assert stored.data.metrics == {"train_loss": 0.5}
    assert stored.data.params == {"train.epochs": "3", "model.name": "abmil"}
    assert stored.info.run_name == "abmil/fold-0"
    assert len(list(run.iterdir())) >= 2  # nothing outside the run folder


def test_wandb_writes_to_the_run_folder_offline(run: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("metrics", "refit"):  # each has a run of its own
        with opened_logger("wandb", run, name) as log:
            log.log_metrics({"train_loss": 0.5}, step=1)
            assert log.experiment.settings.mode == "offline"
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2


def test_a_run_is_named_after_its_folder():
    assert run_name(Path("/results/abmil/seed-0"), "metrics") == "abmil/seed-0"
    assert run_name(Path("/results/abmil/seed-0"), "refit") == "abmil/seed-0/refit"


def test_only_write_errors_of_threads_are_quiet(monkeypatch: pytest.MonkeyPatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: printed.append(failure.exc_value))

    def fail(error: Exception) -> None:
        raise error

    other = ValueError("other")
    with quiet_write_errors():
        for error in (OSError("full"), other):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
    assert printed == [other]
