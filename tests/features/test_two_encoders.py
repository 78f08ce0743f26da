"""Feature files, live bags and caches with an encoder for each magnification."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from parfocal.cost import count_macs
from parfocal.encoders.encoder import Encoder, NetworkEncoder
from parfocal.encoders.loading import load_encoder
from parfocal.features.cache import FeatureCache
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.extract import extract_cohort, extract_slide
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag
from parfocal.features.opener import open_input
from parfocal.features.store import FeatureFile
from parfocal.models.zoommil import ZoomMIL

WIDTHS = [32, 5, 5]  # one encoder at the lowest magnification, another at the two others


@pytest.fixture
def wide(encoder: Encoder) -> Encoder:
    """A network of 5 features, one third as large as `tiny`."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 5, 7, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    spec = replace(encoder.spec, name="other", dim=5, weights_hash="0" * 16, mean=(0.4, 0.4, 0.4))
    return NetworkEncoder(spec, network)


@pytest.fixture
def encoders(encoder: Encoder, wide: Encoder) -> list[Encoder]:
    return [encoder, wide, wide]


@pytest.fixture
def path(tmp_path, slide, grid, encoders, settings):
    extract_slide(slide, grid, encoders, tmp_path / "a.h5", settings=settings)
    return tmp_path / "a.h5"


def everything(bag) -> list[torch.Tensor]:
    levels = [bag.features()]
    for _ in range(2):
        bag = bag.zoom(None)
        levels.append(bag.features())
    return levels


def test_each_magnification_is_encoded_by_its_own_encoder(slide, grid, encoders):
    levels = everything(live_bag(slide, grid, encoders))
    assert [level.shape[1] for level in levels] == WIDTHS
    for step, encoder in enumerate(encoders):
        valid = np.flatnonzero(grid.valid(step))
        boxes = grid.boxes(step, valid)
        patches = np.stack([slide.read(box, grid.mpps[step]) for box in boxes])
        expected = torch.cat([encoder(patch[None]) for patch in patches]).half().float()
        assert torch.allclose(levels[step][valid], expected, atol=1e-3)


def test_stored_features_equal_live_ones_bit_for_bit(slide, grid, encoders, path):
    live, stored = everything(live_bag(slide, grid, encoders)), everything(FeatureFile(path).bag())
    for each, other in zip(live, stored, strict=True):
        assert torch.equal(each, other)


def test_the_cost_counts_the_macs_of_each_encoder(slide, grid, encoders):
    everything(live_bag(slide, grid, encoders))
    cost = slide.cost_meter.total()
    counts = [int(grid.valid(step).sum()) for step in range(3)]
    assert cost.patches == tuple(counts)
    macs = [count_macs(encoder.network, (1, 3, 64, 64)) for encoder in encoders]
    assert macs[0] != macs[1]
    assert cost.encoding_macs == tuple(n * each for n, each in zip(counts, macs, strict=True))
    assert cost.macs == sum(cost.encoding_macs)


def test_one_encoder_equals_the_same_encoder_at_every_magnification(
    tmp_path, slide, grid, encoder, settings
):
    torch.manual_seed(0)
    model = ZoomMIL(32, 2, dim=16, k=2).eval()
    logits, costs, files = [], [], []
    for number, given in enumerate((encoder, [encoder] * 3)):
        before = slide.cost_meter.total()
        logits.append(model(live_bag(slide, grid, given)).logits)
        after = slide.cost_meter.total()
        costs.append((after.macs - before.macs, np.subtract(after.patches, before.patches or 0)))
        extract_slide(slide, grid, given, tmp_path / f"{number}.h5", settings=settings)
        with h5py.File(tmp_path / f"{number}.h5") as file:
            files.append({key: str(value) for key, value in file.attrs.items()})
            assert list(file["2.5x"].attrs) == ["mpp"]
    assert torch.equal(*logits)
    assert costs[0][0] == costs[1][0]
    assert costs[0][1].tolist() == costs[1][1].tolist()
    assert files[0] == files[1]


def test_a_feature_file_says_which_encoder_made_what(path, encoders):
    file = FeatureFile(path)
    assert file.encoders == tuple(encoder.spec for encoder in encoders)
    with h5py.File(path) as stored:
        assert "encoder_name" not in stored.attrs
        names = [stored[group].attrs["encoder_name"] for group in ("2.5x", "5x", "20x")]
        assert names == ["tiny", "other", "other"]
        assert stored["5x"].attrs["encoder_dim"] == stored["5x/features"].shape[1] == 5


def test_features_are_checked_against_the_encoder_of_each_magnification(path, encoders, settings):
    file = FeatureFile(path)
    tiny, other, _ = (encoder.spec for encoder in encoders)
    file.check([tiny, other, other], settings)
    with pytest.raises(
        MixedFeaturesError,
        match=r"a.h5: the features at 2.5x were made with encoder tiny \(weights random-seed-0\), "
        r"and now it is other \(weights 0{16}\); the two do not mix",
    ):
        file.check(other, settings)
    with pytest.raises(MixedFeaturesError, match=r"at 5x were made with encoder other .* is tiny"):
        file.check(tiny, settings)
    moved = replace(other, mean=(0.1, 0.1, 0.1))
    with pytest.raises(MixedFeaturesError, match=r"at 20x were made with preparation of pixels 64"):
        file.check([tiny, other, moved], settings)
    with pytest.raises(ValueError, match="2 encoders for 3 magnifications"):
        file.check([tiny, other], settings)


def test_a_file_is_used_at_some_magnifications_with_their_encoders(tmp_path, slide, encoders):
    settings = SlideSettings((2.5, 5.0, 20.0), 16, roots="share", tissue_method="all")
    grid = settings.grid(slide)
    extract_slide(slide, grid, encoders, tmp_path / "a.h5", settings=settings)
    file = FeatureFile(tmp_path / "a.h5")
    sharp = replace(settings, magnifications=(5.0, 20.0))
    file.check(encoders[1].spec, sharp)
    assert file.bag((5.0, 20.0)).features().shape[1] == 5
    with pytest.raises(MixedFeaturesError, match="at 5x were made with encoder other"):
        file.check(encoders[0].spec, sharp)


def test_a_feature_file_without_an_encoder_at_one_magnification_is_damaged(path):
    with h5py.File(path, "r+") as file:
        del file["5x"].attrs["encoder_name"]
    with pytest.raises(StoreError, match="incomplete or damaged"):
        FeatureFile(path)


def test_features_of_another_width_than_the_encoder_says_are_damaged(path):
    with h5py.File(path, "r+") as file:
        file["5x"].attrs["encoder_dim"] = 32
    with pytest.raises(StoreError, match="incomplete or damaged"):
        FeatureFile(path)


def test_each_encoder_has_a_cache_file_of_its_own(tmp_path, slide, grid, encoders):
    cache = FeatureCache(tmp_path / "cache")
    first = everything(live_bag(slide, grid, encoders, cache=cache))
    macs = slide.cost_meter.total().macs
    second = everything(live_bag(slide, grid, encoders, cache=cache))
    assert slide.cost_meter.total().macs == macs > 0
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 2


def test_extraction_takes_cached_features_of_each_encoder(
    tmp_path, slide, grid, encoders, settings
):
    cache = FeatureCache(tmp_path / "cache")
    levels = everything(live_bag(slide, grid, encoders, cache=cache))
    macs = slide.cost_meter.total().macs
    extract_slide(slide, grid, encoders, tmp_path / "a.h5", settings=settings, cache=cache)
    assert slide.cost_meter.total().macs == macs
    stored = everything(FeatureFile(tmp_path / "a.h5").bag())
    assert all(torch.equal(*pair) for pair in zip(levels, stored, strict=True))


def test_a_folder_does_not_mix_features_of_other_ladders(tmp_path, cohort_slide, encoders):
    settings = SlideSettings((2.5, 5.0, 20.0), 16, tissue_method="all")
    arguments = {"settings": settings, "encoder": encoders}
    assert extract_cohort([cohort_slide], tmp_path / "out", **arguments).failed == {}
    assert extract_cohort([cohort_slide], tmp_path / "out", **arguments).skipped == ("a",)
    with pytest.raises(MixedFeaturesError, match="at 5x were made with encoder other"):
        extract_cohort([cohort_slide], tmp_path / "out", settings=settings, encoder=encoders[0])
    with pytest.raises(ValueError, match="2 encoders for 3 magnifications"):
        extract_cohort([cohort_slide], tmp_path / "out", settings=settings, encoder=encoders[:2])


@pytest.fixture
def cohort_slide(tmp_path):
    from PIL import Image  # noqa: PLC0415

    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return "a", tmp_path / "a.png", 0.5


def test_an_input_is_opened_with_an_encoder_for_each_magnification(slide, encoders):
    settings = SlideSettings((2.5, 5.0, 20.0), 16, tissue_method="all")
    with open_input(slide, settings, encoders) as opened:
        assert opened.model_input.features().shape[1] == 32
        assert opened.model_input.zoom(None).features().shape[1] == 5
    with pytest.raises(ValueError, match="2 encoders for 3 magnifications"):
        open_input(slide, settings, encoders[:2])


def test_a_model_zooms_over_features_of_two_widths(slide, grid, encoders, path):
    torch.manual_seed(0)
    model = ZoomMIL(WIDTHS, 2, dim=16, k=2).eval()
    live, stored = model(live_bag(slide, grid, encoders)), model(FeatureFile(path).bag())
    assert torch.equal(live.logits, stored.logits)
    assert load_encoder("tiny").spec == encoders[0].spec
