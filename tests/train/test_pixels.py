"""Models that take pixels are trained in batches, by the same loop, from slide files alone."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.cli.checks import ArgumentError
from parfocal.cli.program import app
from parfocal.dataset import Cohort, CohortError, read_cohort
from parfocal.evaluate.calibrate import calibrate_runs
from parfocal.evaluate.heldout import EvaluationError
from parfocal.evaluate.run import evaluate
from parfocal.features.pixels import AugmentedSource, SlidePixels
from parfocal.models.budget import parse_budget
from parfocal.models.checkpoint import Checkpoint, CheckpointError
from parfocal.models.visit import given_budget
from parfocal.predict.folder import predict_slides
from parfocal.settings import RunSettings, SettingsError, load_settings
from parfocal.slide.errors import SlideError
from parfocal.train import RunError, train

SIDE, LESION, LESIONS = 128, 32, 4


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Write pink slides with dark squares; those of slides labeled "ill" have fine stripes."""
    folder, rng = tmp_path_factory.mktemp("painted"), np.random.default_rng(0)
    rows = ["slide_id,path,label,mpp,split,outlines"]
    for number in range(40):
        pixels = np.full((SIDE, SIDE, 3), (210, 120, 180), dtype=np.uint8)
        pixels += rng.integers(0, 20, pixels.shape, dtype=np.uint8)
        stripes = np.indices((LESION, LESION))[0] // 2 % 2 if number % 2 else np.array(0.5)
        polygons = []
        for cell in rng.permutation((SIDE // LESION) ** 2)[:LESIONS].tolist():
            y, x = (LESION * place for place in divmod(cell, SIDE // LESION))
            pixels[y : y + LESION, x : x + LESION] = np.array([20, 20, 20]) + np.multiply.outer(
                stripes, [180, 0, 0]
            )
            far_x, far_y = x + LESION, y + LESION
            polygons.append([[[x, y], [far_x, y], [far_x, far_y], [x, far_y], [x, y]]])
        Image.fromarray(pixels).save(folder / f"{number}.png")
        shape = {"type": "MultiPolygon", "coordinates": polygons}
        feature = {"type": "Feature", "properties": {}, "geometry": shape}
        content = {"type": "FeatureCollection", "features": [feature]}
        (folder / f"{number}.geojson").write_text(json.dumps(content))
        split = "train" if number < 24 else "val" if number < 32 else "test"
        label = ("well", "ill")[number % 2]
        rows.append(f"{number},{number}.png,{label},1,{split},{number}.geojson")
    (folder / "cohort.csv").write_text("\n".join(rows))
    return read_cohort(folder / "cohort.csv")


def settings_of(recipe: str, **flags) -> RunSettings:
    given = {
        "slide.tissue_method": "all",
        "slide.magnifications": (5.0, 10.0),
        "slide.patch_size": 32,
        "model.backbone": "small",
        "model.thumbnail_px": 64,
        "model.k": 5,
        "model.dropout": 0.0,
        "train.batch_size": 8,
        "train.augment": False,
        "train.epochs": 14,
        "train.learning_rate": 2e-3,
    }
    return load_settings(recipe, flags={**given, **flags})


@pytest.fixture(scope="module")
def run(painted: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(painted, settings_of("jsma"), out, device="cpu", progress=False)
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as opened:
        return list(csv.DictReader(opened))


@pytest.mark.slow
def test_joint_attention_learns_a_planted_lesion_and_attends_to_it(painted, run, tmp_path):
    found = evaluate(run, painted.source, tmp_path, device="cpu", resamples=20, report=False)
    assert found.scores["accuracy"].value == 1
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    overall = metrics["localization_overall"]
    assert overall["attention"]["value"] > 0.7
    assert overall["attention_by_chance"] < 0.5
    assert [row["mean"] for row in metrics["cost"]["patches"]] == pytest.approx(
        np.mean([[step.patches for step in each.steps] for each in found.results], axis=0)
    )


@pytest.mark.slow
def test_the_shares_of_magnifications_are_reported_and_sum_to_1(painted, run, tmp_path):
    found = evaluate(run, painted.source, tmp_path, device="cpu", resamples=20, report=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["magnification"] for row in metrics["probability"]] == [5, 10]
    assert sum(row["mean"] for row in metrics["probability"]) == pytest.approx(1)
    assert " 10x" in found.summary.partition("; samples ")[2]
    for row in rows_of(tmp_path / "predictions.csv"):
        assert float(row["share_5x"]) + float(row["share_10x"]) == pytest.approx(1, abs=1e-5)


def test_a_prediction_has_regions_cost_and_a_map(painted, run, tmp_path):
    path = painted.slides[32].path
    (record,) = predict_slides([path], Checkpoint.load(run), tmp_path, mpp=1.0, device="cpu")
    assert (tmp_path / f"{path.stem}.png").exists()
    saved = json.loads((tmp_path / f"{path.stem}.json").read_text())
    visited = [region for region in saved["regions"] if region["order"] is not None]
    assert sorted(region["order"] for region in visited) == list(range(5))
    assert all(
        region["selected"] and region["score_kind"] == "sampling_probability" for region in visited
    )
    assert sum(region["score"] for region in saved["regions"]) == pytest.approx(1)
    assert sum(saved["cost"]["patches"]) == sum(step["patches"] for step in saved["steps"]) == 5
    assert saved["stop_reason"] == "the limit of 5 patches was reached"
    assert saved["model"]["encoder"] is None
    exhaustive = saved["cost"]["exhaustive"]
    assert (exhaustive["patches"], exhaustive["magnification"]) == (16, 10)
    assert saved["cost"]["share_macs"] > 0
    assert record.summary.startswith("32: ")


@pytest.mark.parametrize(
    ("budget", "visited", "met"), [("patches=3", 3, True), ("seconds=0.000001", 5, False)]
)
def test_a_budget_of_sampled_patches_is_recorded(painted, run, tmp_path, *, budget, visited, met):
    trained = given_budget(Checkpoint.load(run), budget)
    path = painted.slides[32].path
    (record,) = predict_slides([path], trained, tmp_path, mpp=1.0, device="cpu")
    saved = json.loads((tmp_path / f"{path.stem}.json").read_text())
    assert saved["budget"] == {"limit": str(parse_budget(budget)), "met": met}
    assert sum(saved["cost"]["patches"]) == visited
    assert ("was not met" in record.bill) is not met


def test_an_evaluation_records_the_budget_of_sampled_patches(painted, run, tmp_path):
    evaluate(
        *(run, painted.source, tmp_path),
        device="cpu",
        resamples=0,
        budget="patches=3",
        report=False,
    )
    found = json.loads((tmp_path / "metrics.json").read_text())["budget"]
    assert (found["text"], found["not_met"], found["not_zoomed"]) == ("budget patches=3", 0, None)


def test_a_model_that_samples_patches_is_not_calibrated(painted, run):
    with pytest.raises(
        EvaluationError, match=r"jsma takes pixels .* there is no rule to calibrate"
    ):
        calibrate_runs(run, painted.source, device="cpu")


@pytest.mark.slow
def test_folds_together_sample_as_the_mean_of_each(painted, tmp_path):
    tables = {"own.csv": painted.slides[:12], "other.csv": painted.slides[36:]}
    for name, slides in tables.items():
        rows = [f"{each.slide_id},{each.path},{each.label},1" for each in slides]
        (tmp_path / name).write_text("\n".join(["slide_id,path,label,mpp", *rows]))
    settings = settings_of("jsma", **{"train.epochs": 1, "train.folds": 2})
    run = tmp_path / "run"
    train(read_cohort(tmp_path / "own.csv"), settings, run, device="cpu", progress=False)

    def shares(model: Path) -> list[float]:
        out = tmp_path / f"of-{model.name}"
        evaluate(model, tmp_path / "other.csv", out, device="cpu", resamples=20, report=False)
        metrics = json.loads((out / "metrics.json").read_text())
        return [row["mean"] for row in metrics["probability"]]

    folds = [shares(run / "fold-0"), shares(run / "fold-1")]
    assert folds[0] != folds[1]
    assert shares(run) == pytest.approx(np.mean(folds, axis=0))


def test_sampling_can_be_changed_after_training(painted, run, tmp_path):
    changed = Checkpoint.load(run, overrides={"inference": "all"})
    (record,) = predict_slides([painted.slides[32].path], changed, tmp_path, mpp=1.0, device="cpu")
    assert record.stop_reason == "all 20 cells with attention were visited"
    with pytest.raises(
        CheckpointError, match=r"jsma was trained without a setting 'kk'; it has num"
    ):
        Checkpoint.load(run, overrides={"kk": 1})


@pytest.mark.slow
def test_the_same_seed_trains_the_same_model(painted, tmp_path):
    losses = []
    for name in "ab":
        settings = settings_of("jsma", **{"train.epochs": 2})
        losses.append(train(painted, settings, tmp_path / name, device="cpu", progress=False))
    assert losses[0].val_loss == losses[1].val_loss


def test_training_slides_are_mirrored_and_rotated(painted, tmp_path, monkeypatch):
    ways, request = set(), AugmentedSource.request

    def record(self, *arguments, **options):
        ways.add((self.mirror, self.quarter_turns))
        return request(self, *arguments, **options)

    monkeypatch.setattr(AugmentedSource, "request", record)
    settings = settings_of("jsma", **{"train.epochs": 2, "train.augment": True})
    train(painted, settings, tmp_path / "run", device="cpu", progress=False)
    assert len(ways) == 8


@pytest.mark.slow
def test_attention_sampling_is_trained_by_the_same_command(painted, tmp_path):
    flags = {"slide.magnifications": (10.0,), "train.epochs": 2}
    train(painted, settings_of("attentionsampling", **flags), tmp_path / "run", device="cpu")
    found = evaluate(
        tmp_path / "run", painted.source, tmp_path / "e", device="cpu", resamples=20, report=False
    )
    assert len(found.results) == 8


def damaged(cohort: Cohort, folder: Path, numbers: tuple[int, ...]) -> Cohort:
    """Return the cohort with some slide files truncated."""
    slides = []
    for number, slide in enumerate(cohort.slides):
        path = slide.path
        if number in numbers:
            path = folder / f"{number}.png"
            path.write_bytes(slide.path.read_bytes()[:9000])
        slides.append(replace(slide, path=path))
    return replace(cohort, slides=tuple(slides))


def test_a_corrupt_image_is_skipped_and_listed(painted, tmp_path):
    cohort = damaged(painted, tmp_path, (3,))
    settings = settings_of("jsma", **{"train.epochs": 1})
    options = {"device": "cpu", "progress": False, "skip_unreadable": True}
    summary = train(cohort, settings, tmp_path / "run", **options)
    assert list(summary.failed) == ["3"]
    assert "3.png" in summary.failed["3"]


@pytest.mark.slow
def test_an_image_that_fails_inside_a_batch_is_skipped_alone(painted, tmp_path, monkeypatch):
    original, damaged_id = SlidePixels.request, painted.slides[2].path.stem

    def request(self, boxes, size, *, step=None):
        if self._slide.id == damaged_id:
            raise SlideError(f"{damaged_id}.png: damaged")
        return original(self, boxes, size, step=step)

    monkeypatch.setattr(SlidePixels, "request", request)
    settings = settings_of("jsma", **{"train.epochs": 2})
    options = {"device": "cpu", "progress": False}
    with pytest.raises(RunError, match=r"^slide 2 cannot be read: 2\.png: damaged Repair it"):
        train(painted, settings, tmp_path / "refused", **options)
    summary = train(painted, settings, tmp_path / "run", skip_unreadable=True, **options)
    assert summary.failed == {"2": "2.png: damaged"}


@pytest.mark.parametrize(
    ("size", "mpp", "reason"),
    [
        ((60, 200), 1.0, "the image is 30 x 100 px at 5x, smaller than one patch"),
        ((128, 128), 4.0, "5x (2 µm/px) is sharper than the scan, which is 2.5x"),
    ],
)
def test_images_without_the_magnifications_are_skipped_and_listed(
    painted, tmp_path, size, mpp, reason
):
    misfit = tmp_path / "misfit.png"
    Image.new("RGB", size).save(misfit)
    slides = (replace(painted.slides[0], path=misfit, mpp=mpp), *painted.slides[1:])
    settings = settings_of("jsma", **{"train.epochs": 1})
    cohort = replace(painted, slides=slides)
    options = {"device": "cpu", "progress": False, "skip_unreadable": True}
    summary = train(cohort, settings, tmp_path / "run", **options)
    assert list(summary.failed) == ["0"]
    assert reason in summary.failed["0"]


@pytest.mark.slow
def test_gray_16_bit_and_transparent_images_are_predicted_like_rgb_images(painted, run, tmp_path):
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    kinds = {
        "color": np.repeat(gray[..., None], 3, axis=2),
        "gray": gray,
        "deep": gray.astype(np.uint16) * 257,
        "transparent": np.dstack([gray, gray, gray, np.full_like(gray, 255)]),
    }
    for name, pixels in kinds.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in kinds]
    records = predict_slides(paths, Checkpoint.load(run), tmp_path / "p", mpp=1.0, device="cpu")
    color, *others = [record.probabilities for record in records]
    assert all(other == color for other in others)


@pytest.mark.slow
def test_a_range_of_magnifications_uses_those_available_in_each_slide(painted, tmp_path):
    flags = {"slide.magnifications": "1.25-40", "train.epochs": 1}
    settings = settings_of("jsma", **flags)
    assert settings.slide.magnifications == (1.25, 2.5, 5, 10, 20, 40)
    train(painted, settings, tmp_path / "run", device="cpu", progress=False)
    found = evaluate(
        tmp_path / "run", painted.source, tmp_path / "e", device="cpu", resamples=20, report=False
    )
    assert {step.key for result in found.results for step in result.steps} == {2.5, 5, 10}


def test_a_cache_of_regions_is_written_and_changes_nothing(painted, tmp_path):
    settings = settings_of("jsma", **{"train.epochs": 1})
    runs = [
        train(painted, settings, tmp_path / name, cache=tmp_path / "cache", device="cpu")
        for name in "ab"
    ]
    assert runs[0].val_loss == runs[1].val_loss
    assert list((tmp_path / "cache").rglob("*.npy"))


def test_stored_features_are_refused_for_a_model_that_takes_pixels(painted, run, tmp_path):
    with pytest.raises(CohortError, match="model takes pixels, so it cannot use stored features"):
        train(painted, settings_of("jsma"), tmp_path / "run", features=tmp_path, device="cpu")
    with pytest.raises(CohortError, match="model takes pixels, so it cannot use stored features"):
        evaluate(run, painted.source, tmp_path / "e", features=tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        (
            "jsma",
            {"encoder.name": "tiny"},
            "encoder: model jsma takes pixels and has its own network",
        ),
        ("jsma", {"model.backbone": "vgg"}, "model jsma: backbone='vgg' is unknown"),
        ("jsma", {"slide.magnifications": "20-5"}, "slide.magnifications: '20-5' is invalid"),
        (
            "attentionsampling",
            {"slide.magnifications": (5.0, 10.0)},
            "uses one magnification; give one",
        ),
    ],
)
def test_inconsistent_settings_are_refused(recipe, flags, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(recipe, flags=flags)


@pytest.mark.parametrize(("key", "value"), [("batch_size", 2), ("augment", True)])
def test_settings_for_pixels_are_refused_for_models_that_take_features(key, value):
    with pytest.raises(SettingsError, match=f"train.{key}: model zoommil trains on the features"):
        load_settings("zoommil", flags={f"train.{key}": value})


def test_the_command_line_overrides_the_sampling_settings(painted, run, tmp_path, capsys):
    slide, evaluation = painted.slides[32].path, tmp_path / "e"
    predicting = ["predict", str(run), str(slide), "--mpp", "1", "--device", "cpu"]
    outputs = []
    for changes in (["model.inference=all"], ["model.k=2", "model.inference=topk"]):
        options = [part for change in changes for part in ("--set", change)]
        app([*predicting, "--out", str(tmp_path), *options], standalone_mode=False)
        outputs.append(capsys.readouterr().out)
    assert "visited 20 of 16 patches" in outputs[0]
    assert "visited 2 of 16 patches" in outputs[1]
    evaluating = ["evaluate", str(run), str(painted.source), "--out", str(evaluation)]
    app([*evaluating, "--device", "cpu", "--set", "model.k=3"], standalone_mode=False)
    patches = json.loads((evaluation / "metrics.json").read_text())["cost"]["patches"]
    assert sum(step["mean"] for step in patches) == 3
    with pytest.raises(ArgumentError, match=r"'k=3' is not SECTION\.KEY=VALUE"):
        app([*predicting, "--out", str(tmp_path), "--set", "k=3"], standalone_mode=False)
