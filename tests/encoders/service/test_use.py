"""Commands with an encoder elsewhere: the same features, predictions and bills as with it here."""

import json
import logging
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.encoders.service.services import (
    QUICK,
    Request,
    ScriptedService,
    description,
    scripted,
    served,
)

from command_result import CommandResult
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.service import client
from parfocal.encoders.service.protocol import features_body, parse_patches
from parfocal.models.checkpoint import Checkpoint, CheckpointError
from parfocal.models.encoder_places import with_encoders_at
from parfocal.predict.slide import predict
from small import write_table

Run = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    """A folder with a cohort of two slides."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(2):
        path = write_slide(folder / f"{number}.tif", dark=number == 1, seed=number)
        rows.append((str(number), path.name, ("normal", "tumor")[number]))
    write_table(folder / "cohort.csv", ("slide_id", "path", "label"), *rows)
    return folder


def extract(parfocal: Run, place: Path, encoder: str, out: Path) -> CommandResult:
    return parfocal(
        *("extract", place / "cohort.csv", "--out", out, "--encoder", encoder),
        *("--magnifications", "5", "--patch-size", "64"),
    )


def test_extracted_features_are_those_of_the_encoder_here_and_mix_with_them(
    parfocal: Run, place: Path, address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    assert extract(parfocal, place, "tiny", tmp_path / "here").code == 0
    caplog.set_level(logging.INFO)
    result = extract(parfocal, place, address, tmp_path / "there")
    assert result.code == 0, result.err
    assert f"tiny: patches are sent to {address}" in caplog.text
    for name in ("0.h5", "1.h5"):
        with (
            h5py.File(tmp_path / "here" / name) as here,
            h5py.File(tmp_path / "there" / name) as there,
        ):
            np.testing.assert_allclose(
                there["5x/features"][:], here["5x/features"][:], rtol=1e-3, atol=1e-4
            )
            assert (there.attrs["encoder_name"], there.attrs["encoder_address"]) == (
                *("tiny", address),
            )
    (tmp_path / "there" / "1.h5").unlink()
    mixed = extract(parfocal, place, "tiny", tmp_path / "there")
    assert mixed.out.startswith("1 slide extracted, 1 already")


def test_a_run_uses_the_service_that_it_was_trained_with(
    untrained: Checkpoint, place: Path, address: str, tmp_path: Path
):
    encoders = tuple(replace(each, address=address) for each in untrained.encoders)
    elsewhere = replace(untrained, encoders=encoders)
    elsewhere.save(tmp_path / "run")
    loaded = Checkpoint.load(tmp_path / "run")
    assert loaded.encoders[0].address == address
    assert loaded.settings_hash == untrained.settings_hash
    here, there = predict(place / "1.tif", untrained), predict(place / "1.tif", loaded)
    assert there.probabilities == pytest.approx(here.probabilities, abs=1e-4)
    assert there.cost.macs == here.cost.macs
    assert there.cost.patches == here.cost.patches
    assert there.cost.share_macs == here.cost.share_macs


@pytest.mark.slow
def test_the_encoder_of_a_run_may_move(
    parfocal: Run, untrained: Checkpoint, place: Path, address: str, tmp_path: Path
):
    gone = tuple(replace(each, address="http://127.0.0.1:1/") for each in untrained.encoders)
    replace(untrained, encoders=gone).save(tmp_path / "run")
    labels = []
    for number, where in enumerate((address, "here", f"10={address},2.5=here")):
        out = tmp_path / str(number)
        result = parfocal(
            *("predict", tmp_path / "run", place / "1.tif", "--out", out, "--encoder-at", where)
        )
        assert result.code == 0, result.err
        labels.append(json.loads((out / "1.json").read_text())["prediction"]["label"])
    assert len(set(labels)) == 1
    (tmp_path / "run" / "split.csv").write_text("slide_id,patient_id,label,split\n")
    evaluated = parfocal(
        *("evaluate", tmp_path / "run", place / "cohort.csv", "--out", tmp_path / "scores"),
        *("--encoder-at", address),
    )
    assert evaluated.code == 0, evaluated.err
    result = parfocal(
        *("predict", tmp_path / "run", place / "1.tif", "--out", tmp_path / "x"),
        *("--encoder-at", f"20={address}"),
    )
    assert "the model has no magnification 20; it has 2.5, 10" in result.err


def test_weights_may_move_too(untrained: Checkpoint, tmp_path: Path):
    moved = with_encoders_at(untrained, {10.0: str(tmp_path / "tiny.pth")})
    assert moved.encoder_weights == (None, tmp_path / "tiny.pth")
    assert with_encoders_at(moved, "here").encoder_weights == ()
    pixels = replace(untrained, model_name="jsma", encoders=())
    with pytest.raises(CheckpointError, match="takes pixels and has no encoder"):
        with_encoders_at(pixels, "here")


def test_a_run_refuses_a_service_with_other_weights(
    untrained: Checkpoint, address: str, tmp_path: Path
):
    encoders = tuple(
        replace(each, address=address, weights_hash="other") for each in untrained.encoders
    )
    with pytest.raises(CheckpointError, match="trained with weights_hash other"):
        replace(untrained, encoders=encoders).load_encoders()


@pytest.fixture
def silent() -> Iterator[ScriptedService]:
    """A service with the features of `tiny` that does not report its MACs."""
    tiny = load_encoder("tiny")

    def answer(request: Request) -> tuple[int, dict[str, str], bytes]:
        if request.method == "GET":
            return 200, {}, description(macs_per_patch=None).to_json()
        body = features_body(tiny(parse_patches(request.body)))
        return 200, {"X-Weights-Hash": "random-seed-0"}, body

    with scripted() as service:
        service.answer = answer
        yield service


@pytest.mark.slow
def test_unknown_macs_are_shown_as_unknown(
    parfocal: Run, untrained: Checkpoint, place: Path, tmp_path: Path, silent: ScriptedService
):
    encoders = tuple(replace(each, address=silent.address) for each in untrained.encoders)
    replace(untrained, encoders=encoders).save(tmp_path / "run")
    result = parfocal("predict", tmp_path / "run", place / "1.tif", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "MACs unknown" in result.out
    cost = json.loads((tmp_path / "out" / "1.json").read_text())["cost"]
    assert (cost["macs"], cost["share_macs"], cost["exhaustive"]["macs"]) == (None, None, None)
    again = parfocal("predict", tmp_path / "run", place / "1.tif", "--out", tmp_path / "out")
    assert "MACs unknown" in again.out  # read from the file
    (tmp_path / "run" / "split.csv").write_text("slide_id,patient_id,label,split\n")
    out = tmp_path / "evaluation"
    evaluated = parfocal("evaluate", tmp_path / "run", place / "cohort.csv", "--out", out)
    assert evaluated.code == 0, evaluated.err
    assert json.loads((out / "metrics.json").read_text())["cost"]["macs"] is None
    assert "unknown" in (out / "report.html").read_text()


def test_a_service_that_stops_ends_the_batch_in_one_line(
    parfocal: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client, "Patience", lambda: QUICK)
    with served() as address:
        pass
    result = extract(parfocal, place, address, tmp_path / "out")
    assert result.code == 1
    assert "it cannot be reached (Connection refused)" in result.err.splitlines()[-1]


def test_a_service_chooses_its_weights_and_its_output(address: str):
    with pytest.raises(ValueError, match="has weights of its own"):
        load_encoder(address, weights=Path("uni.pth"))
    with pytest.raises(ValueError, match="the service returns 'pooled', not 'cls'"):
        load_encoder(address, output="cls")
    assert load_encoder(address, output="pooled").spec.dim == 32


def test_the_command_serves_an_encoder_until_it_is_stopped():
    program = (  # a shell's background jobs ignore Ctrl-C
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from parfocal.cli import main; main()"
    )
    command = [sys.executable, "-u", "-c", program, "serve-encoder", "tiny", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = line.split()[2]
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert json.load(answer)["encoder"]["name"] == "tiny"
            server.send_signal(signal.SIGINT)
            server.wait(60)
        finally:
            server.kill()
    assert line == f"tiny at {address} (press Ctrl-C to stop)\n"
    assert server.returncode == 0
