import threading
from dataclasses import replace

import pytest

from explain.demo_folder import SIDE
from parfocal.explain.viewer.pyramid import Pyramids, levels, tile_box
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Box


@pytest.fixture
def listed(library):
    return list(library.slides.values())


def test_the_tiles_of_a_level_cover_the_slide_exactly_once():
    size, level = (1500, 700), levels((1500, 700)) - 2
    boxes = [tile_box(size, level, column, row) for row in range(2) for column in range(3)]
    assert sum(box.width * box.height for box in boxes) == 1500 * 700
    assert boxes[5] == Box(1024, 512, 476, 188)


def test_there_is_no_tile_beyond_the_slide():
    for place in [(-1, 0, 0), (99, 0, 0), (11, 6, 0), (11, 0, 6), (11, -1, 0)]:
        assert tile_box((SIDE, SIDE), *place) is None


def test_the_number_of_open_slides_is_limited(listed):
    pyramids = Pyramids(open_slides=1)
    for slide in listed:
        pyramids.thumbnail(slide)
        assert len(pyramids._open) == 1
    pyramids.close()


def test_a_slide_in_use_is_not_closed(listed):
    pyramids, first, second = Pyramids(open_slides=1), listed[0], listed[1]
    with pyramids._borrowed(first) as slide:
        thread = threading.Thread(target=pyramids.thumbnail, args=[second])
        thread.start()
        thread.join()
        slide.read(Box(0, 0, 8, 8), 1.0)
    assert len(pyramids._open) == 1
    pyramids.close()


def test_cached_tiles_stay_within_their_limit(listed):
    pyramids = Pyramids(kept_bytes=10_000)
    for column in range(5):
        for row in range(5):
            pyramids.tile(listed[0], 11, column, row)
            assert pyramids._tiles.size <= 10_000
    assert len(pyramids._tiles._pictures) > 1
    pyramids.close()


def test_a_cached_tile_needs_no_slide(listed):
    pyramids = Pyramids()
    content = pyramids.tile(listed[0], 8, 0, 0)
    pyramids.close()
    assert pyramids.tile(replace(listed[0], path=None), 8, 0, 0) == content


def test_a_moved_slide_is_an_error(listed):
    gone = replace(listed[0], path=None, problem="a: the slide is no longer at there.tif")
    with pytest.raises(SlideError, match=r"no longer at there\.tif"):
        Pyramids().tile(gone, 8, 0, 0)


def test_a_changed_slide_file_is_refused(listed):
    other = replace(listed[0], fingerprint="0" * 32)
    with pytest.raises(SlideError, match="the file has changed since the prediction"):
        Pyramids().tile(other, 8, 0, 0)
