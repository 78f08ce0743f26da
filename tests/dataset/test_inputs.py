"""One function decides how the slides of a cohort are opened for a model."""

import threading
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foreign_layouts import write_trident
from parfocal.bag import Bag, PixelSource
from parfocal.dataset.cohort import CohortError, CohortSlide
from parfocal.dataset.inputs import Inputs, LiveInputs, StoredInputs, cohort_inputs
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.features.rows import Hdf5Rows
from parfocal.features.store import FeatureFile
from parfocal.slide.errors import SlideError

SETTINGS = SlideSettings((1.25, 2.5), 64)


@pytest.fixture
def slide(tmp_path: Path) -> CohortSlide:
    pixels = np.full((256, 512, 3), 245, dtype=np.uint8)
    pixels[:, :240] = np.random.default_rng(0).integers(90, 200, (256, 240, 3))
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    return CohortSlide("001", tmp_path / "scan.png", "benign", "p1", row=2, mpp=4.0)


@pytest.fixture
def encoder() -> Encoder:
    return load_encoder("tiny")


@pytest.fixture
def features(slide: CohortSlide, encoder: Encoder, tmp_path: Path) -> Path:
    folder = tmp_path / "features"
    extract_cohort(
        [(slide.slide_id, slide.path, slide.mpp)], folder, encoder=encoder, settings=SETTINGS
    )
    return folder


def test_stored_and_live_bags_are_equal(slide, encoder: Encoder, features: Path):
    stored = cohort_inputs(SETTINGS, pytest.fail, features=features)
    live = cohort_inputs(SETTINGS, lambda: encoder)
    assert (type(stored), type(live)) == (StoredInputs, LiveInputs)
    assert stored.encoders == live.encoders == (encoder.spec,) * len(SETTINGS.magnifications)
    assert stored.source_files(slide) == (features / "001.h5",)
    assert live.source_files(slide) == (slide.path,)
    with stored.open(slide) as first, live.open(slide) as second:
        assert isinstance(first.model_input, Bag)
        assert torch.equal(first.model_input.features(), second.model_input.features())
        assert first.sharpest == second.sharpest
        assert first.cost_meter.total().patches == ()
        assert second.cost_meter.total().patches == (4,)


@pytest.fixture
def trident(features: Path, tmp_path: Path) -> dict[float, Path]:
    """The features in TRIDENT's layout: one row in a chunk, row by row of the slide."""
    file, folders = FeatureFile(features / "001.h5"), {}
    for step, magnification in enumerate(file.magnifications):
        rows = np.flatnonzero(file.header.grid.valid(step))
        rows = rows[np.lexsort(file.coords(step)[rows].T)]
        folders[magnification] = write_trident(
            tmp_path / "job",
            "001",
            file.coords(step)[rows],
            file.rows(step).read(np.sort(rows))[np.argsort(np.argsort(rows))],
            magnification=magnification,
            patch_size=64,
            side=64 * 2.5 / magnification,
            scanned=2.5,
            size=file.header.grid.slide_size,
            encoder="tiny",
        )
    return folders


@pytest.mark.parametrize("tool", ["parfocal", "TRIDENT"])
def test_a_zoom_into_the_patches_of_the_last_visit_reads_nothing(
    slide, features: Path, trident: dict[float, Path], tool: str, monkeypatch
):
    inputs = StoredInputs(features if tool == "parfocal" else trident, SETTINGS)
    here, read_rows = [], Hdf5Rows.read

    def read(table: Hdf5Rows, rows: np.ndarray) -> np.ndarray:
        if threading.current_thread() is threading.main_thread():
            here.append(len(rows))
        return read_rows(table, rows)

    monkeypatch.setattr(Hdf5Rows, "read", read)
    first, second = torch.eye(4)[:1], torch.eye(4)[1:2]

    def visit(select: torch.Tensor, *, whole: bool = False) -> torch.Tensor:
        inputs.read_ahead([slide], whole=whole)
        for pending in inputs._ahead._started.get("001", ()):
            wait([pending._future])
        here.clear()
        with inputs.open(slide) as opened:
            lowest = opened.model_input.features()
            return torch.cat([lowest, opened.model_input.zoom(select).features()])

    expected = visit(first)
    assert here == [4]  # the children: which they are was not known
    assert torch.equal(visit(first), expected)
    assert here == []
    other = visit(second)
    assert here == [4]
    with inputs.open(slide) as opened:  # without reading ahead
        bag = opened.model_input
        assert torch.equal(other, torch.cat([bag.features(), bag.zoom(second).features()]))
        assert torch.equal(expected, torch.cat([bag.features(), bag.zoom(first).features()]))
    inputs._visited.clear()
    assert torch.equal(visit(second, whole=True), other)
    assert here == []


def test_without_an_encoder_slides_are_opened_as_pixels(slide):
    inputs = cohort_inputs(SETTINGS, None)
    assert isinstance(inputs, Inputs)
    assert inputs.encoders == ()
    inputs.check(slide)
    with inputs.open(slide) as slide_input:
        assert isinstance(slide_input.model_input, PixelSource)


def test_a_model_that_takes_pixels_cannot_use_stored_features(features: Path):
    with pytest.raises(CohortError, match="takes pixels, so it cannot use stored features; leave"):
        cohort_inputs(SETTINGS, None, features=features)


def test_a_folder_without_features_is_refused(tmp_path: Path):
    with pytest.raises(StoreError, match=r"the folder of features does not exist"):
        cohort_inputs(SETTINGS, pytest.fail, features=tmp_path / "none")
    with pytest.raises(StoreError, match=r"no feature files \(\*\.h5\) here"):
        cohort_inputs(SETTINGS, pytest.fail, features=tmp_path)


def test_stored_features_of_other_patches_fail_the_check(slide, features: Path):
    inputs = cohort_inputs(SlideSettings((1.25, 2.5), 32), pytest.fail, features=features)
    with pytest.raises(MixedFeaturesError, match="patch size 64, and now it is 32"):
        inputs.check(slide)


def test_a_missing_mpp_is_reported_with_the_column_of_the_cohort(slide):
    unknown = CohortSlide("001", slide.path, "benign", "p1", row=2)
    with pytest.raises(SlideError, match="in the cohort's mpp column"):
        cohort_inputs(SETTINGS, None).check(unknown)


@pytest.fixture
def masked(slide: CohortSlide, tmp_path: Path) -> CohortSlide:
    """The slide with a file of its tissue, which is on its right."""
    mask = np.zeros((64, 128), dtype=np.uint8)
    mask[:, 64:] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return replace(slide, tissue=tmp_path / "mask.png")


def test_the_tissue_file_of_a_slide_is_used(slide: CohortSlide, masked: CohortSlide, encoder):
    inputs = cohort_inputs(SETTINGS, lambda: encoder)
    with inputs.open(masked) as opened:
        coords = opened.grid.coords(1, np.flatnonzero(opened.grid.valid(1)))
    assert coords[:, 0].min() == 256
    pixels = cohort_inputs(SETTINGS, None)
    with pixels.open(masked) as opened:
        boxes = torch.tensor([[0.0, 0, 256, 256], [256, 0, 256, 256]])
        assert opened.model_input.tissue(boxes).tolist() == [0, 1]


def test_features_of_other_tissue_are_refused(
    slide: CohortSlide, masked: CohortSlide, encoder: Encoder, features: Path, tmp_path: Path
):
    with pytest.raises(
        MixedFeaturesError, match=r"tissue found on the slide, and now .* from a file"
    ):
        StoredInputs(features, SETTINGS).check(masked)
    files = [(slide.slide_id, slide.path, slide.mpp)]
    tissue = {masked.slide_id: masked.tissue}
    with pytest.raises(MixedFeaturesError, match=r"tissue found on the slide"):
        extract_cohort(files, features, encoder=encoder, settings=SETTINGS, tissue=tissue)
    other = tmp_path / "masked"
    extract_cohort(files, other, encoder=encoder, settings=SETTINGS, tissue=tissue)
    stored = StoredInputs(other, SETTINGS)
    stored.check(masked)
    with (
        stored.open(masked) as first,
        cohort_inputs(SETTINGS, lambda: encoder).open(masked) as live,
    ):
        assert torch.equal(first.model_input.features(), live.model_input.features())
    with pytest.raises(MixedFeaturesError, match=r"tissue from a file .* found on the slide"):
        StoredInputs(other, SETTINGS).check(slide)
    assert masked.tissue is not None
    Image.new("L", (128, 64), 1).save(masked.tissue)
    with pytest.raises(MixedFeaturesError, match=r"tissue from a file .* from a file"):
        StoredInputs(other, SETTINGS).check(masked)
