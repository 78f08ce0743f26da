"""Feature files and caches of format version 1 are still read.

The files in tests/fixtures/v1/features were written by the last commit of version 1. Their tissue
method was called "grey", and the license of the encoder `licence`.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from PIL import Image

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import StoredInputs
from parfocal.encoders.encoder import Encoder
from parfocal.features.cache import FeatureCache
from parfocal.features.errors import MixedFeaturesError
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag
from parfocal.features.store import FeatureFile
from parfocal.slide.slide import open_slide

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v1" / "features"
SETTINGS = SlideSettings((2.5, 5.0), patch_size=16, tissue_method="gray", roots="share")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of features with one file of version 1."""
    shutil.copy(FIXTURES / "slide.h5", tmp_path)
    return tmp_path


def test_the_header_of_version_1_has_the_present_names(encoder: Encoder):
    file = FeatureFile(FIXTURES / "slide.h5")
    assert file.format_version == 1
    assert file.header.settings == SETTINGS
    assert set(file.encoders) == {encoder.spec}
    assert file.encoders[0].license == "Apache-2.0"
    file.check(encoder.spec, SETTINGS)


def test_a_bag_of_version_1_has_the_stored_features_bit_for_bit():
    bag = FeatureFile(FIXTURES / "slide.h5").bag()
    with h5py.File(FIXTURES / "slide.h5") as file:
        stored = [torch.from_numpy(file[f"{name}/features"][:]).float() for name in ("2.5x", "5x")]
        valid = file["5x/valid"][:].tolist()
    assert torch.equal(bag.features(), stored[0])
    assert torch.equal(bag.zoom(None).features(), stored[1])
    assert bag.zoom(None).valid.tolist() == valid
    assert (len(bag.rows), bag.features().any()) == (20, True)


def test_a_bag_of_version_1_equals_the_live_bag_of_the_same_slide(encoder: Encoder):
    stored = FeatureFile(FIXTURES / "slide.h5").bag()
    with open_slide(FIXTURES / "slide.png", mpp=2.0) as slide:
        live = live_bag(slide, SETTINGS.grid(slide), encoder)
        assert torch.equal(live.features(), stored.features())
        assert torch.equal(live.zoom(None).features(), stored.zoom(None).features())


def test_extraction_skips_files_of_version_1_and_says_so(folder: Path, encoder: Encoder, caplog):
    caplog.set_level("INFO")
    with Image.open(FIXTURES / "slide.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder.with_name("new.png"))
    slides = [("slide", FIXTURES / "slide.png", 2.0), ("new", folder.with_name("new.png"), 2.0)]
    result = extract_cohort(slides, folder, encoder=encoder, settings=SETTINGS)
    assert (result.skipped, result.done, result.failed) == (("slide",), ("new",), {})
    assert "1 existing feature file has an older format version" in caplog.text
    assert FeatureFile(folder / "new.h5").format_version == 2


def test_a_folder_with_both_versions_is_opened_as_one(folder: Path, encoder: Encoder):
    extract_cohort(
        [("new", FIXTURES / "slide.png", 2.0)], folder, encoder=encoder, settings=SETTINGS
    )
    inputs = StoredInputs(folder, SETTINGS, encoder=encoder.spec)
    bags = []
    for name in ("slide", "new"):
        slide = CohortSlide(name, folder / f"{name}.png", "benign", name, row=2)
        inputs.check(slide)
        with inputs.open(slide) as slide_input:
            bags.append(slide_input.model_input)
    assert torch.equal(bags[0].features(), bags[1].features())


def test_a_cache_filled_by_version_1_is_used(tmp_path: Path, encoder: Encoder):
    (name,) = (path.name for path in FIXTURES.glob("*.sqlite"))
    shutil.copy(FIXTURES / name, tmp_path)
    with open_slide(FIXTURES / "slide.png", mpp=2.0) as slide:
        grid = SETTINGS.grid(slide)
        cache = FeatureCache(tmp_path)
        assert cache.for_slide(slide.fingerprint, encoder.spec, patch_size=16).path.name == name
        features = live_bag(slide, grid, encoder, cache=cache).features()
        assert slide.cost_meter.total().patches == ()
        assert torch.equal(features, live_bag(slide, grid, encoder).features())


def test_version_1_has_the_published_rule_and_no_shares_of_tissue():
    file = FeatureFile(FIXTURES / "slide.h5")
    assert file.header.settings.roots == "share"
    assert file.header.grid.reach is None


def test_the_lowest_stored_magnification_of_version_1_decides_which_patches_exist():
    file = FeatureFile(FIXTURES / "slide.h5")
    alone = file.bag((5.0,))
    assert torch.equal(alone.features(), file.bag().zoom(None).features())
    assert torch.equal(alone.valid, file.bag().zoom(None).valid)
    assert len(alone.rows) == 80


def test_features_of_version_1_do_not_mix_with_the_other_rule(encoder: Encoder):
    file = FeatureFile(FIXTURES / "slide.h5")
    with pytest.raises(MixedFeaturesError, match=r"slide.roots share, and now it is descendants"):
        file.check(encoder.spec, replace(SETTINGS, roots="descendants"))
