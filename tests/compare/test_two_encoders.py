"""Comparisons of models that have an encoder for each magnification."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.compare import ComparisonError, compare, load_candidates
from parfocal.compare.candidate import Candidate
from parfocal.compare.scores import ComparisonRow, ModelResult
from parfocal.compare.stores import prepare_stores
from parfocal.compare.table import column_notes, to_csv
from parfocal.dataset.cohort import Cohort, read_cohort
from parfocal.encoders.loading import load_encoder
from parfocal.features.open_folder import open_features
from parfocal.features.store import FeatureFile
from parfocal.settings import SettingsError

TWO = "5=efficientnet-lite0,20=tiny"
SMALL = ["slide.patch_size=16", "zoommil:slide.magnifications=[5, 20]", "zoommil:model.k=1"]
ONE = ["mean:slide.magnifications=[20]", "max:slide.magnifications=[20]"]


def load(names: list[str], *overrides: str, encoder: str | None = None) -> list[Candidate]:
    own = [each for each in (*SMALL, *ONE) if ":" not in each or each.split(":")[0] in names]
    return load_candidates(names, overrides=[*own, *overrides], epochs=1, encoder=encoder)


def encoder_names(candidates: list[Candidate]) -> list[object]:
    return [each.settings.encoder.name for each in candidates if each.settings.encoder is not None]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Slides of tissue with and without stripes."""
    rng = np.random.default_rng(0)
    rows = ["slide_id,path,label,mpp,split"]
    for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 4):
        pixels = np.full((128, 128, 3), 245, dtype=np.uint8)
        pixels[:, 16:112] = (190, 100, 160)
        pixels += rng.integers(0, 10, pixels.shape, dtype=np.uint8)
        if number % 2:
            pixels[::4, 16:112] = (90, 40, 120)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number},{number}.png,{('well', 'ill')[number % 2]},0.5,{split}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    return tmp_path / "cohort.csv"


@pytest.fixture
def one_slide(table: Path) -> Cohort:
    lines = table.read_text().splitlines()[:2]
    table.write_text("\n".join(lines))
    return read_cohort(table, labels=("well", "ill"))


def test_each_model_takes_the_encoders_of_its_own_magnifications():
    candidates = load(["zoommil", "mean"], encoder=TWO)
    assert encoder_names(candidates) == [
        {5.0: "efficientnet-lite0", 20.0: "tiny"},
        {20.0: "tiny"},
    ]


def test_a_model_whose_magnification_has_no_encoder_is_refused():
    with pytest.raises(
        SettingsError, match=r"encoder.name \(--encoder\): 20x has no encoder, .* add 20=NAME"
    ):
        load(["zoommil", "mean"], encoder="5=tiny")


def test_an_encoder_for_a_magnification_that_no_model_has_is_refused():
    message = "--encoder: 40x has tiny, but no model has this magnification; the models have 5, 20."
    with pytest.raises(ComparisonError, match=re.escape(message)):
        load(["zoommil", "mean"], encoder=f"{TWO},40=tiny")


def test_a_model_may_have_encoders_of_its_own():
    candidates = load(
        ["zoommil", "mean"], f"zoommil:encoder.name={TWO}", "mean:encoder.name=20=tiny"
    )
    assert encoder_names(candidates) == [
        {5.0: "efficientnet-lite0", 20.0: "tiny"},
        {20.0: "tiny"},
    ]


def test_models_that_agree_on_the_encoder_of_each_magnification_share_a_folder(one_slide, tmp_path):
    candidates = load(["zoommil", "mean", "max"], encoder=TWO)
    stores = prepare_stores(one_slide, candidates, tmp_path / "out", device="cpu")
    (folder,) = set(stores.folders.values())
    assert folder.name == "efficientnet-lite0+tiny"
    file = FeatureFile(folder / "0.h5")
    assert [each.name for each in file.encoders] == ["efficientnet-lite0", "tiny"]
    again = prepare_stores(one_slide, candidates, tmp_path / "out", device="cpu")
    assert again.folders == stores.folders
    features = open_features(folder)
    given = prepare_stores(one_slide, candidates, tmp_path / "new", features=features, device="cpu")
    assert set(given.folders.values()) == {features}


def test_models_with_different_encoders_at_one_magnification_get_folders_of_their_own(
    one_slide, tmp_path
):
    candidates = load(
        ["zoommil", "mean"], f"zoommil:encoder.name={TWO}", "mean:encoder.name=efficientnet-lite0"
    )
    stores = prepare_stores(one_slide, candidates, tmp_path / "out", device="cpu")
    assert {name: folder.name for name, folder in stores.folders.items()} == {
        "zoommil": "efficientnet-lite0+tiny",
        "mean": "efficientnet-lite0",
    }


def test_the_tables_name_the_encoders():
    results = [ModelResult("a", encoder="tiny"), ModelResult("b", encoder=TWO), ModelResult("c")]
    rows = [ComparisonRow(each, {}, None) for each in results]
    assert f"Encoders: a tiny; b {TWO}. " in column_notes(rows)
    assert "Encoder: tiny. " in column_notes(rows[::2])
    assert "Encoder" not in column_notes(rows[2:])
    failed = [ComparisonRow(ModelResult("a", reason="no"), {}, None)]
    assert to_csv(failed, "accuracy").startswith("model,encoder,runs")


@pytest.mark.slow
def test_the_table_has_the_macs_of_each_encoder(table, tmp_path):
    candidates = load(["zoommil", "mean"], encoder=TWO)
    compare(table, candidates, tmp_path / "out", device="cpu", timed=1, resamples=20)
    with (tmp_path / "out" / "results.csv").open() as file:
        zooming, mean = csv.DictReader(file)
    assert (zooming["encoder"], mean["encoder"]) == (TWO, "20=tiny".removeprefix("20="))
    low, high = (load_encoder(name).macs_per_patch() for name in ("efficientnet-lite0", "tiny"))
    metrics = json.loads(
        (tmp_path / "out" / "zoommil" / "seed-0" / "evaluation" / "metrics.json").read_text()
    )
    counts = [step["mean"] for step in metrics["cost"]["patches"]]
    expected = counts[0] * low + counts[1] * high + metrics["cost"]["macs"]["mean"]
    assert float(zooming["macs"]) == pytest.approx(expected, rel=1e-6)
    assert f"Encoders: zoommil {TWO}; mean tiny." in (tmp_path / "out" / "results.md").read_text()
