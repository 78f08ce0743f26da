"""An interrupted run continues as if it had not been interrupted."""

import csv
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from parfocal.features.errors import StoreError
from parfocal.models import ZoomMIL
from parfocal.models.checkpoint import Checkpoint, CheckpointError
from parfocal.settings import RunSettings
from parfocal.train import RunError, RunSummary, train


@pytest.fixture(autouse=True)
def ctrl_c():
    """Enable Ctrl-C, which is ignored if the tests run in the background."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.fixture(scope="module")
def settings(settings: RunSettings) -> RunSettings:
    few = replace(settings.train, epochs=4, learning_rate=1e-3, lr_patience=0, patience=2)
    return replace(settings, train=few)


def run_training(cohort, settings, out: Path, *, resume: bool = False) -> RunSummary:
    features = cohort.source.parent / "features"
    return train(
        cohort, settings, out, features=features, device="cpu", resume=resume, progress=False
    )


def metrics(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def stop_after(monkeypatch: pytest.MonkeyPatch, slides: int, error: BaseException) -> None:
    """Raise an error at the given training step."""
    targets = []
    loss = ZoomMIL.objective

    def failing(model, prediction, target, task_loss):
        targets.append(target)
        if len(targets) == slides:
            raise error
        return loss(model, prediction, target, task_loss)

    monkeypatch.setattr(ZoomMIL, "objective", failing)


@pytest.fixture(scope="module")
def whole(toy_cohort, settings, tmp_path_factory) -> Path:
    """A finished run, which no test changes."""
    out = tmp_path_factory.mktemp("whole")
    run_training(toy_cohort, settings, out)
    return out


@pytest.mark.parametrize(  # 14 per epoch: in the first and third
    "slides",
    [pytest.param(3, marks=pytest.mark.slow), 37, pytest.param(42, marks=pytest.mark.slow)],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    cohort, settings, whole, tmp_path, monkeypatch, *, slides
):
    out = tmp_path / "run"
    stop_after(monkeypatch, slides, RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        run_training(cohort, settings, out)
    with pytest.raises(CheckpointError, match="finish the run with --resume"):
        Checkpoint.load(out)
    run_training(cohort, settings, out, resume=True)
    assert metrics(out / "metrics.csv") == metrics(whole / "metrics.csv")
    assert Checkpoint.load(out).weights_hash == Checkpoint.load(whole).weights_hash
    assert not (out / "resume").exists()


def test_a_run_killed_while_it_is_saved_needs_no_further_epoch(
    cohort, settings, tmp_path, whole, monkeypatch
):
    out = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr(Checkpoint, "save", lambda self, folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_training(cohort, settings, out)
    stop_after(monkeypatch, 1, RuntimeError("trained again"))
    run_training(cohort, settings, out, resume=True)
    assert metrics(out / "metrics.csv") == metrics(whole / "metrics.csv")
    assert Checkpoint.load(out).weights_hash == Checkpoint.load(whole).weights_hash


@pytest.mark.slow
def test_a_refit_is_resumed(cohort, settings, tmp_path, monkeypatch):
    refit = replace(settings, train=replace(settings.train, refit=True, epochs=2))
    run_training(cohort, refit, tmp_path / "whole")
    stop_after(monkeypatch, 30, RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        run_training(cohort, refit, tmp_path / "run")
    run_training(cohort, refit, tmp_path / "run", resume=True)
    found = [Checkpoint.load(tmp_path / name).weights_hash for name in ("whole", "run")]
    assert found[0] == found[1]


def test_a_swallowed_keyboard_interrupt_stops_at_the_next_slide(
    cohort, settings, tmp_path, monkeypatch
):
    loss, targets = ZoomMIL.objective, []

    def swallowing(model, prediction, target, task_loss):
        targets.append(target)
        if len(targets) == 3:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        return loss(model, prediction, target, task_loss)

    monkeypatch.setattr(ZoomMIL, "objective", swallowing)
    with pytest.raises(KeyboardInterrupt):
        run_training(cohort, settings, tmp_path / "run")
    assert len(targets) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_message_of_ctrl_c_says_how_to_continue(cohort, settings, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    stop_after(monkeypatch, 20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        run_training(cohort, settings, out)
    epochs = len((out / "metrics.csv").read_text().splitlines()) - 1
    message = f"{out}: stopped after {epochs} complete epochs; continue with --resume."
    assert str(caught.value) == message
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run_training(cohort, settings, out, resume=True)
    assert Checkpoint.load(out).weights_hash == Checkpoint.load(whole).weights_hash


def test_a_finished_run_is_not_changed(cohort, settings, whole, monkeypatch):
    stop_after(monkeypatch, 1, RuntimeError("trained again"))
    before = (whole / "checkpoint.json").read_bytes()
    summary = run_training(cohort, settings, whole, resume=True)
    assert summary.epochs == len(metrics(whole / "metrics.csv"))
    assert (whole / "checkpoint.json").read_bytes() == before


def test_finished_folds_are_not_trained_again(cohort, settings, tmp_path, monkeypatch):
    folds = replace(settings, train=replace(settings.train, folds=2, epochs=1))
    stop_after(monkeypatch, 12, RuntimeError("killed"))  # in the second
    with pytest.raises(RuntimeError, match="killed"):
        run_training(cohort, folds, tmp_path / "run")
    first = (tmp_path / "run/fold-0/summary.json").read_bytes()
    assert len(run_training(cohort, folds, tmp_path / "run", resume=True).folds) == 2
    assert (tmp_path / "run/fold-0/summary.json").read_bytes() == first


def test_folds_log_that_the_split_column_is_not_used(cohort, settings, tmp_path, caplog):
    caplog.set_level("INFO")
    message = "cohort.csv: with folds, the split column is not used"
    parted = replace(cohort, slides=tuple(replace(each, split="train") for each in cohort.slides))
    folds = replace(settings, train=replace(settings.train, folds=2))
    for slides, some, logged in ((parted, folds, 1), (cohort, folds, 0), (parted, settings, 0)):
        caplog.clear()
        with pytest.raises(StoreError, match="does not exist"):
            train(slides, some, tmp_path / "run", features=tmp_path / "none", device="cpu")
        assert caplog.messages.count(message) == logged


def test_a_run_with_folds_is_not_continued_without_folds_nor_the_reverse(
    cohort, settings, tmp_path, whole
):
    folds = replace(settings, train=replace(settings.train, folds=2, epochs=1))
    (tmp_path / "run/fold-0").mkdir(parents=True)
    before = sorted(whole.iterdir())
    with pytest.raises(RunError, match="has folds, and this one has none"):
        run_training(cohort, settings, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="has no folds, and this one has folds"):
        run_training(cohort, folds, whole, resume=True)
    assert sorted(whole.iterdir()) == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["fold-0"]


def test_a_run_with_other_settings_or_slides_is_not_resumed(cohort, settings, tmp_path, whole):
    slower = replace(settings, train=replace(settings.train, learning_rate=1e-5))
    with pytest.raises(
        RunError, match=r"the run in this folder has train\.learning_rate 0\.001, not 1e-05"
    ):
        run_training(cohort, slower, whole, resume=True)
    fewer = replace(cohort, slides=cohort.slides[:-2])
    with pytest.raises(RunError, match="the run in this folder has other slides"):
        run_training(fewer, settings, whole, resume=True)
