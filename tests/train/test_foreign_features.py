"""Training on features by another tool is training on our own extraction of the same patches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foreign_layouts import write_trident
from parfocal.dataset import Cohort
from parfocal.dataset.inputs import StoredInputs
from parfocal.evaluate.run import evaluate
from parfocal.features.open_folder import open_features
from parfocal.features.store import FeatureFile
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import RunSettings, SettingsError, load_settings
from parfocal.settings.stored_features import follow_features, refuse_other_flags
from parfocal.train import train
from parfocal.train.folder import RunError


@pytest.fixture
def job(cohort: Cohort, tmp_path: Path) -> dict[float, Path]:
    """The features of the cohort as TRIDENT would have written them, row by row of the slide."""
    folders = {}
    for slide in cohort.slides:
        file = FeatureFile(tmp_path / "features" / f"{slide.slide_id}.h5")
        for step, magnification in enumerate(file.magnifications):
            coords = file.coords(step)
            order = np.lexsort(coords.T)  # by y, then by x
            folders[magnification] = write_trident(
                tmp_path / "job",
                slide.slide_id,
                coords[order],
                file.rows(step).read(np.arange(len(coords)))[order],
                magnification=magnification,
                patch_size=16,
                side=16 * 20 / magnification,
                scanned=20,
                size=file.header.grid.slide_size,
                encoder="tiny",
            )
    return folders


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(Checkpoint.load(run).model.state_dict())


def assert_equal(first: Path, second: Path) -> None:
    """Check that two runs have the same weights, bit by bit."""
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_zooming_model_is_the_same_as_on_our_own_features(
    cohort: Cohort, settings: RunSettings, job: dict[float, Path], tmp_path: Path, monkeypatch
):
    settings = replace(settings, train=replace(settings.train, epochs=2))
    train(cohort, settings, tmp_path / "own", features=tmp_path / "features")
    train(cohort, settings, tmp_path / "theirs", features=job)
    assert_equal(tmp_path / "own", tmp_path / "theirs")
    trained = Checkpoint.load(tmp_path / "theirs")
    assert [each.name for each in trained.encoders] == ["tiny", "tiny"]
    # The features of one tool can be evaluated on with a run on those of the other.
    for run, features in (("own", job), ("theirs", tmp_path / "features"), ("theirs", job)):
        out = tmp_path / f"evaluation-{run}-{len(list(tmp_path.iterdir()))}"
        evaluate(tmp_path / run, cohort.source, out, features=features, resamples=10, report=False)
    # Without reading ahead, the model is the same.
    taken = []
    monkeypatch.setattr(
        StoredInputs, "read_ahead", lambda inputs, slides, whole: taken.append((slides, whole))
    )
    train(cohort, settings, tmp_path / "not ahead", features=job)
    assert taken
    assert not any(whole for _, whole in taken)
    assert_equal(tmp_path / "theirs", tmp_path / "not ahead")


@pytest.mark.slow
def test_a_model_of_one_magnification_finds_a_planted_lesion(
    cohort: Cohort, job: dict[float, Path], tmp_path: Path
):
    settings = load_settings(
        "abmil", overrides=["train.epochs=8", "train.learning_rate=0.01", "model.dim=16"]
    )
    train(cohort, settings, tmp_path / "run", features=job[5.0].parent)
    trained = Checkpoint.load(tmp_path / "run")
    assert (trained.magnifications, trained.patch_size) == ((5.0,), 16)
    result = evaluate(
        tmp_path / "run",
        cohort.source,
        tmp_path / "evaluation",
        features=job[5.0],
        split="all",
        allow_training_slides=True,
        resamples=10,
    )
    assert result.scores["accuracy"].value >= 0.9


def test_the_features_decide_the_settings(job: dict[float, Path], settings: RunSettings):
    folder = open_features(job)
    other = replace(settings, slide=replace(settings.slide, magnifications=(1.25, 10.0)))
    followed = follow_features(other, folder)
    assert followed.slide.magnifications == (2.5, 5.0)
    assert followed.slide.patch_size == 16
    assert followed.encoder is not None
    assert followed.encoder.name == "tiny"
    assert follow_features(load_settings("abmil"), folder).slide.magnifications == (5.0,)
    pixels = load_settings("meanrgb")
    assert follow_features(pixels, folder) is pixels
    with pytest.raises(SettingsError, match=r"of 5x only, and model zoommil zooms; give a folder"):
        follow_features(settings, open_features(job[5.0]))


def test_options_that_contradict_the_features_are_refused(job: dict[float, Path]):
    folder = open_features(job)
    refuse_other_flags(folder, magnifications=(5.0,), encoder="tiny")
    with pytest.raises(SettingsError, match=r"are of 2\.5x, 5x, and --magnifications asks for 20x"):
        refuse_other_flags(folder, magnifications=(20.0,), encoder=None)
    with pytest.raises(SettingsError, match="made by tiny, and --encoder names uni2-h; leave it"):
        refuse_other_flags(folder, magnifications=None, encoder="uni2-h")


def test_one_bad_slide_is_refused_by_name_or_left_out(
    cohort: Cohort, settings: RunSettings, job: dict[float, Path], tmp_path: Path
):
    (job[5.0] / "003.h5").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"1 of \d+ slides cannot be read .*003.*skip-unreadable"):
        train(cohort, settings, tmp_path / "run", features=job)
    short = replace(settings, train=replace(settings.train, epochs=1))
    summary = train(cohort, short, tmp_path / "run", features=job, skip_unreadable=True)
    assert list(summary.failed) == ["003"]
