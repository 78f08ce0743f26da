"""Slides are opened for a model in one place; their tissue is found once per file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from parfocal.encoders.encoder import Encoder
from parfocal.features.header import SlideSettings
from parfocal.features.opener import input_opener
from parfocal.grid import UnavailableMagnificationError
from parfocal.slide import given_tissue
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import open_slide, slide_from_array

SETTINGS = SlideSettings((1.25, 2.5), 64)


def picture() -> np.ndarray:
    pixels = np.full((256, 512, 3), 245, dtype=np.uint8)
    pixels[:, :240] = (200, 90, 150)
    return pixels


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Image.fromarray(picture()).save(tmp_path / "slide.png")
    return tmp_path / "slide.png"


@pytest.mark.parametrize("takes_pixels", [False, True])
def test_the_tissue_of_a_file_is_found_once(path, encoder: Encoder, monkeypatch, takes_pixels):
    calls = []

    def count(slide, *, method):
        calls.append(slide.id)
        return find_tissue(slide, method=method)

    find_tissue = given_tissue.find_tissue
    monkeypatch.setattr(given_tissue, "find_tissue", count)
    opens = input_opener(SETTINGS, None if takes_pixels else encoder)
    for _ in range(2):
        with open_slide(path, mpp=4.0) as slide:
            opens.check(slide)
            with opens.open(slide) as slide_input:
                assert slide_input.sharpest.patches == 16
    assert calls == ["slide"]


def test_a_file_with_another_mpp_gets_another_grid(path, encoder: Encoder):
    opens = input_opener(SlideSettings((1.25,), 32), encoder)
    counts = []
    for mpp in (4.0, 2.0):
        with open_slide(path, mpp=mpp) as slide, opens.open(slide) as slide_input:
            counts.append(slide_input.sharpest.patches)
    assert counts == [16, 4]


def test_a_file_with_another_tissue_file_gets_another_grid(path, encoder: Encoder, tmp_path):
    opens = input_opener(SlideSettings((1.25,), 32), encoder)
    Image.new("L", (128, 64), 1).save(tmp_path / "mask.png")
    counts = []
    for tissue in (None, tmp_path / "mask.png"):
        with open_slide(path, mpp=4.0, tissue=tissue) as slide, opens.open(slide) as slide_input:
            counts.append(slide_input.sharpest.patches)
    assert counts == [16, 32]


def test_checking_a_slide_reads_no_patch_and_makes_no_cache(path, encoder: Encoder, tmp_path):
    opens = input_opener(SETTINGS, encoder, cache=tmp_path / "cache")
    with open_slide(path, mpp=4.0) as slide:
        opens.check(slide)
        assert slide.cost_meter.total().seconds["read"] == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("takes_pixels", [False, True])
def test_a_slide_that_does_not_fit_fails_the_check(encoder: Encoder, takes_pixels):
    opens = input_opener(SlideSettings((5.0,), 64), None if takes_pixels else encoder)
    with pytest.raises(UnavailableMagnificationError, match=r"5x .* is sharper than the scan"):
        opens.check(slide_from_array(picture(), mpp=4.0))


def test_a_slide_without_tissue_fails_the_check(encoder: Encoder):
    white = np.full((256, 512, 3), 245, dtype=np.uint8)
    with pytest.raises(SlideError, match="no tissue"):
        input_opener(SETTINGS, encoder).check(slide_from_array(white, mpp=4.0))


def test_a_cache_folder_keeps_features_and_pixels(path, encoder: Encoder, tmp_path):
    for chosen, pattern in ((encoder, "*.sqlite"), (None, "*/*.npy")):
        folder = tmp_path / f"cache-{pattern[-3:]}"
        opens = input_opener(SETTINGS, chosen, cache=folder)
        with open_slide(path, mpp=4.0) as slide, opens.open(slide) as slide_input:
            if chosen is None:
                boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
                slide_input.model_input.request(boxes, (64, 64), step=0).result()
            else:
                slide_input.model_input.features()
        assert len(list(folder.glob(pattern))) == 1


@pytest.mark.parametrize("takes_pixels", [False, True])
def test_the_check_returns_the_tissue_out_of_reach(path, encoder: Encoder, takes_pixels):
    opens = input_opener(SETTINGS, None if takes_pixels else encoder)
    with open_slide(path, mpp=4.0) as slide:
        reach = opens.check(slide)
    assert (reach.unreachable, reach.below_min_tissue) == (0, 0)
    assert sum(count for _, _, count in reach.squares.reachable) == 16
