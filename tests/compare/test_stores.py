"""In a comparison, each model gets the patches that it has by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.compare import ComparisonError, compare, load_candidates
from parfocal.compare.candidate import Candidate
from parfocal.compare.stores import Stores, prepare_stores
from parfocal.dataset.cohort import Cohort, read_cohort
from parfocal.dataset.inputs import Inputs, cohort_inputs
from parfocal.encoders.loading import load_encoder
from parfocal.evaluate.run import evaluate
from parfocal.features.store import FeatureFile
from parfocal.models.checkpoint import build_model
from parfocal.models.contract import run_model
from parfocal.settings import recipes
from parfocal.slide.write import write_pyramid
from parfocal.train import train

LABELS = ("normal", "tumor")
GLASS, STAIN = (245, 245, 245), (190, 100, 160)
# One needs outlines, the other looks at no slide.
NAMES = [name for name in recipes() if name not in ("patchsupervised", "covariates")]


def specks(side: int = 1200) -> np.ndarray:
    """Paint specks of tissue that fill less than a tenth of most patches at 2.5x."""
    generator = np.random.default_rng(3)
    blobs = np.kron(generator.random((side // 30, side // 30)) < 0.04, np.ones((30, 30), bool))
    noise = generator.integers(-20, 20, (side, side, 1))
    return np.clip(np.where(blobs[..., None], STAIN, GLASS) + noise, 0, 255).astype(np.uint8)


def write_cohort(folder: Path, *, downsamples: tuple[int, ...] = (1, 4), mpp: float = 0.5) -> Path:
    pixels = specks()

    def tile(column: int, row: int) -> np.ndarray:
        return pixels[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]

    write_pyramid(folder / "a.tif", tile, (1200, 1200), mpp=mpp, downsamples=downsamples)
    table = folder / "cohort.csv"
    table.write_text("slide_id,path,label\na,a.tif,normal\n")
    return table


def candidates(names: list[str], *overrides: str) -> list[Candidate]:
    return load_candidates(names, overrides=["slide.patch_size=16", *overrides], encoder="tiny")


@dataclass(frozen=True)
class Visit:
    logits: torch.Tensor
    visited: list[list[int]]
    sharpest: int


def visit(candidate: Candidate, inputs: Inputs, cohort: Cohort) -> Visit:
    """Run a model with random weights, which depend on its name only."""
    torch.manual_seed(0)
    settings = candidate.settings
    arguments = settings.model_arguments(in_dim=inputs.encoders[0].dim, num_classes=2, num_slides=1)
    model = build_model(settings.model.name, arguments).eval()
    with inputs.open(cohort.slides[0]) as opened, torch.no_grad():
        (prediction,) = run_model(model, [opened.model_input]).slides
        looks = opened.locate(prediction.looks)
        assert opened.sharpest is not None
        boxes = [sorted(look.places.boxes.tolist()) for look in looks if look.places is not None]
        return Visit(prediction.logits, boxes, opened.sharpest.patches)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return read_cohort(write_cohort(tmp_path_factory.mktemp("cohort")), labels=LABELS)


@pytest.fixture(scope="module")
def models() -> list[Candidate]:
    everything = candidates(NAMES, "magnet-3:slide.patch_size=32")
    return [each for each in everything if each.settings.encoder is not None]


@pytest.fixture(scope="module")
def stores(
    cohort: Cohort, models: list[Candidate], tmp_path_factory: pytest.TempPathFactory
) -> Stores:
    return prepare_stores(cohort, models, tmp_path_factory.mktemp("out"), device="cpu")


@pytest.mark.slow
def test_every_recipe_visits_and_answers_what_it_does_by_itself(
    cohort: Cohort, models: list[Candidate], stores: Stores
):
    encoder = load_encoder("tiny")
    assert len({each.settings.slide.magnifications for each in models}) > 3
    for model in models:
        slide, folder = model.settings.slide, stores.folders[model.name]
        stored = visit(model, cohort_inputs(slide, lambda: encoder, features=folder), cohort)
        live = visit(model, cohort_inputs(slide, lambda: encoder), cohort)
        assert stored.visited == live.visited, model.name
        assert stored.sharpest == live.sharpest, model.name
        torch.testing.assert_close(stored.logits, live.logits, rtol=0, atol=1e-4)


def test_one_extraction_serves_all_recipes(stores: Stores):
    assert len(set(stores.folders.values())) == 1


def test_with_the_published_rule_each_ladder_has_its_own_features(cohort: Cohort, tmp_path: Path):
    models = candidates(["zoommil", "abmil", "mean"], "slide.roots=share")
    stores = prepare_stores(cohort, models, tmp_path, device="cpu")
    assert stores.folders["abmil"] == stores.folders["mean"] != stores.folders["zoommil"]
    for model in models:
        file = FeatureFile(stores.folders[model.name] / "a.h5")
        assert file.magnifications == model.settings.slide.magnifications
    again = prepare_stores(cohort, models, tmp_path, device="cpu")
    assert again.folders == stores.folders


def test_models_whose_resolutions_differ_have_their_own_features(tmp_path: Path):
    """10x is read at the 1.04 µm/px of the scan, so 2.5x at 4.16; alone it is read at 4."""
    cohort = read_cohort(write_cohort(tmp_path, downsamples=(1,), mpp=1.04), labels=LABELS)
    models = candidates(["zoommil", "abmil"], "abmil:slide.magnifications=[2.5]")
    stores = prepare_stores(cohort, models, tmp_path, device="cpu")
    assert stores.folders["zoommil"] != stores.folders["abmil"]
    assert FeatureFile(stores.folders["abmil"] / "a.h5").magnifications == (2.5,)


def test_a_model_added_later_uses_the_features_that_are_there(cohort: Cohort, tmp_path: Path):
    first = prepare_stores(cohort, candidates(["zoommil"]), tmp_path, device="cpu")
    before = (first.folders["zoommil"] / "a.h5").stat().st_mtime_ns
    more = candidates(["zoommil", "abmil", "mean"], "mean:slide.magnifications=[5]")
    second = prepare_stores(cohort, more, tmp_path, device="cpu")
    assert second.folders["abmil"] == first.folders["zoommil"]
    assert (first.folders["zoommil"] / "a.h5").stat().st_mtime_ns == before
    assert FeatureFile(second.folders["mean"] / "a.h5").magnifications == (5,)


def test_given_features_that_do_not_serve_a_model_are_refused(cohort: Cohort, tmp_path: Path):
    models = candidates(["zoommil"], "slide.roots=share")
    stores = prepare_stores(cohort, models, tmp_path, device="cpu")
    alone = candidates(["abmil"], "slide.roots=share")
    folder = stores.folders["zoommil"]
    with pytest.raises(ComparisonError, match=r"abmil: .* at 10x alone.*Or leave --features out"):
        prepare_stores(cohort, alone, tmp_path / "new", features=folder)


def test_what_the_cache_holds_is_not_extracted_again(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder, (model,) = load_encoder("tiny"), candidates(["abmil"])
    inputs = cohort_inputs(model.settings.slide, lambda: encoder, cache=tmp_path / "cache")
    with inputs.open(cohort.slides[0]) as opened:
        cached = opened.model_input.features()

    def fail(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr("parfocal.features.live.PatchEncoder._encode", fail)
    stores = prepare_stores(cohort, [model], tmp_path, cache=tmp_path / "cache", device="cpu")
    assert stores.failed == {}
    file = FeatureFile(stores.folders["abmil"] / "a.h5")
    assert set(file.encoders) == {encoder.spec}
    assert torch.equal(file.bag().features(), cached)


@pytest.mark.slow
def test_patches_macs_and_answers_are_those_of_each_model_by_itself(
    write_slide: Callable[..., Path], tmp_path: Path
):
    """Compared, and trained and evaluated alone from the slide files."""
    rows = ["slide_id,path,label,split"]
    for number in range(8):
        write_slide(tmp_path / f"{number}.tif", dark=number % 2 == 1, seed=number)
        part = ("train", "train", "val", "test")[number // 2]
        rows.append(f"{number},{number}.tif,{LABELS[number % 2]},{part}")
    table = tmp_path / "cohort.csv"
    table.write_text("\n".join(rows))
    models = load_candidates(
        ["zoommil", "abmil", "mean"],
        overrides=[
            "slide.patch_size=64",
            "zoommil:model.k=2",
            "zoommil:slide.magnifications=2.5,10",
            "mean:slide.magnifications=[5]",
        ],
        epochs=1,
        encoder="tiny",
    )
    compared = compare(table, models, tmp_path / "out", device="cpu", timed=1, resamples=9)
    for model, row in zip(models, compared, strict=True):
        run = tmp_path / model.name
        train(read_cohort(table), model.settings, run, device="cpu", progress=False)
        alone = evaluate(run, table, tmp_path / f"{model.name}-alone", device="cpu")
        assert row.result.patches == np.mean([each.patches for each in alone.results])
        assert row.result.macs == pytest.approx(np.mean([each.cost.macs for each in alone.results]))
        probabilities = np.array([each.probabilities for each in alone.results])
        np.testing.assert_allclose(row.result.runs[0].probabilities, probabilities, atol=1e-4)
    patches = [row.result.patches for row in compared]
    assert len(set(patches)) == 3
