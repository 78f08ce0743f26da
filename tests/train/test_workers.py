"""Folds that are trained side by side are those of one process."""

import hashlib
from dataclasses import replace

import pytest

from parfocal.distribute import stopping
from parfocal.distribute.engines import WorkerEngine
from parfocal.distribute.processes import ProcessWorkers
from parfocal.distribute.stopping import StoppedEarly
from parfocal.distribute.worklist import Distribution
from parfocal.train import train


@pytest.fixture
def folds(settings):
    return replace(settings, train=replace(settings.train, folds=2, epochs=2))


def weights_of(run):
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob("fold-*/*.safetensors"))
    }


@pytest.mark.slow
def test_two_processes_train_the_folds(cohort, folds, tmp_path):
    features = tmp_path / "features"
    one = train(cohort, folds, tmp_path / "one", features=features, device="cpu")
    engine = WorkerEngine(ProcessWorkers(2), threads=1)
    two = train(
        cohort,
        folds,
        tmp_path / "two",
        features=features,
        device="cpu",
        distribution=Distribution(engine=engine),
    )
    assert len(two.folds) == 2
    assert two.quality == one.quality
    assert weights_of(tmp_path / "two") == weights_of(tmp_path / "one")
    assert len(weights_of(tmp_path / "one")) == 2


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_ends_at_the_next_epoch_and_is_resumed(
    cohort, settings, tmp_path, monkeypatch
):
    features, out = tmp_path / "features", tmp_path / "run"
    settings = replace(settings, train=replace(settings.train, epochs=3))
    with monkeypatch.context() as patched:
        patched.setattr(stopping._requested, "is_set", lambda: True)
        with pytest.raises(StoppedEarly, match=r"run has 1 complete epochs; run the same command"):
            train(cohort, settings, out, features=features, device="cpu")
    resumed = train(cohort, settings, out, features=features, device="cpu", resume=True)
    whole = train(cohort, settings, tmp_path / "whole", features=features, device="cpu")
    assert resumed.quality == whole.quality
    assert (out / "checkpoint.safetensors").read_bytes() == (
        tmp_path / "whole" / "checkpoint.safetensors"
    ).read_bytes()
