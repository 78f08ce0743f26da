"""Requested regions are those of the slide; they are read once, in threads, and counted."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor

from parfocal.bag import PixelSource
from parfocal.features.errors import UnwritableError
from parfocal.features.pixel_cache import PixelCache
from parfocal.features.pixels import MAX_KEPT, AugmentedSource, SlidePixels
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Slide, slide_from_array
from parfocal.slide.tissue import find_tissue


def source_of(slide: Slide, **options) -> SlidePixels:
    return SlidePixels(slide, find_tissue(slide, method="all"), **options)


def boxes(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.fixture
def source(picture) -> SlidePixels:
    return source_of(slide_from_array(picture, mpp=0.5))


def test_slides_and_augmented_slides_are_pixel_sources(source):
    assert isinstance(source, PixelSource)
    assert isinstance(AugmentedSource(source, mirror=True, quarter_turns=1), PixelSource)
    assert (source.size, source.mpp) == ((160, 120), 0.5)


def test_a_region_of_the_requested_size_is_not_resampled(source, picture):
    pixels = source.request(boxes((10, 20, 30, 40)), (40, 30)).result()
    assert pixels.shape == (1, 3, 40, 30)
    assert (pixels[0].permute(1, 2, 0).numpy() == picture[20:60, 10:40]).all()


def test_a_larger_region_is_averaged_over_areas(source, picture):
    pixels = source.request(boxes((0, 0, 160, 120)), (30, 80)).result()
    means = picture.reshape(30, 4, 80, 2, 3).mean(axis=(1, 3))
    assert np.abs(pixels[0].permute(1, 2, 0).numpy() - means).max() <= 0.5


def test_a_smaller_region_is_enlarged_bilinearly(source, picture):
    pixels = source.request(boxes((10, 20, 8, 6)), (24, 32)).result()
    small = torch.from_numpy(picture[20:26, 10:18]).permute(2, 0, 1)[None].float()
    expected = F.interpolate(small, (24, 32), mode="bilinear", align_corners=False)
    assert (pixels.float() - expected).abs().max() <= 1


def test_outside_the_scan_pixels_are_white(source, picture):
    pixels = source.request(boxes((-10, -10, 20, 20), (500, 500, 20, 20)), (20, 20)).result()
    assert (pixels[1] == 255).all()
    assert (pixels[0, :, :10] == 255).all()
    assert (pixels[0, :, 10:, 10:].permute(1, 2, 0).numpy() == picture[:10, :10]).all()


def test_no_boxes_give_no_pixels(source):
    assert source.request(torch.zeros(0, 4), (8, 9)).result().shape == (0, 3, 8, 9)


def test_a_request_returns_before_anything_is_read(source, picture, monkeypatch):
    may_read = threading.Event()
    resample = Slide.resample
    monkeypatch.setattr(
        Slide, "resample", lambda *args, **kwargs: may_read.wait() and resample(*args, **kwargs)
    )
    waiting = source.request(boxes((0, 0, 8, 8)), (8, 8))
    assert not waiting.done()
    may_read.set()
    assert (waiting.result()[0, 0].numpy() == picture[:8, :8, 0]).all()


def test_one_thread_is_enough(picture):
    with ThreadPoolExecutor(1) as pool:
        source = source_of(slide_from_array(picture, mpp=0.5), pool=pool)
        futures = [source.request(boxes((x, 0, 8, 8)), (8, 8)) for x in range(20)]
        assert [future.result().shape[0] for future in futures] == [1] * 20


def test_a_region_requested_again_is_read_and_counted_once(picture):
    slide = slide_from_array(picture, mpp=0.5)
    source = source_of(slide)
    twice = boxes((0, 0, 8, 8), (8, 0, 8, 8), (0, 0, 8, 8))
    first = source.request(twice, (8, 8), step=1).result()
    again = source.request(twice[:1], (8, 8), step=1).result()
    assert torch.equal(first[2], again[0])
    cost = slide.cost_meter.total()
    assert cost.patches == (0, 2)
    assert cost.pixels_decoded == 2 * 64
    assert cost.seconds["read"] > 0


def test_a_request_without_a_step_counts_no_patch(picture):
    slide = slide_from_array(picture, mpp=0.5)
    source_of(slide).request(boxes((0, 0, 160, 120)), (12, 16)).result()
    cost = slide.cost_meter.total()
    assert (cost.patches, cost.pixels_decoded) == ((), 160 * 120)


def test_the_least_recently_requested_regions_are_dropped(picture):
    slide = slide_from_array(picture, mpp=0.5)
    source = source_of(slide)
    first = boxes((0, 0, 1, 1))
    source.request(first, (1, 1), step=0).result()
    places = torch.arange(MAX_KEPT)
    more = torch.stack([places % 160, 1 + places // 160, *torch.ones(2, MAX_KEPT)], dim=1)
    source.request(more, (1, 1), step=0).result()
    source.request(first, (1, 1), step=0).result()
    assert slide.cost_meter.total().patches == (MAX_KEPT + 2,)


def test_a_region_that_cannot_be_read_is_an_error_when_it_is_waited_for(source, monkeypatch):
    def damaged(*args, **kwargs):
        raise SlideError("array: damaged at x=0, y=0")

    monkeypatch.setattr(Slide, "resample", damaged)
    waiting = source.request(boxes((0, 0, 8, 8)), (8, 8))
    augmented = AugmentedSource(source, mirror=False, quarter_turns=1).request(
        boxes((0, 0, 8, 8)), (8, 8)
    )
    for future in (waiting, augmented):
        with pytest.raises(SlideError, match="damaged at x=0"):
            future.result()


def test_closing_waits_for_running_reads_and_cancels_the_others(picture, monkeypatch):
    started, may_end = threading.Event(), threading.Event()

    def slow(self, box, size):
        started.set()
        assert may_end.wait(10)
        return np.zeros((*size, 3), dtype=np.uint8)

    monkeypatch.setattr(Slide, "resample", slow)
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as other:
        source = source_of(slide_from_array(picture, mpp=0.5), pool=pool)
        future = source.request(boxes((0, 0, 8, 8), (8, 0, 8, 8)), (8, 8))
        assert started.wait(10)
        closing = other.submit(source.close)
        assert not closing.done()
        may_end.set()
        closing.result(10)
        assert future.exception(10) is not None


def test_tissue_shares_are_those_of_the_mask():
    pixels = np.full((512, 512, 3), 245, dtype=np.uint8)
    pixels[:, :256] = (200, 90, 150)
    slide = slide_from_array(pixels, mpp=16.0)
    share = SlidePixels(slide, find_tissue(slide)).tissue(
        boxes((0, 0, 128, 512), (128, 100, 256, 20), (300, 0, 100, 100), (-64, 0, 128, 64))
    )
    assert share.tolist() == pytest.approx([1, 0.5, 0, 0.5], abs=0.03)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_an_augmented_source_returns_the_transformed_picture(source, picture, mirror, turns):
    augmented = AugmentedSource(source, mirror=mirror, quarter_turns=turns)
    whole = np.rot90(picture[:, ::-1] if mirror else picture, turns)
    assert augmented.size == whole.shape[1::-1]
    pixels = augmented.request(boxes((5, 7, 30, 20)), (20, 30), step=0).result()
    assert (pixels[0].permute(1, 2, 0).numpy() == whole[7:27, 5:35]).all()


def test_an_augmented_source_transforms_its_tissue():
    pixels = np.full((512, 512, 3), 245, dtype=np.uint8)
    pixels[:, :256] = (200, 90, 150)
    slide = slide_from_array(pixels, mpp=16.0)
    augmented = AugmentedSource(
        SlidePixels(slide, find_tissue(slide)), mirror=False, quarter_turns=1
    )
    assert augmented.tissue(boxes((0, 300, 512, 200), (0, 0, 512, 200))).tolist() == [1, 0]


def test_a_cached_region_is_not_read_again(picture, tmp_path):
    found = []
    for _ in range(2):
        slide = slide_from_array(picture, mpp=0.5)
        source = source_of(slide, cache=PixelCache(tmp_path / "cache"))
        pixels = source.request(boxes((3, 4, 16, 16)), (8, 8), step=0).result()
        found.append((pixels, slide.cost_meter.total()))
    (first, first_cost), (again, second_cost) = found
    assert torch.equal(first, again)
    assert (first_cost.pixels_decoded, second_cost.pixels_decoded) == (256, 0)
    assert first_cost.patches == second_cost.patches == (1,)


def test_a_cache_keeps_its_limit_by_deleting_the_least_recently_used(tmp_path):
    cache = PixelCache(tmp_path, limit_gib=20_000 / 2**30)
    region = np.zeros((32, 64, 3), dtype=np.uint8)  # 6,144 bytes and a header of 128
    for name in "abc":
        cache.put(name, region)
    assert cache.get("a") is not None  # used again, so that b is the oldest
    cache.put("d", region)
    kept = [name for name in "abcd" if cache.get(name) is not None]
    assert "b" not in kept
    assert "d" in kept
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.npy")) <= 20_000


def test_a_damaged_region_in_the_cache_is_not_used(tmp_path):
    cache = PixelCache(tmp_path)
    cache.put("a", np.zeros((2, 2, 3), dtype=np.uint8))
    next(tmp_path.rglob("*.npy")).write_bytes(b"no array")
    assert cache.get("a") is None


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableError, match=r"file: the pixel cache cannot be written"):
        PixelCache(tmp_path / "file").put("a", np.zeros((2, 2, 3), dtype=np.uint8))
