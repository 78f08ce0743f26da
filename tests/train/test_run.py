import csv
import io
import json
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from parfocal.dataset import read_cohort, read_split
from parfocal.dataset.inputs import StoredInputs
from parfocal.features.store import FeatureFile, feature_path
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import Loss
from parfocal.models.zoommil import ZoomMIL
from parfocal.prediction import Prediction
from parfocal.progress import ERASE_LINE, ProgressHandler
from parfocal.settings import RunSettings, load_settings
from parfocal.settings.sections import TrainSettings
from parfocal.train import RunError, RunSummary, train
from parfocal.train.run import make_splits
from small import write_table


def with_train(settings: RunSettings, **train_settings: object) -> RunSettings:
    return replace(settings, train=replace(settings.train, **train_settings))


def metrics(folder: Path, name: str = "metrics") -> list[dict[str, str]]:
    """Return the metrics of each epoch without the wall-clock time."""
    with (folder / f"{name}.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in csv.DictReader(file)
        ]


def run_training(cohort, settings, out: Path, **options: object) -> RunSummary:
    features = cohort.source.parent / "features"
    return train(cohort, settings, out, features=features, device="cpu", progress=False, **options)


@pytest.fixture(scope="module")
def finished(toy_cohort, settings, tmp_path_factory) -> RunSummary:
    """A finished run, which no test changes."""
    return run_training(toy_cohort, settings, tmp_path_factory.mktemp("finished"))


def test_a_run_folder_holds_the_documented_files(finished):
    run = finished.out
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.json",
        "checkpoint.safetensors",
        "failed.csv",
        "metrics.csv",
        "report.html",
        "settings.yaml",
        "split.csv",
        "summary.json",
    ]
    resolved = yaml.safe_load((run / "settings.yaml").read_text())
    assert resolved["train"]["labels"] == ["ill", "well"]
    assert resolved["model"]["num_samples"] == 100
    assert len(read_split(run / "split.csv")) == 20
    assert [row["epoch"] for row in metrics(run)] == ["1", "2", "3", "4"]
    assert json.loads((run / "summary.json").read_text())["epochs"] == finished.epochs == 4


def test_a_checkpoint_has_the_fingerprints_of_its_slides(toy_cohort, finished):
    training = Checkpoint.load(finished.out).training
    used = {slide_id for part in training.slides.values() for slide_id in part}
    features = toy_cohort.source.parent / "features"
    files = {slide_id: FeatureFile(feature_path(features, slide_id)) for slide_id in used}
    assert training.fingerprints == {name: file.fingerprint for name, file in files.items()}


def test_a_failed_report_does_not_fail_the_run(cohort, settings, tmp_path, monkeypatch, caplog):
    def broken(*arguments: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("parfocal.train.prepared.write_report", broken)
    out = tmp_path / "run"
    assert run_training(cohort, with_train(settings, epochs=1), out).out == out
    assert Checkpoint.load(out).labels == ("ill", "well")
    again = f"To try again: parfocal report {out} --out {out / 'report.html'}"
    assert (
        f"could not be written (OSError: no room); all other results are complete. {again}"
        in caplog.text
    )
    assert not (out / "report.html").exists()


def test_a_checkpoint_is_enough_for_prediction(toy_cohort, settings, finished):
    trained = Checkpoint.load(finished.out)
    assert trained.labels == ("ill", "well")
    assert trained.slide == settings.slide
    assert trained.training.epoch == finished.best_epoch
    parts = {row.slide_id: row.split for row in read_split(finished.out / "split.csv")}
    assert {parts[slide_id] for slide_id in trained.training.slides["train"]} == {"train"}
    inputs = StoredInputs(
        toy_cohort.source.parent / "features", trained.slide, encoder=trained.encoders
    )
    with inputs.open(toy_cohort.slides[0]) as slide_input, torch.no_grad():
        prediction = trained.model(slide_input.model_input)
        assert prediction.logits.shape == (2,)
        look = slide_input.locate(prediction.looks)[1]
        assert look.places.boxes[0, 2:].tolist() == [64, 64]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_labels_that_need_zooming_are_learned(cohort, settings, tmp_path, seed):
    longer = with_train(settings, epochs=8, seed=seed, test_fraction=0.2)
    run_training(cohort, longer, tmp_path / "run")
    trained = Checkpoint.load(tmp_path / "run")
    inputs = StoredInputs(tmp_path / "features", trained.slide, encoder=trained.encoders)
    test = {row.slide_id for row in read_split(tmp_path / "run/split.csv") if row.split == "test"}
    assert len(test) == 4
    for slide in cohort.slides:
        if slide.slide_id in test:
            with inputs.open(slide) as slide_input, torch.no_grad():
                predicted = trained.model(slide_input.model_input).logits.argmax()
            assert trained.labels[predicted] == slide.label


def test_equal_seeds_give_equal_runs_and_different_seeds_different_ones(cohort, settings, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split = with_train(settings, seed=seed, epochs=2)
        torch.manual_seed(seed + len(name))  # earlier draws have no effect
        run_training(cohort, split, tmp_path / name)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    hashes = [Checkpoint.load(tmp_path / name).weights_hash for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_training_does_not_change_the_global_random_state(cohort, settings, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run_training(cohort, with_train(settings, epochs=1), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_training_treats_denormal_numbers_as_zero(cohort, settings, tmp_path, monkeypatch):
    def product() -> float:
        return float(torch.tensor(2e-38) * 0.01)

    products, forward = [], ZoomMIL.forward

    def recorded(model: ZoomMIL, *given: object, **named: object) -> object:
        if model.training:
            products.append(product())
        return forward(model, *given, **named)

    monkeypatch.setattr(ZoomMIL, "forward", recorded)
    run_training(cohort, with_train(settings, epochs=1), tmp_path / "run")
    supported = torch.set_flush_denormal(False)
    assert products
    assert set(products) == {0.0 if supported else product()}
    assert product() > 0


def test_a_run_stops_without_improvement(cohort, settings, tmp_path):
    still = with_train(settings, epochs=20, patience=2, learning_rate=1e-12)
    summary = run_training(cohort, still, tmp_path / "run")
    assert summary.best_epoch is not None
    assert summary.epochs == summary.best_epoch + 2 < 20


def test_the_rate_falls_when_the_loss_stops_improving(cohort, settings, tmp_path):
    still = with_train(settings, epochs=4, learning_rate=1e-6, lr_patience=0, lr_factor=0.5)
    run_training(cohort, still, tmp_path / "run")
    rates = [float(row["learning_rate"]) for row in metrics(tmp_path / "run")]
    assert rates[0] == 1e-6
    assert rates[-1] < 1e-6


@pytest.mark.slow
def test_a_refit_trains_on_validation_slides_for_the_best_number_of_epochs(
    cohort, settings, tmp_path
):
    summary = run_training(cohort, with_train(settings, refit=True, epochs=3), tmp_path / "run")
    again = metrics(tmp_path / "run", "refit")
    first = metrics(tmp_path / "run")
    assert summary.best_epoch is not None
    assert len(again) == summary.best_epoch
    assert [row["val_loss"] for row in again] == [""] * len(again)
    rates = [row["learning_rate"] for row in again]
    assert rates == [row["learning_rate"] for row in first[: len(again)]]
    trained = Checkpoint.load(tmp_path / "run")
    assert trained.training.refit
    run_training(cohort, with_train(settings, epochs=3), tmp_path / "plain")
    assert trained.weights_hash != Checkpoint.load(tmp_path / "plain").weights_hash


def test_folds_are_runs_of_their_own(cohort, settings, tmp_path):
    summary = run_training(cohort, with_train(settings, folds=3, epochs=1), tmp_path / "run")
    assert len(summary.folds) == 3
    tested = []
    for fold in range(3):
        Checkpoint.load(tmp_path / f"run/fold-{fold}")
        rows = read_split(tmp_path / f"run/fold-{fold}/split.csv")
        tested += [row.slide_id for row in rows if row.split == "test"]
    assert sorted(tested) == [slide.slide_id for slide in cohort.slides]
    assert json.loads((tmp_path / "run/summary.json").read_text())["epochs"] == 3


def test_gradients_are_accumulated_over_slides(cohort, settings, tmp_path):
    run_training(
        cohort, with_train(settings, epochs=1, accumulate_grad_batches=4), tmp_path / "four"
    )
    run_training(cohort, with_train(settings, epochs=1), tmp_path / "one")
    hashes = [Checkpoint.load(tmp_path / name).weights_hash for name in ("four", "one")]
    assert hashes[0] != hashes[1]


def test_an_epoch_is_a_line_in_the_log(cohort, settings, tmp_path, caplog):
    caplog.set_level(logging.INFO, "parfocal")
    run_training(cohort, with_train(settings, epochs=1), tmp_path / "run")
    (line,) = re.findall(r"epoch 1 of 1: .*", caplog.text)
    number = r"[01]\.\d{3}"
    scores = f"loss {number}, validation loss {number}, weighted F1 {number}, macro AUROC {number}"
    assert re.fullmatch(rf"epoch 1 of 1: {scores}, \d+\.\d s", line)  # nothing was encoded
    assert not [record for record in caplog.records if "lightning" in record.name]


def test_a_model_of_one_magnification_is_trained_by_the_same_loop(cohort, settings, tmp_path):
    mean = load_settings(
        "mean", overrides=["slide.patch_size=16", "encoder.name=tiny", "train.epochs=1"]
    )
    mean = replace(mean, slide=replace(mean.slide, magnifications=(5.0,)))
    run_training(cohort, mean, tmp_path / "run")
    assert Checkpoint.load(tmp_path / "run").model_name == "mean"


def test_a_model_with_a_loss_of_its_own_is_trained_by_it(cohort, settings, tmp_path, monkeypatch):
    def nothing(self: ZoomMIL, prediction: Prediction, target: Tensor, loss: Loss) -> Tensor:
        return 0 * prediction.logits.sum()

    monkeypatch.setattr(ZoomMIL, "objective", nothing, raising=False)
    run_training(cohort, with_train(settings, epochs=1), tmp_path / "run")
    assert metrics(tmp_path / "run")[0]["train_loss"] == "0.0"


def test_the_progress_is_set_before_each_epoch(cohort, settings, tmp_path, monkeypatch):
    fractions = []
    monkeypatch.setattr(ZoomMIL, "set_progress", lambda self, fraction: fractions.append(fraction))
    run_training(cohort, with_train(settings, epochs=4), tmp_path / "run")
    assert fractions == [0, 0.25, 0.5, 0.75]


def test_an_infinite_loss_stops_the_run(cohort, settings, tmp_path, monkeypatch):
    def endless(self: ZoomMIL, prediction: Prediction, target: Tensor, loss: Loss) -> Tensor:
        return prediction.logits.sum() / 0

    monkeypatch.setattr(ZoomMIL, "objective", endless, raising=False)
    with pytest.raises(
        RunError, match=r"epoch 1: the loss is .*; lower train\.learning_rate \(0.0"
    ):
        run_training(cohort, settings, tmp_path / "run")


def test_a_folder_in_use_is_refused(cohort, settings, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").touch()
    with pytest.raises(RunError, match=r"the folder is not empty\. Use another --out, or --resume"):
        run_training(cohort, settings, tmp_path / "run")
    with pytest.raises(RunError, match=r"there is no run in it to continue\. Give the --out of"):
        run_training(cohort, settings, tmp_path / "run", resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_full_disk_while_tensorboard_writes_is_reported_once(
    cohort, settings, tmp_path, monkeypatch, capsys
):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(OSError, match="No space left on device"):
        run_training(cohort, with_train(settings, logger="tensorboard"), tmp_path / "run")
    assert capsys.readouterr().err == ""


def test_a_bar_counts_the_slides_of_an_epoch_and_gives_way_to_its_numbers(
    cohort, settings, tmp_path, monkeypatch, caplog
):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    caplog.set_level(logging.INFO, "parfocal")
    monkeypatch.setattr(logging.getLogger(), "handlers", [ProgressHandler()])
    features = cohort.source.parent / "features"
    train(cohort, with_train(settings, epochs=2), tmp_path / "run", features=features, device="cpu")
    drawn = terminal.getvalue()
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        bar, line = f"epoch {row['epoch']} of 2 ", f"epoch {row['epoch']} of 2: loss "
        assert drawn.count(f"{ERASE_LINE}{line}{float(row['train_loss']):.3f}, ") == 1
        assert drawn.rindex(f"{bar}1/") < drawn.index(line)
        assert "slides/min" in drawn
    assert "it/s" not in drawn


def test_training_does_not_import_tensorboard(cohort, settings, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    run_training(cohort, with_train(settings, epochs=1), tmp_path / "run")
    assert "tensorboard" not in sys.modules


@pytest.mark.slow
def test_random_budgets_train_on_partial_bags_the_same_for_equal_seeds(cohort, settings, tmp_path):
    partial = with_train(settings, epochs=2, random_budgets=True)
    for name, each in (("a", partial), ("b", partial), ("c", with_train(settings, epochs=2))):
        run_training(cohort, each, tmp_path / name)
    hashes = [Checkpoint.load(tmp_path / name).weights_hash for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_table_with_the_parts_of_each_fold_gives_its_splits(tmp_path: Path):
    rows = [
        (
            f"s{n}",
            f"s{n}.svs",
            "ab"[n % 2],
            *(("train", "val", "test")[(n // 2 + k) % 3] for k in (0, 1)),
        )
        for n in range(6)
    ]
    table = write_table(
        tmp_path / "c.csv", ("slide_id", "path", "label", "fold_0", "fold_1"), *rows
    )
    splits = make_splits(read_cohort(table), TrainSettings())
    assert [[slide.slide_id for slide in split.test] for split in splits] == [
        ["s4", "s5"],
        ["s2", "s3"],
    ]
