"""Places on a slide: the same ones for every encoder, and their mean features."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.encoders.loading import load_encoder
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.header import SlideSettings
from parfocal.probe.places import PatchSize, draw_places, encode_places, patch_size_of
from parfocal.slide.slide import Box, open_slide

SETTINGS = SlideSettings((10.0,), 64)


@pytest.fixture
def path(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    return write_slide(tmp_path / "one.tif")


@pytest.mark.parametrize(
    ("mpp_range", "patch_px", "expected"),
    [
        ((0.05, 50.0), 0, PatchSize(1.0, 256)),
        ((0.4, 0.625), 224, PatchSize(0.5, 224)),
        ((0.25, 2.0), 0, PatchSize(0.5, 256)),
        ((0.8, 1.25), 0, PatchSize(1.0, 256)),
    ],
)
def test_an_encoder_has_its_own_size_of_patches(
    mpp_range: tuple[float, float], patch_px: int, expected: PatchSize
):
    spec: EncoderSpec = replace(load_encoder("tiny").spec, mpp_range=mpp_range, patch_px=patch_px)
    found = patch_size_of(spec, None)
    assert found.side_px == expected.side_px
    assert found.mpp == pytest.approx(expected.mpp)


def test_one_magnification_can_be_given_for_all(path: Path):
    spec = replace(load_encoder("tiny").spec, mpp_range=(0.4, 0.6), patch_px=224)
    assert patch_size_of(spec, 2.0) == PatchSize(2.0, 224)


def test_places_are_centers_of_tissue_patches_drawn_without_replacement(path: Path):
    with open_slide(path) as slide:
        grid = SETTINGS.grid(slide)
        valid = {
            (box.x + box.width / 2, box.y + box.height / 2)
            for box in grid.boxes(0, np.flatnonzero(grid.valid(0)))
        }
        places = draw_places(slide, SETTINGS, count=20, seed=0)
        everything = draw_places(slide, SETTINGS, count=10**6, seed=0)
    assert len({tuple(place) for place in places.tolist()}) == 20
    assert {tuple(place) for place in places.tolist()} <= valid
    assert {tuple(place) for place in everything.tolist()} == valid


def test_places_depend_on_the_seed_and_on_the_content_of_the_file(
    path: Path, tmp_path: Path, write_slide: Callable[..., Path]
):
    renamed = tmp_path / "renamed.tif"
    renamed.write_bytes(path.read_bytes())
    other = write_slide(tmp_path / "other.tif", seed=5)
    drawn = []
    for each, seed in ((path, 0), (renamed, 0), (path, 1), (other, 0)):
        with open_slide(each) as slide:
            drawn.append(draw_places(slide, SETTINGS, count=10, seed=seed).tolist())
    assert drawn[0] == drawn[1]
    assert drawn[0] not in drawn[2:]


@pytest.mark.slow
def test_every_patch_is_drawn_equally_often(path: Path):
    with open_slide(path) as slide:
        total = len(draw_places(slide, SETTINGS, count=10**6, seed=0))
        counts: dict[tuple[float, ...], int] = {}
        for seed in range(200):
            for place in draw_places(slide, SETTINGS, count=total // 2, seed=seed).tolist():
                counts[tuple(place)] = counts.get(tuple(place), 0) + 1
    share = total // 2 / total
    error = np.sqrt(share * (1 - share) / 200)
    shares = np.array(list(counts.values())) / 200
    assert len(counts) == total
    assert abs(shares - share).max() < 5 * error


def test_features_are_the_mean_over_the_patches_around_the_places(path: Path):
    encoder, ticks = load_encoder("tiny"), iter(range(1000))
    with open_slide(path) as slide:
        places = draw_places(slide, SETTINGS, count=70, seed=0)
        found = encode_places(
            slide, places, encoder, PatchSize(2.0, 32), clock=lambda: float(next(ticks))
        )
        patches = [slide.read(Box(x - 32, y - 32, 64, 64), 2.0) for x, y in places.tolist()]
    assert patches[0].shape == (32, 32, 3)
    expected = np.mean([encoder(patch[None])[0].numpy() for patch in patches], axis=0)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-4, atol=1e-5)
    assert found.patches == 70
    assert found.seconds_per_patch == pytest.approx(2 / 70)  # two blocks, one tick each
