"""A run that was stopped, by whatever, goes on as if it had not been."""

import csv
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from parfocal.dataset import read_cohort
from parfocal.models import ZoomMIL
from parfocal.models.checkpoint import Checkpoint, CheckpointError
from parfocal.settings import RunSettings
from parfocal.train import RunError, RunSummary, train


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C is heard, also where the tests run in the background, which ignores it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.fixture
def settings(settings: RunSettings) -> RunSettings:
    few = replace(settings.train, epochs=4, learning_rate=1e-3, lr_patience=0, patience=2)
    return replace(settings, train=few)


def taught(cohort, settings, out: Path, *, resume: bool = False) -> RunSummary:
    features = cohort.source.parent / "features"
    return train(
        cohort, settings, out, features=features, device="cpu", resume=resume, progress=False
    )


def metrics(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def stop_after(monkeypatch: pytest.MonkeyPatch, slides: int, error: BaseException) -> None:
    """Raise once, when so many slides have been learned from."""
    learned = []
    loss = ZoomMIL.objective

    def counted(model, prediction, label):
        learned.append(label)
        if len(learned) == slides:
            raise error
        return loss(model, prediction, label)

    monkeypatch.setattr(ZoomMIL, "objective", counted)


@pytest.fixture
def whole(cohort, settings, tmp_path) -> Path:
    taught(cohort, settings, tmp_path / "whole")
    return tmp_path / "whole"


@pytest.mark.parametrize("slides", [3, 37, 42])  # 14 an epoch: in the first, and twice in the third
def test_a_killed_run_ends_as_an_unbroken_one(cohort, settings, whole, monkeypatch, slides):
    out = whole.with_name("run")
    stop_after(monkeypatch, slides, RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        taught(cohort, settings, out)
    with pytest.raises(CheckpointError, match="finish it with --resume"):
        Checkpoint.load(out)
    taught(cohort, settings, out, resume=True)
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
            taught(cohort, settings, out)
    stop_after(monkeypatch, 1, RuntimeError("learned again"))
    taught(cohort, settings, out, resume=True)
    assert metrics(out / "metrics.csv") == metrics(whole / "metrics.csv")
    assert Checkpoint.load(out).weights_hash == Checkpoint.load(whole).weights_hash


def test_a_refit_goes_on_too(cohort, settings, tmp_path, monkeypatch):
    refit = replace(settings, train=replace(settings.train, refit=True, epochs=2))
    taught(cohort, refit, tmp_path / "whole")
    stop_after(monkeypatch, 30, RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        taught(cohort, refit, tmp_path / "run")
    taught(cohort, refit, tmp_path / "run", resume=True)
    found = [Checkpoint.load(tmp_path / name).weights_hash for name in ("whole", "run")]
    assert found[0] == found[1]


def test_a_ctrl_c_whose_exception_got_lost_is_heard_at_the_next_slide(
    cohort, settings, tmp_path, monkeypatch
):
    loss, learned = ZoomMIL.objective, []

    def losing(model, prediction, label):
        learned.append(label)
        if len(learned) == 3:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        return loss(model, prediction, label)

    monkeypatch.setattr(ZoomMIL, "objective", losing)
    with pytest.raises(KeyboardInterrupt):
        taught(cohort, settings, tmp_path / "run")
    assert len(learned) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_says_how_to_go_on(cohort, settings, whole, monkeypatch):
    out = whole.with_name("run")
    stop_after(monkeypatch, 20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        taught(cohort, settings, out)
    epochs = len((out / "metrics.csv").read_text().splitlines()) - 1
    how = "with resume it goes on."
    assert str(caught.value) == f"{out}: stopped after {epochs} whole epochs; {how}"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    taught(cohort, settings, out, resume=True)
    assert Checkpoint.load(out).weights_hash == Checkpoint.load(whole).weights_hash


def test_a_finished_run_is_left_as_it_is(cohort, settings, whole, monkeypatch):
    stop_after(monkeypatch, 1, RuntimeError("learned again"))
    before = (whole / "checkpoint.json").read_bytes()
    summary = taught(cohort, settings, whole, resume=True)
    assert summary.epochs == len(metrics(whole / "metrics.csv"))
    assert (whole / "checkpoint.json").read_bytes() == before


def test_finished_folds_are_not_trained_again(cohort, settings, tmp_path, monkeypatch):
    folds = replace(settings, train=replace(settings.train, folds=2, epochs=1))
    stop_after(monkeypatch, 12, RuntimeError("killed"))  # in the second
    with pytest.raises(RuntimeError, match="killed"):
        taught(cohort, folds, tmp_path / "run")
    first = (tmp_path / "run/fold-0/summary.json").read_bytes()
    assert len(taught(cohort, folds, tmp_path / "run", resume=True).folds) == 2
    assert (tmp_path / "run/fold-0/summary.json").read_bytes() == first


def test_another_run_is_not_gone_on_with(cohort, settings, tmp_path, whole):
    slower = replace(settings, train=replace(settings.train, learning_rate=1e-5))
    with pytest.raises(RunError, match=r"the run there has train\.learning_rate 0\.001, not 1e-05"):
        taught(cohort, slower, whole, resume=True)
    (tmp_path / "fewer.csv").write_text(
        "".join((tmp_path / "cohort.csv").read_text().splitlines(keepends=True)[:-2])
    )
    with pytest.raises(RunError, match="the run there has other slides"):
        taught(read_cohort(tmp_path / "fewer.csv"), settings, whole, resume=True)
