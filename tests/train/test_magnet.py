"""MagNet and the baselines of its paper: training, evaluation and prediction from slide files."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.cli import main
from parfocal.dataset import Cohort, read_cohort
from parfocal.evaluate.run import evaluate
from parfocal.explain.zoom_tree import LESION as OUTLINE_COLOR
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.folder import FailedSlide, predict_slides
from parfocal.predict.slide import predict
from parfocal.settings import RunSettings, load_settings
from parfocal.train import RunError, train

SIDE, LESION = 256, 96
PINK, GRAY = (220, 120, 180), (200, 200, 200)
STAGES = ("macro", "micro", "itc")


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Write pink slides; those labeled "ill" have a dark square with an outline."""
    folder, rng = tmp_path_factory.mktemp("painted"), np.random.default_rng(0)
    rows = ["slide_id,path,label,mpp,split,stratum,outlines"]
    for number in range(24):
        pixels = np.full((SIDE, SIDE, 3), (210, 120, 180), dtype=np.uint8)
        pixels += rng.integers(0, 20, pixels.shape, dtype=np.uint8)
        x, y = rng.integers(0, SIDE - LESION, 2).tolist()
        ill, outlines = number % 2, ""
        if ill:
            pixels[y : y + LESION, x : x + LESION] //= 2
            ring = [[x, y], [x + LESION, y], [x + LESION, y + LESION], [x, y + LESION], [x, y]]
            outlines = f"{number}.geojson"
            (folder / outlines).write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "train" if number < 12 else "val" if number < 16 else "test"
        stage = STAGES[number // 2 % 3] if ill else "negative"
        rows.append(f"{number},{number}.png,{('well', 'ill')[ill]},1,{split},{stage},{outlines}")
    (folder / "cohort.csv").write_text("\n".join(rows))
    return read_cohort(folder / "cohort.csv", labels=("well", "ill"))


def settings_of(recipe: str, **flags) -> RunSettings:
    own: dict[str, object] = {"train.labels": ["well", "ill"], "slide.tissue_method": "all"}
    if recipe == "magnet-3":
        own |= {"model.patches": [2, 2], "model.picture_px": 28, "model.leaf_px": 32}
        own |= {"model.backbone": "small", "model.auxiliary_backbone": "small"}
        own |= {"model.hidden_dim": 16}
        own |= {"train.batch_size": 4, "train.epochs": 3, "train.learning_rate": 1e-3}
    if recipe == "meanrgb":
        own |= {"model.thumbnail_px": 32, "train.batch_size": 4, "train.epochs": 5}
    if recipe == "patchsupervised":
        own |= {"slide.patch_size": 64, "encoder.name": "tiny", "train.epochs": 4}
        own |= {"train.learning_rate": 1e-2, "model.dim": 16}
    return load_settings(recipe, flags={**own, **flags})


@pytest.fixture(scope="module")
def run(painted: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("magnet") / "run"
    train(painted, settings_of("magnet-3"), folder, device="cpu", progress=False)
    return folder


def test_magnet_is_trained_from_slide_files(run):
    with (run / "metrics.csv").open(newline="") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0]


def test_each_stratum_is_scored_against_the_negatives(painted, run, tmp_path):
    evaluate(run, painted.source, tmp_path, device="cpu", resamples=20, report=False)
    strata = json.loads((tmp_path / "metrics.json").read_text())["strata"]
    assert set(strata) == {*STAGES, "macro + micro", "all"}
    assert strata["all"]["n"] == 4
    assert strata["all"]["auroc"]["value"] is not None


@pytest.mark.slow
def test_the_overlap_of_squares_with_lesions_is_compared_with_chance(painted, run, tmp_path):
    evaluate(run, painted.source, tmp_path, device="cpu", resamples=20, report=False)
    whole, *_, leaves = json.loads((tmp_path / "metrics.json").read_text())["localization"]
    assert whole["attention"]["value"] == 1
    assert LESION**2 / SIDE**2 < leaves["attention_by_chance"] < 1


def test_a_prediction_contains_each_square_with_its_parent_and_pictures_of_the_zoom(
    painted, run, tmp_path
):
    slide = painted.slides[-1]
    list(predict_slides([slide.path], Checkpoint.load(run), tmp_path, mpp=1, device="cpu"))
    record = json.loads((tmp_path / "23.json").read_text())
    assert [step["patches"] for step in record["steps"]] == [1, 2, 4]
    assert record["cost"]["patches"] == [1, 2, 4]
    regions = {region["id"]: region for region in record["regions"]}
    assert [regions[f"2-{n}"]["parent"] for n in range(4)] == ["1-0", "1-0", "1-1", "1-1"]
    leaf = regions["2-1"]
    assert leaf["mpp"] == pytest.approx(leaf["width"] / 32)
    assert regions["2-3"]["score"] == pytest.approx(
        max(record["prediction"]["probabilities"].values())
    )
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"23.png", "23-leaves.png", "23-filter.png"}


def has_outlines(picture: Path) -> bool:
    """Return whether a picture has pixels in the color of outlines."""
    return bool((np.asarray(Image.open(picture)) == OUTLINE_COLOR).all(axis=2).any())


def test_outlines_of_lesions_are_drawn_on_the_leaves(painted, run, tmp_path):
    well, ill = painted.slides[-2:]
    outlines = {ill.path: ill.outlines}
    paths, trained = [well.path, ill.path], Checkpoint.load(run)
    list(predict_slides(paths, trained, tmp_path, mpp=1, device="cpu", outlines=outlines))
    assert [has_outlines(tmp_path / f"{n}-leaves.png") for n in (22, 23)] == [False, True]


def test_the_command_line_takes_outlines_from_a_cohort_table(painted, run, tmp_path, monkeypatch):
    slide, device = str(painted.slides[-1].path), ("--mpp", "1", "--device", "cpu")
    arguments = ["predict", str(run), slide, *device, "--outlines", str(painted.source)]
    monkeypatch.setattr("sys.argv", ["parfocal", *arguments, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert has_outlines(tmp_path / "23-leaves.png")


def test_outlines_are_refused_for_a_model_without_leaves(painted, tmp_path):
    train(painted, settings_of("meanrgb"), tmp_path / "run", device="cpu", progress=False)
    trained = Checkpoint.load(tmp_path / "run")
    with pytest.raises(ValueError, match="model meanrgb has no leaves to draw outlines on"):
        list(predict_slides([painted.slides[0].path], trained, tmp_path, outlines={}))


def test_a_prediction_contains_the_probabilities_after_each_leaf(painted, run):
    record = predict(painted.slides[-1].path, Checkpoint.load(run), mpp=1)
    *squares, leaves = ([r for r in record.regions if r.step == step] for step in range(3))
    assert {region.probabilities for layer in squares for region in layer} == {None}
    assert [leaf.probabilities[record.label] for leaf in leaves] == [leaf.score for leaf in leaves]
    assert leaves[-1].probabilities == pytest.approx(record.probabilities)


@pytest.mark.parametrize(
    ("size", "color", "outcome"),
    [
        ((600, 600), PINK, ["well", "ill"]),
        ((3000, 300), PINK, ["well", "ill"]),
        ((240, 240), PINK, ["well", "ill"]),
        (
            (40, 40),
            PINK,
            "odd.png: the image is 40 x 40 px at 10x, smaller than one patch of 224 px",
        ),
        ((600, 600), GRAY, "all of the slide of 600 x 600 px is gray in its thumbnail of 28 px"),
    ],
    ids=["one level", "long and thin", "under 448 px", "tiny", "gray"],
)
def test_unusual_slides_are_predicted_or_refused(run, tmp_path, size, color, outcome):
    Image.new("RGB", size, color).save(tmp_path / "odd.png")  # an image has a single level
    trained = Checkpoint.load(run)
    (result,) = predict_slides(
        [tmp_path / "odd.png"], trained, tmp_path / "out", mpp=1, device="cpu"
    )
    if isinstance(result, FailedSlide):
        assert result.reason.startswith(outcome)
        assert "\n" not in result.reason
    else:
        assert result.label in outcome
        assert (tmp_path / "out" / "odd.json").exists()


def test_early_exit_can_be_set_at_prediction(painted, run):
    trained = Checkpoint.load(run, overrides={"early_exit_patience": 1})
    trained.model.aggregator.classifier[-1].weight.data.zero_()  # constant probabilities
    record = predict(painted.slides[0].path, trained, mpp=1)
    assert record.stop_reason == "early exit after 2 of 4 leaves"
    assert record.cost.patches == (1, 2, 2)  # the next square is already being read


@pytest.mark.slow
def test_mean_rgb_learns_classes_that_differ_in_color(painted, tmp_path):
    train(painted, settings_of("meanrgb"), tmp_path / "run", device="cpu", progress=False)
    found = evaluate(
        tmp_path / "run", painted.source, tmp_path / "e", device="cpu", resamples=20, report=False
    )
    assert found.scores["auroc_macro"].value >= 0.9


@pytest.mark.slow
def test_the_patch_supervised_model_finds_outlined_lesions(painted, tmp_path):
    settings = settings_of("patchsupervised")
    cache = tmp_path / "cache"
    train(painted, settings, tmp_path / "run", cache=cache, device="cpu", progress=False)
    found = evaluate(
        tmp_path / "run", painted.source, tmp_path / "e", device="cpu", resamples=20, report=False
    )
    assert found.scores["auroc_macro"].value >= 0.9
    (overlap,) = found.to_dict()["localization"]
    assert overlap["attention"]["value"] > 2 * overlap["attention_by_chance"]


def test_a_missing_outline_is_refused_for_the_patch_supervised_model(painted, tmp_path):
    bare = replace(painted, slides=tuple(replace(s, outlines=None) for s in painted.slides))
    with pytest.raises(RunError, match=r"slide 1 \(ill\) has no outlines, and the model"):
        train(bare, settings_of("patchsupervised"), tmp_path / "run", device="cpu", progress=False)


def test_an_excluded_stratum_keeps_its_split_but_is_not_trained_on(painted, tmp_path):
    settings = settings_of("meanrgb", **{"train.exclude_strata": ["itc"], "train.epochs": 1})
    train(painted, settings, tmp_path / "run", device="cpu", progress=False)
    trained_on = Checkpoint.load(tmp_path / "run").training.slides
    itc = {slide.slide_id for slide in painted.slides if slide.stratum == "itc"}
    assert itc.isdisjoint(trained_on["train"] + trained_on["val"])
    with (tmp_path / "run" / "split.csv").open(newline="") as file:
        parts = {row["slide_id"]: row["split"] for row in csv.DictReader(file)}
    assert parts == {slide.slide_id: slide.split for slide in painted.slides}


def test_an_unknown_stratum_cannot_be_excluded(painted, tmp_path):
    settings = settings_of("meanrgb", **{"train.exclude_strata": ["itcs"]})
    with pytest.raises(RunError, match=r"no slide has stratum 'itcs' \(known: itc, macro,"):
        train(painted, settings, tmp_path / "run", device="cpu", progress=False)
