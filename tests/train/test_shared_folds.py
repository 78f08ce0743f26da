"""Several processes train the folds of one cross-validation."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from parfocal.distribute.shards import Shard, ShardEndedError
from parfocal.distribute.worklist import Distribution
from parfocal.models.checkpoint import Checkpoint
from parfocal.train import RunError, train
from parfocal.train.training_run import TrainingRun

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def folds(settings):
    return replace(settings, train=replace(settings.train, folds=2, epochs=1))


def run_training(cohort, settings, out: Path, **options: object):
    features = cohort.source.parent / "features"
    return train(cohort, settings, out, features=features, device="cpu", progress=False, **options)


def weights(out: Path) -> list[str]:
    return [Checkpoint.load(out / f"fold-{number}").weights_hash for number in range(2)]


@pytest.mark.slow
def test_two_processes_share_the_folds_and_each_returns_all(cohort, folds, tmp_path, monkeypatch):
    usual = TrainingRun.train

    def noted(run: TrainingRun, *, resume: bool):
        with (tmp_path / "trained").open("a") as file:
            file.write(f"{run.folder.path.name}\n")
        return usual(run, resume=resume)

    monkeypatch.setattr(TrainingRun, "train", noted)
    scores = FORK.Queue()

    def command() -> None:
        summary = run_training(cohort, folds, tmp_path / "shared")
        scores.put([fold.val_weighted_f1 for fold in summary.folds])

    processes = [FORK.Process(target=command) for _ in range(2)]
    for process in processes:
        process.start()
    results = [scores.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    assert sorted((tmp_path / "trained").read_text().split()) == ["fold-0", "fold-1"]
    alone = run_training(cohort, folds, tmp_path / "alone")
    assert results == [[fold.val_weighted_f1 for fold in alone.folds]] * 2
    assert weights(tmp_path / "shared") == weights(tmp_path / "alone")
    assert (tmp_path / "shared" / "report.html").exists()


def test_the_shard_that_ends_last_writes_the_summary(cohort, folds, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ShardEndedError, match="shard 2/2 has ended: 1 of 2 folds are done"):
        run_training(cohort, folds, out, distribution=Distribution(Shard(1, 2)))
    assert not (out / "summary.json").exists()
    other = replace(folds, train=replace(folds.train, learning_rate=0.5))
    with pytest.raises(RunError, match=r"train\.learning_rate"):
        run_training(cohort, other, out)
    shard = Distribution(Shard(0, 2))
    summary = run_training(cohort, folds, out, distribution=shard)
    assert len(summary.folds) == 2
    assert (out / "summary.json").exists()
    hashes = weights(out)
    assert run_training(cohort, folds, out) == summary  # started again, it reports what is there
    assert weights(out) == hashes
