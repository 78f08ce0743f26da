import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from parfocal.cost import CostMeter
from parfocal.slide import shrink
from parfocal.slide.errors import ImplausibleMppError, MissingMppError
from parfocal.slide.identity import slide_id
from parfocal.slide.slide import Box, Slide, open_slide, slide_from_array

WHITE = 255
ROUNDING = 0.56  # half a gray value, plus a ninth of a half for a 3 x 3 block


def whole(slide):
    return Box(0, 0, *slide.size)


def halved(pixels, factor=2):
    """Average whole blocks and drop the remainder, as scanners do."""
    height, width = (side // factor for side in pixels.shape[:2])
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


# --- which level, which resolution ---


def test_a_scan_is_read_unchanged_at_its_own_mpp(noise):
    slide = slide_from_array(noise, mpp=0.5)
    assert (slide.read(Box(10, 20, 64, 32), 0.5) == noise[20:52, 10:74]).all()


@pytest.mark.parametrize("wanted", [0.476, 0.5, 0.525])
def test_a_scan_is_read_unchanged_within_5_percent_of_its_mpp(noise, wanted):
    slide = slide_from_array(noise, mpp=0.5)
    assert slide.achieved_mpp(wanted) == 0.5
    assert (slide.read(Box(10, 20, 64, 32), wanted) == noise[20:52, 10:74]).all()


def test_the_requested_mpp_is_achieved_beyond_5_percent(noise):
    assert slide_from_array(noise, mpp=0.5).achieved_mpp(0.53) == 0.53


def test_an_mpp_sharper_than_the_scan_is_refused(noise):
    slide = slide_from_array(noise, mpp=0.5, name="S-7")
    message = r"S-7: 40x \(0.25 µm/px\) is sharper than the scan, which is 20x \(0.5 µm/px\)"
    with pytest.raises(ValueError, match=message):
        slide.read(whole(slide), 0.25)


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_an_mpp_must_be_a_positive_number(noise, mpp):
    with pytest.raises(ValueError, match="mpp must be a positive number"):
        slide_from_array(noise, mpp=0.5).achieved_mpp(mpp)


@pytest.mark.parametrize(
    ("mpp", "level"), [(0.5, 0), (0.99, 0), (1.0, 1), (1.9, 1), (2.0, 2), (9.0, 2)]
)
def test_the_coarsest_level_that_is_sharp_enough_is_decoded(pyramid, noise, mpp, level):
    path = pyramid([noise, halved(noise), halved(noise, 4)])
    with open_slide(path) as slide:
        slide.read(Box(0, 0, 160, 160), mpp)
        assert slide.cost_meter.total().pixels_decoded == (160 // 2**level) ** 2


def test_a_level_coarser_only_by_the_rounding_of_its_size_is_sharp_enough(pyramid, noise):
    small = halved(noise, 3)[:99, :132]  # 301 / 99 is 3.04, 403 / 132 is 3.05: not whole
    with open_slide(pyramid([noise, small])) as slide:
        downsample = slide.levels[1].downsample
        assert downsample == pytest.approx((301 / 99 + 403 / 132) / 2)
        pixels = slide.read(Box(0, 0, 120, 120), slide.mpp * downsample * 0.997)
        assert slide.cost_meter.total().pixels_decoded == len(pixels) ** 2


# --- area averaging ---


@pytest.mark.parametrize("step", [1.4, 2.0, 3.0, 3.7, 5.33])
def test_a_patch_is_the_area_average_of_the_scan(noise, area_resize, step):
    slide = slide_from_array(noise, mpp=0.5)
    pixels = slide.read(Box(30, 20, 40 * step, 30 * step), 0.5 * step)
    assert pixels.shape == (30, 40, 3)
    expected = area_resize(noise, 30, 20, step, (40, 30))
    assert np.abs(pixels - expected).max() <= ROUNDING


@pytest.mark.parametrize(("factor", "step"), [(4, 1.0), (2, 1.4), (4, 1.55), (4, 3.0)])
def test_a_patch_is_the_area_average_of_a_stored_level(pyramid, noise, area_resize, factor, step):
    cropped = noise[:300, :400]
    levels = [cropped, halved(cropped), halved(cropped, 4)]
    with open_slide(pyramid(levels)) as slide:
        pixels = slide.read(
            Box(8 * factor, 4 * factor, *(15 * step * factor,) * 2), 0.5 * factor * step
        )
    expected = area_resize(levels[factor // 2], 8, 4, step, (15, 15))
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= ROUNDING


def test_a_fractional_downsample_keeps_positions(pyramid, area_resize):
    """A disc at known level-0 pixels is found there on a level that is 2.93 times smaller."""
    y, x = np.mgrid[:301, :403]
    full = np.where(((x - 330) ** 2 + (y - 240) ** 2 < 20**2)[..., None], 0, WHITE)
    full = np.repeat(full, 3, axis=2).astype(np.uint8)
    size = (round(403 / 2.93), round(301 / 2.93))
    small = area_resize(full, 0, 0, 403 / size[0], size)
    with open_slide(pyramid([full, np.rint(small).astype(np.uint8)])) as slide:
        pixels = slide.read(Box(280, 190, 100, 100), 0.5 * 4)
    darkness = WHITE - pixels[..., 0].astype(int)
    row, column = (np.average(np.arange(25), weights=darkness.sum(axis=axis)) for axis in (1, 0))
    snapped = 2.93 / 2  # to the nearest stored pixel
    assert 280 + (column + 0.5) * 4 == pytest.approx(330, abs=snapped)
    assert 190 + (row + 0.5) * 4 == pytest.approx(240, abs=snapped)


def test_origins_are_snapped_to_the_nearest_stored_pixel(noise):
    slide = slide_from_array(noise, mpp=0.5)
    assert (slide.read(Box(9.6, 20.4, 64, 32), 0.5) == noise[20:52, 10:74]).all()


def test_the_size_is_rounded_and_at_least_one_pixel(noise):
    slide = slide_from_array(noise, mpp=0.5)
    assert slide.read(Box(0, 0, 101, 99), 1.0).shape == (50, 50, 3)
    assert slide.read(Box(5, 5, 0.2, 3), 8.0).shape == (1, 1, 3)


def test_neighboring_patches_equal_one_large_read(noise):
    slide = slide_from_array(noise, mpp=0.5)
    left, right = (slide.read(Box(x, 0, 120, 60), 1.5) for x in (0, 120))
    assert (np.hstack([left, right]) == slide.read(Box(0, 0, 240, 60), 1.5)).all()


@pytest.mark.parametrize("step", [2.0, 2.3])
def test_a_box_read_in_blocks_equals_one_read(noise, monkeypatch, step):
    slide = slide_from_array(noise, mpp=0.5)
    whole_box = slide.read(whole(slide), 0.5 * step)
    monkeypatch.setattr(shrink, "BLOCK_PX", 50)
    assert (slide.read(whole(slide), 0.5 * step) == whole_box).all()


def test_blocks_are_bounded(noise, monkeypatch):
    sizes = []
    slide = slide_from_array(noise, mpp=0.5)
    read = slide._scan.read_level
    monkeypatch.setattr(shrink, "BLOCK_PX", 64)
    monkeypatch.setattr(shrink, "MAX_STEP", 16.0)
    monkeypatch.setattr(slide._scan, "read_level", lambda *box: sizes.append(box[3:]) or read(*box))
    pixels = slide.read(whole(slide), 50.0)  # an output pixel is wider than a block
    assert max(max(size) for size in sizes) <= 65
    assert sum(width * height for width, height in sizes) == pytest.approx(
        noise[..., 0].size, rel=0.1
    )
    assert pixels.mean() == pytest.approx(noise.mean(), abs=1)


# --- beyond the edge ---


def test_pixels_outside_the_scan_are_white(noise):
    pixels = slide_from_array(noise, mpp=0.5).read(Box(-10, -5, 30, 20), 0.5)
    assert (pixels[:5] == WHITE).all()
    assert (pixels[:, :10] == WHITE).all()
    assert (pixels[5:, 10:] == noise[:15, :20]).all()


@pytest.mark.usefixtures("either_reader")
def test_a_box_far_outside_is_white_and_nothing_is_decoded(pyramid, noise):
    with open_slide(pyramid([noise])) as slide:
        assert (slide.read(Box(5000, -900, 64, 64), 0.5) == WHITE).all()
        assert slide.cost_meter.total().pixels_decoded == 0


@pytest.mark.usefixtures("either_reader")
def test_pixels_beyond_the_edge_of_a_file_are_white_not_black(pyramid, noise):
    with open_slide(pyramid([noise])) as slide:
        pixels = slide.read(Box(400, 298, 10, 10), 0.5)
    assert (pixels[:3, :3] == noise[298:, 400:]).all()
    assert (pixels[3:] == WHITE).all()
    assert (pixels[:, 3:] == WHITE).all()


# --- cost, mpp, identity, closing ---


def test_pixels_and_seconds_are_counted_per_stage(noise):
    cost_meter = CostMeter()
    slide = slide_from_array(noise, mpp=0.5, cost_meter=cost_meter)
    slide.read(Box(0, 0, 100, 50), 1.0)
    slide.read(Box(350, 0, 100, 50), 1.0, stage="tissue")  # 53 columns are inside
    cost = cost_meter.total()
    assert cost.pixels_decoded == 100 * 50 + 53 * 50
    assert cost.seconds["read"] > 0
    assert cost.seconds["tissue"] > 0


def test_opening_is_measured(pyramid, noise):
    cost_meter = CostMeter()
    with open_slide(pyramid([noise]), cost_meter=cost_meter) as slide:
        assert slide.cost_meter is cost_meter
    assert cost_meter.total().seconds["open"] > 0


def test_the_mpp_comes_from_the_file_and_its_source_is_recorded(pyramid, noise):
    with open_slide(pyramid([noise], mpp=0.25)) as slide:
        assert slide.mpp == pytest.approx(0.25)
        assert slide.mpp_source == "file: XResolution and YResolution"
        assert slide.vendor == "generic-tiff"
        assert slide.size == (403, 301)


def test_a_given_mpp_overrides_that_of_the_file(pyramid, noise):
    with open_slide(pyramid([noise], mpp=352.8), mpp=0.4) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.4, "given")


def test_a_file_without_mpp_is_refused(pyramid, noise):
    message = r"slide.tif: the file records no microns per pixel, so .* unknown. Set it with --mpp"
    with pytest.raises(MissingMppError, match=message):
        open_slide(pyramid([noise], mpp=None))


def test_an_objective_power_is_mentioned_but_not_used():
    message = str(MissingMppError(Path("a/S.svs"), "40"))
    assert message.startswith("S.svs: the file records no microns per pixel (only an objective of")


def test_the_resolution_of_a_print_is_refused(pyramid, noise):
    with pytest.raises(
        ImplausibleMppError,
        match=r"slide.tif: the file records 353 microns per pixel, which is outside",
    ):
        open_slide(pyramid([noise], mpp=352.8))


@pytest.mark.parametrize("mpp", [0.04, 51.0, -1.0, float("nan")])
def test_a_given_mpp_must_be_plausible(noise, pyramid, mpp):
    with pytest.raises(ValueError, match=r"is outside 0.05 to 50 microns per pixel"):
        open_slide(pyramid([noise]), mpp=mpp)
    with pytest.raises(ValueError, match=r"is outside 0.05 to 50 microns per pixel"):
        slide_from_array(noise, mpp=mpp)


def test_a_fingerprint_depends_on_the_content_not_the_name(pyramid, noise):
    paths = [pyramid([noise], name=name) for name in ("a.tif", "b.tif")]
    other = pyramid([255 - noise], name="c.tif")
    fingerprints = []
    for path in (*paths, other):
        with open_slide(path) as slide:
            fingerprints.append(slide.fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert len(fingerprints[0]) == 32
    assert int(fingerprints[0], 16)


def test_the_fingerprint_of_an_array_depends_on_its_pixels(noise):
    first, same, other = (slide_from_array(p, mpp=0.5) for p in (noise, noise.copy(), 255 - noise))
    assert first.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("cohort/007.svs", "007"),
        ("TCGA-CR-7395-01A.2f.svs", "TCGA-CR-7395-01A.2f"),
        ("x.ome.tif", "x"),
        ("x.OME.TIFF", "x"),
        ("x.jpeg.tiff", "x.jpeg"),
    ],
)
def test_the_id_of_a_slide_is_its_file_name_without_the_extension(path, name):
    assert slide_id(path) == name


def test_the_id_of_a_folder_is_its_whole_name(tmp_path):
    folder = tmp_path / "series.1"
    folder.mkdir()
    assert slide_id(folder) == "series.1"


def test_a_closed_slide_cannot_be_read(pyramid, noise):
    with open_slide(pyramid([noise])) as slide:
        pass
    with pytest.raises(ValueError, match=r"the slide is closed\. Read it inside"):
        slide.read(Box(0, 0, 8, 8), 0.5)


def test_the_repr_of_a_slide_has_its_size_and_mpp(noise):
    assert repr(slide_from_array(noise, mpp=0.5)) == "<Slide array: 403 x 301 px, 0.5 µm/px>"


# --- threads and processes ---


def _sum(slide: Slide, x: int) -> int:
    return int(slide.read(Box(x, x, 64, 64), 0.5).sum())


@pytest.mark.usefixtures("either_reader")
def test_four_threads_share_a_slide(pyramid, noise):
    expected = [int(noise[x : x + 64, x : x + 64].sum()) for x in range(200)]
    with open_slide(pyramid([noise])) as slide, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda x: _sum(slide, x), range(200))) == expected
        assert slide.cost_meter.total().pixels_decoded == 200 * 64 * 64


@pytest.mark.usefixtures("either_reader")
def test_a_pickled_slide_opens_the_same_file_again(pyramid, noise):
    with open_slide(pyramid([noise], mpp=None), mpp=0.3) as slide:
        copy = pickle.loads(pickle.dumps(slide))
        with copy:
            assert (copy.id, copy.mpp, copy.mpp_source) == (slide.id, 0.3, "given")
            assert copy.cost_meter is not slide.cost_meter
            assert (copy.read(Box(7, 7, 64, 64), 0.3) == noise[7:71, 7:71]).all()


def test_an_array_slide_pickles(noise):
    copy = pickle.loads(pickle.dumps(slide_from_array(noise, mpp=0.3, name="n")))
    assert (copy.id, copy.mpp, copy.size) == ("n", 0.3, (403, 301))
    assert (copy.read(Box(7, 7, 64, 64), 0.3) == noise[7:71, 7:71]).all()


def test_a_spawned_worker_reads_a_pickled_slide(pyramid, noise):
    with (
        open_slide(pyramid([noise])) as slide,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        pixels = pool.submit(slide.read, Box(0, 0, 64, 64), 0.5).result()
    assert (pixels == noise[:64, :64]).all()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.usefixtures("either_reader")
def test_forked_children_read_the_slide_of_their_parent(pyramid, noise):
    with open_slide(pyramid([noise])) as slide:
        assert _sum(slide, 0)
        children = [_fork(lambda x=x: _sum(slide, x)) for x in range(4)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        assert _sum(slide, 9) == int(noise[9:73, 9:73].sum())


def _fork(read) -> int:
    """Read twice in a forked child, which exits with 0 if both sums are equal and positive."""
    child = os.fork()
    if child == 0:
        os._exit(0 if read() == read() > 0 else 1)
    return child


# --- real slides ---


def test_a_real_scan_without_mpp_is_refused(real):
    with pytest.raises(MissingMppError, match=r"tcga-cr-7395-01a-01-ts1.svs"):
        open_slide(real("slides/tcga-cr-7395-01a-01-ts1.svs"))


def test_a_real_tiff_with_resolution_tags_off_by_100_is_refused(real):
    with pytest.raises(
        ImplausibleMppError, match=r"CMU-1-Small-Region.jpeg.tiff: the file records 0.00499"
    ):
        open_slide(real("slides/CMU-1-Small-Region.jpeg.tiff"))


@pytest.mark.parametrize(
    ("name", "mpp", "levels"),
    [
        ("slides/CMU-1-Small-Region.svs", 0.499, 1),
        ("slides/camelyon16-multiframe.dcm", 28.97, 1),
        ("slides/her2st-C2.tif", 0.688, 3),
        ("slides/OS-1-detail.ome.tif", 0.2271, 1),
        ("slides/test3-DAPI-2-387.ndpi", 0.2282, 7),
        ("prostate/08b1c6fbb511.tif", 0.96, 3),
    ],
)
def test_a_real_slide_is_read_at_several_resolutions(real, name, mpp, levels):
    with open_slide(real(name)) as slide:
        assert slide.mpp == pytest.approx(mpp, rel=1e-3)
        assert len(slide.levels) == levels
        for coarser in (1, 1.7, 8):
            side = 64 * coarser
            assert slide.read(Box(100, 100, side, side), slide.mpp * coarser).shape == (64, 64, 3)
