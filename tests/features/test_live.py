import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parfocal.bag import Bag
from parfocal.encoders import queue
from parfocal.encoders.loading import load_encoder
from parfocal.features.extract import extract_slide
from parfocal.features.header import SlideSettings
from parfocal.features.live import PatchEncoder, live_bag
from parfocal.features.store import FeatureFile
from parfocal.grid import PatchGrid
from parfocal.models.zoommil import ZoomMIL
from parfocal.slide.slide import Slide, slide_from_array
from parfocal.slide.tissue import find_tissue


@pytest.fixture
def bag(slide, grid, encoder):
    return live_bag(slide, grid, encoder)


@pytest.fixture
def stored(tmp_path, slide, grid, encoder, settings):
    extract_slide(slide, grid, encoder, tmp_path / "a.h5", settings=settings)
    return FeatureFile(tmp_path / "a.h5").bag()


def one_hot(*rows: int, of: int) -> torch.Tensor:
    return torch.eye(of)[list(rows)]


def zoom_twice(bag: Bag) -> list[torch.Tensor]:
    """Zoom twice, by selecting and by mixing patches; return the features of every bag."""
    middle = bag.zoom(one_hot(1, 5, of=6))
    mixed = bag.zoom(torch.softmax(torch.arange(12.0).reshape(2, 6), dim=1))
    sharp = [middle.zoom(one_hot(0, 3, 7, of=8)), mixed.zoom(one_hot(2, of=8))]
    return [step.features() for step in (bag, middle, mixed, *sharp)]


def test_a_live_bag_is_a_bag(bag):
    assert isinstance(bag, Bag)
    assert bag.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert bag.valid.all()


def test_live_features_equal_stored_ones_bit_for_bit(bag, stored):
    for live, from_file in zip(zoom_twice(bag), zoom_twice(stored), strict=True):
        assert torch.equal(live, from_file)


def test_live_and_stored_patches_have_the_same_places(bag, stored, grid):
    for step in range(3):
        assert bag.cells().equal(stored.cells())
        assert np.array_equal(np.rint(bag.cells().numpy() * grid.side_px(step)), grid.coords(step))
        if step < 2:
            bag, stored = bag.zoom(None), stored.zoom(None)


def test_a_model_computes_the_same_logits_live_and_stored_bit_for_bit(bag, stored, encoder):
    torch.manual_seed(0)
    model = ZoomMIL(encoder.spec.dim, 2, dim=16, k=2).eval()
    assert torch.equal(model(bag).logits, model(stored).logits)


def test_features_are_those_of_patches_read_one_by_one(bag, slide, grid, encoder):
    boxes = grid.boxes(1, np.array([4, 5, 6, 7]))
    patches = np.stack([slide.read(box, grid.mpps[1]) for box in boxes])
    expected = encoder(patches).half().float()
    assert torch.equal(bag.zoom(one_hot(1, of=6)).features(), expected)


def test_only_requested_patches_are_read_and_counted(bag, slide):
    middle = bag.zoom(one_hot(0, 1, of=6))
    sharp = middle.zoom(one_hot(3, of=8))
    assert slide.cost_meter.total().patches == ()  # zooming reads nothing
    bag.features()
    assert slide.cost_meter.total().patches == (6,)
    middle.features()
    assert slide.cost_meter.total().patches == (6, 8)
    sharp.features()
    assert slide.cost_meter.total().patches == (6, 8, 16)


def test_only_patches_in_a_mixture_are_read(bag, slide):
    mixture = torch.tensor([[0.5, 0.5, 0, 0, 0, 0], [0, 0.2, 0, 0.8, 0, 0]])
    bag.zoom(mixture).features()
    assert slide.cost_meter.total().patches == (0, 12)  # the children of 0, 1 and 3


def test_macs_pixels_and_seconds_are_measured(bag, slide, grid, encoder):
    with slide.cost_meter.measure_macs():  # as around a model; does not count the encoder twice
        bag.features()
    cost = slide.cost_meter.total()
    assert cost.macs == 6 * encoder.macs_per_patch()
    assert cost.pixels_decoded == 300 * 200  # the six patches cover the scan
    assert cost.seconds["read"] > 0
    assert cost.seconds["encode"] > 0


def test_a_patch_requested_twice_is_encoded_once(bag, slide):
    twice = one_hot(0, of=6)
    bag.zoom(twice).features()
    bag.zoom(twice).features()
    bag.zoom(one_hot(0, 1, of=6)).features()
    assert slide.cost_meter.total().patches == (0, 8)


def test_a_patch_beyond_the_scan_is_zero_and_neither_read_nor_counted(bag, slide):
    edge = bag.zoom(one_hot(2, of=6))  # its right half lies beyond the scan
    assert edge.valid.tolist() == [True, True, False, False]
    assert edge.features().any(dim=1).tolist() == [True, True, False, False]
    cost = slide.cost_meter.total()
    assert cost.patches == (0, 2)
    assert cost.pixels_decoded == (300 - 256) * 128


@pytest.fixture
def thin() -> Slide:
    """A strip of tissue from top to bottom, x 396 to 436, on 1024 px of glass."""
    pixels = np.full((1024, 1024, 3), 245, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 60, (1024, 40, 3))
    pixels[:, 396:436] = noise + np.array([150, 60, 140])
    return slide_from_array(pixels, mpp=1.0)


@pytest.fixture
def on_tissue(thin) -> PatchGrid:
    """4 patches of 256 px, 8 of their 16 children, 64 of their 256 grandchildren of 32 px."""
    return PatchGrid.over(find_tissue(thin), (8, 4, 1), 32)


def test_a_child_without_tissue_is_zero_and_neither_read_nor_counted(thin, on_tissue, encoder):
    before = thin.cost_meter.total().pixels_decoded
    middle = live_bag(thin, on_tissue, encoder).zoom(one_hot(0, of=4))
    assert middle.valid.tolist() == [False, False, True, True]
    assert middle.features().any(dim=1).tolist() == [False, False, True, True]
    cost = thin.cost_meter.total()
    assert cost.patches == (0, 2)
    assert cost.pixels_decoded - before == 2 * 128**2


@pytest.mark.parametrize("k", [3, 1000])
def test_without_glass_live_and_stored_predictions_are_equal_bit_for_bit(
    tmp_path, thin, on_tissue, encoder, k
):
    settings = SlideSettings((1.25, 2.5, 10), patch_size=32)
    extract_slide(thin, on_tissue, encoder, tmp_path / "a.h5", settings=settings)
    assert thin.cost_meter.total().patches == (4, 8, 64)
    torch.manual_seed(0)
    model = ZoomMIL(encoder.spec.dim, 2, dim=16, k=k).eval()
    stored = model(FeatureFile(tmp_path / "a.h5").bag())
    live = model(live_bag(thin, on_tissue, encoder))
    assert torch.equal(live.logits, stored.logits)
    for step, look in enumerate(live.looks):
        exists = torch.from_numpy(on_tissue.valid(step, look.rows.numpy()))
        assert torch.equal(look.score > 0, exists)
        assert look.selected is None or exists[look.selected].all()


def test_training_reads_no_glass(thin, on_tissue, encoder):
    model = ZoomMIL(encoder.spec.dim, 2, dim=16, k=2).train()
    model(live_bag(thin, on_tissue, encoder)).logits.sum().backward()
    coarse, middle, sharp = thin.cost_meter.total().patches
    assert (coarse, middle <= 8, sharp <= 64) == (4, True, True)


def test_features_are_rounded_to_float16(bag):
    features = bag.features()
    assert features.dtype == torch.float32
    assert torch.equal(features, features.half().float())


def test_features_do_not_depend_on_the_number_of_threads(slide, grid, encoder):
    one, eight = (live_bag(slide, grid, encoder, threads=threads) for threads in (1, 8))
    for a, b in zip(zoom_twice(one), zoom_twice(eight), strict=True):
        assert torch.equal(a, b)


def test_patches_are_read_while_earlier_ones_are_encoded(slide, grid, monkeypatch):
    monkeypatch.setattr("parfocal.encoders.encoder.CPU_BATCH", 2)
    encoder = load_encoder("tiny")
    assert encoder.batch_size == 2
    readers: list[int] = []
    encoder.network.register_forward_hook(lambda *_: readers.append(threading.active_count()))
    before = threading.active_count()
    live_bag(slide, grid, encoder, threads=2).features()
    assert max(readers) > before
    assert threading.active_count() == before


def test_an_error_in_a_reading_thread_is_raised(bag, slide):
    slide.close()
    with pytest.raises(ValueError, match="the slide is closed"):
        bag.features()


def test_features_can_be_requested_again_after_an_interruption(bag, slide, encoder):
    def interrupt(*_):
        raise KeyboardInterrupt

    hook = encoder.network.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        bag.features()
    hook.remove()
    assert bag.features().any(dim=1).all()
    assert slide.cost_meter.total().patches == (6,)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet50-layer3-random"])
def test_the_batch_changes_a_feature_by_little_more_than_a_float16_step(name):
    patches = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    encoder = load_encoder(name)
    together = encoder(patches).half().float()
    alone = torch.cat([encoder(patches[[i]]) for i in range(5)]).half().float()
    one_step = np.spacing(together.abs().half().numpy()).astype(np.float32)
    tolerance = torch.from_numpy(one_step) + 1e-4 * together.abs().amax(dim=1, keepdim=True)
    assert ((together - alone).abs() <= tolerance).all()


def test_predicting_live_does_not_load_h5py():
    code = "import sys, parfocal.features.live, parfocal.features; sys.exit('h5py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Counted:
    """An encoder that counts its batches."""

    def __init__(self, encoder):
        self._encoder, self.batches = encoder, []
        self.spec, self.device, self.workers = encoder.spec, encoder.device, encoder.workers
        self.batch_size, self.macs_per_patch = encoder.batch_size, encoder.macs_per_patch

    def __call__(self, patches):
        self.batches.append(len(patches))
        return self._encoder(patches)


def test_slides_in_flight_pay_for_the_batches_that_they_share(grid, encoder, monkeypatch):
    counted, clock = Counted(encoder), itertools.count()
    fake = SimpleNamespace(perf_counter=lambda: next(clock))  # every batch takes one second
    monkeypatch.setattr(queue, "time", fake)
    shared, rng = queue.EncoderQueue(counted), np.random.default_rng(0)
    slides = [
        slide_from_array(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8), mpp=0.5)
        for _ in range(3)
    ]
    encoders, rows = (shared,) * 3, np.flatnonzero(grid.valid(1))

    def encode(slide):
        list(PatchEncoder(slide, grid, encoders, 1).encode(1, rows))
        return slide.cost_meter.total()

    with ThreadPoolExecutor(3) as pool:
        bills = list(pool.map(encode, slides))
    assert [bill.patches for bill in bills] == [(0, len(rows))] * 3
    assert sum(counted.batches) == 3 * len(rows)
    assert sum(bill.seconds["encode"] for bill in bills) == pytest.approx(len(counted.batches))
