"""Training that reads slide files as the model zooms, and slides that cannot be read."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.dataset import Cohort, CohortError, read_cohort
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.store import StoredFeatures
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import RunSettings
from parfocal.train import RunError, train


@pytest.fixture
def painted(tmp_path: Path) -> Cohort:
    """Small slides with a block of tissue, with stripes for label ill."""
    rng = np.random.default_rng(0)
    rows = ["slide_id,path,label,mpp"]
    for number in range(8):
        pixels = np.full((192, 192, 3), 245, dtype=np.uint8)
        pixels[32:160, 32:160] = (200, 90, 150)
        pixels[32:160, 32:160] += rng.integers(0, 30, (128, 128, 3), dtype=np.uint8)
        if number % 2:
            pixels[32:160:4, 32:160] = (90, 40, 120)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number},{number}.png,{('well', 'ill')[number % 2]},0.5")
    return written(tmp_path, rows)


def written(folder: Path, rows: list[str]) -> Cohort:
    (folder / "painted.csv").write_text("\n".join(rows))
    return read_cohort(folder / "painted.csv")


@pytest.fixture
def live(settings: RunSettings) -> RunSettings:
    slide = replace(settings.slide, magnifications=(5.0, 20.0))
    return replace(settings, slide=slide, train=replace(settings.train, epochs=2))


def failed(folder: Path) -> dict[str, str]:
    with (folder / "failed.csv").open() as file:
        return {row["slide_id"]: row["reason"] for row in csv.DictReader(file)}


def test_a_model_is_trained_on_slide_files_alone(painted, live, tmp_path, caplog):
    caplog.set_level("INFO", "parfocal")
    summary = train(painted, live, tmp_path / "run", device="cpu", progress=False)
    assert summary.patches_encoded > 0
    assert summary.failed == {}
    assert "0.0% of the tissue out of reach, on average over 6 slides" in caplog.text
    trained = Checkpoint.load(tmp_path / "run")
    assert trained.encoder_text == "tiny"
    assert trained.mpps == (2.0, 0.5)


def test_cached_features_are_not_encoded_again(painted, live, tmp_path):
    cached = {"cache": tmp_path / "cache", "device": "cpu", "progress": False}
    first = train(painted, live, tmp_path / "a", **cached)
    second = train(painted, live, tmp_path / "b", **cached)
    assert first.patches_encoded > 0
    assert second.patches_encoded == 0
    assert second.val_loss == first.val_loss


def test_slides_that_cannot_be_used_are_left_out_and_listed(painted, live, tmp_path, caplog):
    (tmp_path / "0.png").write_bytes(b"no picture")
    Image.new("RGB", (192, 192), "white").save(tmp_path / "3.png")
    slides = tuple(replace(slide, split="train") for slide in painted.slides[:6])
    given = replace(
        painted, slides=(*slides, *(replace(s, split="val") for s in painted.slides[6:]))
    )
    options = {"device": "cpu", "progress": False}
    with pytest.raises(
        RunError, match=r"^2 of 8 slides cannot be read \(0\.png: .*; 3\.png: "
    ) as error:
        train(given, live, tmp_path / "run", **options)
    assert "or train without them with --skip-unreadable" in str(error.value)
    assert "3.png" not in caplog.text  # the error has it
    assert "epoch 1" not in caplog.text
    caplog.clear()
    summary = train(given, live, tmp_path / "run", skip_unreadable=True, **options)
    assert sorted(failed(tmp_path / "run")) == sorted(summary.failed) == ["0", "3"]
    assert "tissue" in summary.failed["3"]
    assert caplog.text.count("left out: 3.png: no tissue") == 1
    assert "3: " in (tmp_path / "run" / "report.html").read_text()
    assert Checkpoint.load(tmp_path / "run").training.slides["train"] == ["1", "2", "4", "5"]


def test_too_few_readable_slides_are_an_error(painted, live, tmp_path):
    for number in (0, 2, 4, 6):
        (tmp_path / f"{number}.png").write_bytes(b"no picture %d" % number)
    with pytest.raises(
        RunError,
        match=r"no training slide of class 'well'; .* 4 of 8 slides were left out, because they "
        r"cannot be read; the first is 0 \(0\.png: ",
    ):
        train(painted, live, tmp_path / "run", device="cpu", progress=False, skip_unreadable=True)
    assert not (tmp_path / "run").exists()  # so that it may be run again


def test_a_slide_that_fails_during_training_is_left_out_from_then_on(
    cohort, settings, tmp_path, monkeypatch, caplog
):
    read = StoredFeatures.__getitem__
    reads, late_reads = [], []

    def damaged(self, rows):
        slide_id = self.reader.path.stem
        reads.append(slide_id)
        if "slide 004 is left out from now on" in caplog.text:
            late_reads.append(slide_id)
        if reads.count("004") > 2 and slide_id == "004":
            raise StoreError("004.h5: damaged")
        return read(self, rows)

    monkeypatch.setattr(StoredFeatures, "__getitem__", damaged)
    features = tmp_path / "features"
    options = {"features": features, "device": "cpu", "progress": False}
    with pytest.raises(RunError, match=r"^slide 004 cannot be read: 004\.h5: damaged Repair it"):
        train(cohort, settings, tmp_path / "refused", **options)
    reads.clear()
    summary = train(cohort, settings, tmp_path / "run", skip_unreadable=True, **options)
    assert summary.failed == failed(tmp_path / "run") == {"004": "004.h5: damaged"}
    assert len(late_reads) > 20
    assert "004" not in late_reads[10:]  # some reads of it may have been under way
    slides = Checkpoint.load(tmp_path / "run").training.slides
    assert "004" in slides["train"] + slides["val"]  # it was used before it failed


def test_missing_slide_files_are_reported_before_training(painted, live, tmp_path):
    (tmp_path / "2.png").unlink()
    (tmp_path / "5.png").unlink()
    with pytest.raises(CohortError, match=r"2 slide files missing: .*2\.png \(row 4\), .*5\.png"):
        train(painted, live, tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_missing_feature_files_are_reported_before_training(cohort, settings, tmp_path):
    (tmp_path / "features/004.h5").unlink()
    options = {"features": tmp_path / "features", "device": "cpu", "progress": False}
    with pytest.raises(CohortError, match=r"1 feature file missing: .*004\.h5"):
        train(cohort, settings, tmp_path / "run", **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"no feature files \(\*\.h5\) here; run `parfocal extr"):
        train(cohort, settings, tmp_path / "run", **{**options, "features": tmp_path / "empty"})


def test_features_of_another_encoder_or_patch_size_are_refused(cohort, settings, tmp_path):
    options = {"features": tmp_path / "features", "device": "cpu", "progress": False}
    other = replace(settings, encoder=replace(settings.encoder, name="efficientnet-lite0"))
    with pytest.raises(
        MixedFeaturesError, match="made by encoder tiny, and the settings name efficientnet-lite0"
    ):
        train(cohort, other, tmp_path / "run", **options)
    larger = replace(settings, slide=replace(settings.slide, patch_size=32))
    with pytest.raises(MixedFeaturesError, match="patch size 16"):
        train(cohort, larger, tmp_path / "run", **options)


def test_an_unknown_device_is_refused(cohort, settings, tmp_path):
    with pytest.raises(ValueError, match="device 'gpu' is not known; choose auto, cpu"):
        train(cohort, settings, tmp_path / "run", device="gpu")


def test_a_file_that_is_missing_is_left_out_only_if_it_may_be(painted, live, tmp_path):
    (tmp_path / "3.png").unlink()
    options = {"device": "cpu", "progress": False}
    with pytest.raises(CohortError, match=r"3\.png"):
        train(painted, live, tmp_path / "run", **options)
    summary = train(painted, live, tmp_path / "run", skip_unreadable=True, **options)
    assert "no such file" in summary.failed["3"]


def test_no_fold_is_trained_if_a_slide_of_any_fold_cannot_be_read(painted, live, tmp_path, caplog):
    (tmp_path / "0.png").write_bytes(b"no picture")
    settings = replace(live, train=replace(live.train, folds=2))
    slides = tuple(replace(slide, split=None) for slide in painted.slides)
    with pytest.raises(RunError, match="slides cannot be read"):
        train(replace(painted, slides=slides), settings, tmp_path / "run", device="cpu")
    assert not list(tmp_path.glob("run/*/metrics.csv"))
