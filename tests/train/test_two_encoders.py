"""Runs with an encoder for each magnification, from training to the report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from parfocal.audit import audit
from parfocal.dataset import Cohort, read_cohort
from parfocal.encoders.loading import load_encoder
from parfocal.evaluate.run import evaluate
from parfocal.explain.read_record import read_prediction
from parfocal.features.errors import MixedFeaturesError
from parfocal.features.extract import extract_cohort
from parfocal.models.checkpoint import Checkpoint, CheckpointError
from parfocal.predict.folder import predict_slides
from parfocal.predict.slide import predict
from parfocal.settings import EncoderSettings, RunSettings
from parfocal.train import RunError, train

NAMES = {5.0: "efficientnet-lite0", 20.0: "tiny"}
TEXT = "5=efficientnet-lite0,20=tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the table, of the cache and of the run, which no test changes."""
    return tmp_path_factory.mktemp("two-encoders")


@pytest.fixture(scope="module")
def painted(folder: Path) -> Cohort:
    """Small slides with a block of tissue, with stripes for label ill."""
    rng = np.random.default_rng(0)
    rows = ["slide_id,path,label,mpp,split"]
    for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        pixels = np.full((160, 160, 3), 245, dtype=np.uint8)
        pixels[16:144, 16:144] = (200, 90, 150)
        pixels[16:144, 16:144] += rng.integers(0, 30, (128, 128, 3), dtype=np.uint8)
        if number % 2:
            pixels[16:144:4, 16:144] = (90, 40, 120)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number},{number}.png,{('well', 'ill')[number % 2]},0.5,{split}")
    (folder / "painted.csv").write_text("\n".join(rows))
    return read_cohort(folder / "painted.csv")


@pytest.fixture(scope="module")
def live(settings: RunSettings) -> RunSettings:
    slide = replace(settings.slide, magnifications=(5.0, 20.0))
    encoder = EncoderSettings(name=NAMES)
    quick = replace(settings.train, epochs=2)
    return replace(settings, slide=slide, encoder=encoder, train=quick)


@pytest.fixture(scope="module")
def run(painted: Cohort, live: RunSettings, folder: Path) -> Path:
    train(painted, live, folder / "run", cache=folder / "cache", device="cpu", progress=False)
    return folder / "run"


def stored(painted: Cohort, live: RunSettings, folder: Path) -> Path:
    encoders = [load_encoder(name) for name in NAMES.values()]
    files = [(slide.slide_id, slide.path, slide.mpp) for slide in painted.slides]
    assert not extract_cohort(files, folder, encoder=encoders, settings=live.slide).failed
    return folder


def test_a_run_says_which_encoder_made_what(run, painted, folder, tmp_path):
    trained = Checkpoint.load(run)
    assert [each.name for each in trained.encoders] == list(NAMES.values())
    assert trained.encoder_text == TEXT
    assert trained.model_settings["in_dim"] == [1280, 32]
    description = json.loads((run / "checkpoint.json").read_text())
    assert [each["name"] for each in description["encoder"]] == list(NAMES.values())
    assert description["encoder_weights"] is None
    assert yaml.safe_load((run / "settings.yaml").read_text())["encoder"]["name"] == NAMES
    page = (run / "report.html").read_text()
    assert f"with encoder {TEXT} at 5x, 20x" in page
    assert "<td>5.0=efficientnet-lite0, 20.0=tiny</td>" in page

    paths = [painted.slides[-1].path]
    (record,) = predict_slides(paths, trained, tmp_path / "predictions", mpp=0.5, device="cpu")
    read = read_prediction(tmp_path / "predictions" / "7.json")
    assert read.model == record.model
    assert read.cost == record.cost
    assert read.model.encoder == TEXT
    low, high = trained.encoders
    hashes = f"5={low.weights_hash},20={high.weights_hash}"
    assert read.model.encoder_weights_sha256 == hashes

    evaluation = evaluate(run, folder / "painted.csv", tmp_path / "evaluation", device="cpu")
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["model"]["encoder"] == TEXT
    assert len(metrics["cost"]["encoding_macs"]) == 2
    assert (
        f"with encoder {TEXT} on 2 slides" in (tmp_path / "evaluation" / "report.html").read_text()
    )
    assert evaluation.results[0].cost.encoding_macs[0] > evaluation.results[0].cost.patches[0]


def test_the_bill_has_the_macs_of_each_encoder(run, painted):
    trained = Checkpoint.load(run)
    encoders = trained.load_encoders()
    record = predict(painted.slides[-1].path, trained, mpp=0.5, encoder=encoders)
    macs = [encoder.macs_per_patch() for encoder in encoders]
    cost = record.cost
    assert cost.encoding_macs == tuple(n * each for n, each in zip(cost.patches, macs, strict=True))
    assert 0 < cost.macs - sum(cost.encoding_macs) < macs[0]  # those of the model
    assert cost.exhaustive is not None
    assert cost.exhaustive.macs == cost.exhaustive.patches * macs[1]
    assert predict(painted.slides[-1].path, trained, mpp=0.5).probabilities == record.probabilities


@pytest.mark.slow
def test_stored_features_of_two_encoders_give_the_same_answers(
    run, painted, live, folder, tmp_path
):
    features = stored(painted, live, tmp_path / "features")
    table = folder / "painted.csv"
    from_files = evaluate(run, table, tmp_path / "a", features=features, device="cpu")
    from_slides = evaluate(run, table, tmp_path / "b", device="cpu")
    pairs = zip(from_files.results, from_slides.results, strict=True)
    assert all(np.allclose(a.probabilities, b.probabilities, atol=1e-4) for a, b in pairs)
    summary = train(
        painted, live, tmp_path / "again", features=features, device="cpu", progress=False
    )
    assert summary.failed == {}
    weights = (Checkpoint.load(each).model.state_dict() for each in (run, tmp_path / "again"))
    for first, second in zip(*(each.values() for each in weights), strict=True):
        assert torch.allclose(first, second, atol=1e-3)
    audited = audit(run, table, tmp_path / "audit", features=features, device="cpu")
    assert len(audited.slides) == 2


def test_stored_features_of_other_encoders_are_refused(painted, live, tmp_path):
    features = stored(painted, live, tmp_path / "features")
    one = replace(live, encoder=EncoderSettings(name="tiny"))
    message = rf"were made by encoder {TEXT}, and the settings name tiny; give --encoder {TEXT}"
    with pytest.raises(MixedFeaturesError, match=message):
        train(painted, one, tmp_path / "run", features=features, device="cpu", progress=False)


def test_a_run_starts_only_from_one_with_the_same_encoders(run, painted, live, folder, tmp_path):
    start = replace(live.train, init_from=run)
    out = tmp_path / "warm"
    options = {"cache": folder / "cache", "device": "cpu", "progress": False}
    assert train(painted, replace(live, train=start), out, **options).failed == {}
    one = replace(live, encoder=EncoderSettings(name="tiny"), train=start)
    with pytest.raises(RunError, match=r"train.init_from: the encoder of that run is "):
        train(painted, one, tmp_path / "other", **options)


def test_another_encoder_at_one_magnification_is_not_the_one_of_the_training(run):
    trained = Checkpoint.load(run)
    low, high = trained.encoders
    changed = replace(trained, encoders=(low, replace(high, weights_hash="other")))
    with pytest.raises(CheckpointError, match="encoder tiny: the model was trained with weights_h"):
        changed.load_encoders()


def test_a_checkpoint_with_another_number_of_encoders_is_damaged(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    path = run / "checkpoint.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "encoder": description["encoder"][:1]}))
    with pytest.raises(CheckpointError, match=r"damaged .*encoder: 1 for 2 magnifications"):
        Checkpoint.load(run)
    path.write_text(json.dumps({**description, "encoder_weights": [None]}))
    with pytest.raises(CheckpointError, match=r"damaged .*encoder_weights: 1 for 2 encoders"):
        Checkpoint.load(run)


@pytest.mark.slow
def test_the_same_name_at_every_magnification_is_one_name_for_all(painted, live, tmp_path):
    runs = []
    for number, name in enumerate(("tiny", {5.0: "tiny", 20.0: "tiny"})):
        out = tmp_path / str(number)
        settings = replace(live, encoder=EncoderSettings(name=name))
        train(painted, settings, out, device="cpu", progress=False)
        runs.append(out)
    one, each = (json.loads((run / "checkpoint.json").read_text()) for run in runs)
    assert one == each
    assert one["encoder"]["name"] == "tiny"
    assert one["model"]["settings"]["in_dim"] == 32
    weights = [(run / "checkpoint.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    records = [predict(painted.slides[-1].path, Checkpoint.load(run), mpp=0.5) for run in runs]
    assert records[0].probabilities == records[1].probabilities
    assert records[0].cost.macs == records[1].cost.macs
    assert records[0].model == records[1].model
