import logging
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile

from explain.demo_folder import LESION, SIDE, prediction, write_json
from parfocal.explain.overlay import draw_overlay, write_overlay
from parfocal.explain.read_record import read_prediction
from parfocal.slide.listing import slides_in


@pytest.fixture
def record(tmp_path):
    content = prediction(tmp_path / "a.tif", "f" * 32)
    return read_prediction(write_json(tmp_path / "a.json", content))


def test_each_magnification_is_a_channel_with_the_raw_scores(record):
    picture, scale = draw_overlay(record)
    assert scale == LESION[2] / 8
    assert picture.shape == (2, SIDE / scale, SIDE / scale)
    x, y = (round((corner + 5) / scale) for corner in LESION[:2])
    assert picture[:, y, x] == pytest.approx([0.7, 0.9])
    assert picture[:, -1, -1] == pytest.approx([0.1, 0.0])


def test_the_file_records_pixel_size_and_channel_names(record, tmp_path):
    write_overlay(record, tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert tiff.is_ome
        ome = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert ome["PhysicalSizeX"] == 25.0  # 1 um a pixel, eight pixels across 200
        assert [channel["Name"] for channel in ome["Channel"]] == ["2.5x", "10x"]
        assert np.array_equal(tiff.series[0].asarray(), draw_overlay(record)[0])


def test_the_pyramid_of_a_large_slide_keeps_small_peaks(record, tmp_path):
    large = replace(record, slide=replace(record.slide, size=(60_000, 40_000)))
    write_overlay(large, tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        levels = tiff.series[0].levels
        assert [level.shape[2] for level in levels] == [2400, 1200, 600, 300, 150]
        assert [level.asarray().max() for level in levels] == pytest.approx([0.9] * 5)


def test_openslide_reads_the_size_of_the_overlay(record, tmp_path):
    write_overlay(record, tmp_path / "a.ome.tif")
    with openslide.OpenSlide(tmp_path / "a.ome.tif") as opened:
        assert opened.dimensions == draw_overlay(record)[0].shape[:0:-1]


def test_a_record_without_regions_is_refused(record):
    with pytest.raises(ValueError, match="a: the record has no regions to draw"):
        draw_overlay(replace(record, regions=()))


def test_overlays_are_no_slides_of_a_folder_and_its_maps_are_none_either(
    record, tmp_path, write_slide, caplog
):
    write_overlay(record, tmp_path / "a.ome.tif")
    (tmp_path / "a.png").touch()
    with caplog.at_level(logging.INFO):
        assert slides_in(tmp_path) == []
    assert f"{tmp_path}: skipped, as they are overlays of parfocal: a.ome.tif" in caplog.text
    slide = write_slide(tmp_path / "scan.ome.tif")
    assert slides_in(tmp_path) == [slide]
