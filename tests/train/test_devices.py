"""Training on several devices: what is refused, how failures are reported, and equal results."""

import csv
import logging
import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from parfocal.cli import main
from parfocal.cli.submit import gpus_of_devices
from parfocal.dataset import read_cohort
from parfocal.dataset.cohort import CohortSlide
from parfocal.distribute import stopping
from parfocal.distribute.stopping import StoppedEarly
from parfocal.settings import SettingsError, load_settings
from parfocal.train import RunError, devices, train
from parfocal.train.devices import RankEnd, _RankProcess, _watch, refuse_missing_devices
from parfocal.train.epoch_share import EpochShare
from parfocal.train.folder import RunFolder
from parfocal.train.run import prepare_training
from parfocal.train.validation import ValidationOutput
from train_features import write_features


@pytest.mark.parametrize(
    ("recipe", "flags", "reason"),
    [
        (
            "magnet-3",
            {"train.batch_size": 1},
            r"train.devices=2: the devices share each batch, and train.batch_size=1 is less",
        ),
        (
            "magnet-3",
            {"train.batch_size": 4, "train.per": "patient", "train.fusion": "mean"},
            r"train.devices=2: with train.per=patient, model magnet runs on the slides of one",
        ),
        (
            "abmil",
            {"train.accumulate_grad_batches": 1},
            r"trains on one slide at a time, and a step has train.accumulate_grad_batches=1, less",
        ),
        (
            "abmil",
            {"train.task": "survival", "train.time": "t", "train.event": "e"},
            r"the loss of task survival compares the slides of a step .* train it on one device",
        ),
    ],
)
def test_a_training_that_devices_cannot_share_is_refused(recipe, flags, reason):
    with pytest.raises(SettingsError, match=reason):
        load_settings(recipe, flags={**flags, "train.devices": 2})


def test_more_processes_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    refuse_missing_devices(3, torch.device("cpu"))
    with pytest.raises(
        RunError, match=r"devices=4: on a CPU.* this process may use 3; set it to 3"
    ):
        refuse_missing_devices(4, torch.device("cpu"))


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Card {number}")
    refuse_missing_devices(2, torch.device("cuda"))
    with pytest.raises(RunError, match=r"has 2 CUDA devices \(Card 0, Card 1\); set it to 2\."):
        refuse_missing_devices(4, torch.device("cuda"))
    with pytest.raises(RunError, match="--device cuda:1 is one device; use --device cuda for the"):
        refuse_missing_devices(2, torch.device("cuda:1"))


def test_the_shares_of_an_epoch_are_joined_in_the_order_of_the_slides():
    slides = [CohortSlide(name, Path(f"{name}.svs"), "ill", name, 2) for name in "abc"]
    outputs = [ValidationOutput(each, torch.zeros(2), torch.tensor(0)) for each in slides]
    first = EpochShare([1.0, 2.0], [outputs[0], outputs[2]], 3, {"x": "torn"}, False)
    second = EpochShare([4.0], [outputs[1]], 5, {}, True)
    joined = first.joined([second], slides)
    assert joined == EpochShare([1.0, 2.0, 4.0], outputs, 8, {"x": "torn"}, True)


def stand_ins(*messages):
    """Return processes that have sent some messages, or ended if they sent none."""
    processes = []
    for rank, sent in enumerate(messages):
        ours, theirs = multiprocessing.Pipe()
        process = object.__new__(_RankProcess)
        process.rank, process.device, process.connection = rank, "cpu", ours
        process.process = SimpleNamespace(
            pid=None, exitcode=-signal.SIGKILL, join=lambda timeout: None, is_alive=lambda: True
        )
        for message in sent:
            theirs.send(message)
        if not sent:
            theirs.close()
        process.kept = theirs
        processes.append(process)
    return processes


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(devices, "GRACE_S", 0.01)
    monkeypatch.setattr(devices, "POLL_S", 0.01)


def test_the_cause_is_reported_and_not_that_the_others_lost_a_partner(folder):
    lost = RankEnd(error=RuntimeError("Connection closed by peer"))
    cause = RankEnd(error=RunError("slide 3 cannot be read"))
    with pytest.raises(RunError, match="slide 3 cannot be read"):
        _watch(stand_ins([lost], [cause]), folder)


def test_a_process_that_is_killed_ends_the_training_with_one_line(folder):
    lost = RankEnd(error=RuntimeError("Connection closed by peer"))
    reason = r"run: process 2 of 2 \(cpu\): its process was killed by SIGKILL\. It may need more"
    with pytest.raises(RunError, match=reason):
        _watch(stand_ins([lost], []), folder)


def test_a_process_that_was_asked_to_stop_stops_the_command(folder):
    with pytest.raises(StoppedEarly, match="2 complete epochs"):
        _watch(stand_ins([RankEnd(stopped="2 complete epochs")], [RankEnd()]), folder)


def test_a_process_that_a_request_to_stop_kills_before_it_is_ready_has_not_failed(
    folder, monkeypatch
):
    monkeypatch.setattr(stopping._requested, "is_set", lambda: True)
    with pytest.raises(StoppedEarly, match="run was not yet in training; run the same command"):
        _watch(stand_ins([], []), folder)


def test_devices_and_workers_exclude_each_other(tmp_path, monkeypatch, capsys):
    table = tmp_path / "cohort.csv"
    table.write_text("slide_id,path,label\n")
    words = ["train", str(table), "--out", str(tmp_path / "run"), "--model", "magnet-3"]
    words += ["--devices", "2", "--workers", "2", "--ray", "off", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["parfocal", *words])
    with pytest.raises(SystemExit):
        main()
    assert "--devices 2 trains one model after the other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("devices", "device", "gpus"), [(None, "auto", None), (2, "auto", "0,1"), (2, "cpu", None)]
)
def test_a_job_gets_a_gpu_for_each_device(devices, device, gpus):
    assert gpus_of_devices(devices, device) == gpus


def test_what_the_first_process_logs_is_logged_here(folder, caplog):
    record = logging.LogRecord("parfocal.train", logging.INFO, "", 0, "epoch 1", (), None)
    caplog.set_level(logging.INFO, logger="parfocal")
    with pytest.raises(AssertionError):  # the first process sends a summary
        _watch(stand_ins([record, RankEnd()], [RankEnd()]), folder)
    assert caplog.messages == ["epoch 1"]


def painted(folder):
    """Write slides, half of them with a dark square; the batches of an epoch are uneven."""
    rng, rows = np.random.default_rng(0), ["slide_id,path,label,mpp,split"]
    for number in range(11):
        pixels = np.full((256, 256, 3), (210, 120, 180), dtype=np.uint8)
        pixels += rng.integers(0, 20, pixels.shape, dtype=np.uint8)
        if number % 2:
            x, y = rng.integers(0, 160, 2).tolist()
            pixels[y : y + 96, x : x + 96] //= 2
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "train" if number < 5 else "val" if number < 8 else "test"
        rows.append(f"{number},{number}.png,{('well', 'ill')[number % 2]},1,{split}")
    (folder / "cohort.csv").write_text("\n".join(rows))
    return read_cohort(folder / "cohort.csv", labels=("well", "ill"))


def weights_of(folder):
    return safetensors.torch.load_file(folder / "checkpoint.safetensors")


MAGNET = {
    "slide.tissue_method": "all",
    "model.patches": [2, 2],
    "model.picture_px": 28,
    "model.leaf_px": 32,
    "model.sampler": "bilinear",  # draws no random numbers
    "model.hindsight": 0.0,
    "model.backbone": "efficientnet-lite0-stem",
    "model.auxiliary_backbone": "small",
    "model.hidden_dim": 16,
    "train.labels": ["well", "ill"],
    "train.batch_size": 4,
    "train.augment": False,
    "train.epochs": 1,
}


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(tmp_path):
    cohort = painted(tmp_path)
    for count in (1, 2):
        settings = load_settings("magnet-3", flags={**MAGNET, "train.devices": count})
        train(cohort, settings, tmp_path / f"on-{count}", device="cpu", progress=False)
    one, two = weights_of(tmp_path / "on-1"), weights_of(tmp_path / "on-2")
    for name, weight in one.items():  # Adam makes large steps of small differences
        torch.testing.assert_close(two[name], weight, rtol=1e-2, atol=5e-4, msg=name)
    first, second = (
        next(csv.DictReader((tmp_path / f"on-{count}" / "metrics.csv").read_text().splitlines()))
        for count in (1, 2)
    )
    for name in ("train_loss", "val_loss"):
        assert float(second[name]) == pytest.approx(float(first[name]), rel=1e-5)


@pytest.fixture
def bags(tmp_path):
    """Return a cohort of stored features, and settings of a model without random numbers."""
    rows, rng = ["slide_id,path,label"], np.random.default_rng(0)
    for number in range(20):
        label = ("ill", "well")[number % 2]
        rows.append(f"{number:03d},{number:03d}.svs,{label}")
        write_features(tmp_path / "features", f"{number:03d}", rng, 1 if label == "ill" else -1)
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    flags = {
        "slide.patch_size": 16,
        "slide.magnifications": "5",
        "encoder.name": "tiny",
        "model.dropout": 0.0,
        "train.epochs": 2,
        "train.accumulate_grad_batches": 3,
        "train.learning_rate": 0.01,
    }
    return read_cohort(tmp_path / "cohort.csv"), load_settings("abmil", flags=flags)


def on(count, settings, **changes):
    return replace(settings, train=replace(settings.train, devices=count, **changes))


def test_devices_are_counted_by_the_command_and_not_by_each_process(bags, tmp_path, monkeypatch):
    cohort, settings = bags
    monkeypatch.setattr(devices, "available_cores", lambda: 1)
    prepare = partial(
        prepare_training,
        *(cohort, on(2, settings), tmp_path / "run"),
        features=tmp_path / "features",
        device="cpu",
        progress=False,
    )
    with pytest.raises(RunError, match="this process may use 1; set it to 1"):
        prepare()
    checked = (
        prepare_training(
            *(cohort, settings, tmp_path / "run"), features=tmp_path / "features", device="cpu"
        )
        .runs[0]
        .checks.results
    )
    assert len(prepare(checked=checked).runs) == 1


def test_a_run_may_be_continued_on_another_number_of_devices(folder):
    settings = load_settings("magnet-3")
    folder.start(settings, "slides")
    folder.check(on(2, settings), "slides", resume=True)
    with pytest.raises(RunError, match=r"has train\.seed 0, not 1. To continue it, use the same"):
        folder.check(on(2, settings, seed=1), "slides", resume=True)


def handle_stops():
    """Return whether both processes are ready to be asked to stop."""
    children = [each for each in multiprocessing.active_children() if each.pid is not None]
    ready = 0
    for child in children:
        with suppress(OSError):  # it has ended
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            caught = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
            ready += int(caught, 16) >> (signal.SIGUSR1 - 1) & 1
    return ready == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bags_are_dealt_to_two_processes_and_a_run_may_be_resumed_on_one(bags, tmp_path):
    cohort, settings = bags
    options = {"features": tmp_path / "features", "device": "cpu", "progress": False}
    train(cohort, on(1, settings), tmp_path / "one", **options)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stopping._requested, "is_set", handle_stops)
        with pytest.raises(StoppedEarly, match="has 1 complete epochs"):
            train(cohort, on(2, settings), tmp_path / "two", **options)
    train(cohort, on(1, settings), tmp_path / "two", resume=True, **options)
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_killed_process_ends_the_command_with_one_line(bags, tmp_path, monkeypatch):
    cohort, settings = bags
    started = []
    usual = _RankProcess.__init__

    def start(self, plan, rank):
        usual(self, plan, rank)
        started.append(self.process.pid)
        if rank == 1:
            time.sleep(1)
            os.kill(self.process.pid, signal.SIGKILL)

    monkeypatch.setattr(_RankProcess, "__init__", start)
    with pytest.raises(
        RunError, match=r"process 2 of 2 \(cpu\): its process was killed by SIGKILL"
    ):
        train(
            *(cohort, on(2, settings), tmp_path / "run"),
            features=tmp_path / "features",
            device="cpu",
            progress=False,
        )
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
