import json
import logging
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.dataset import CohortError, CohortSlide
from parfocal.dataset.inputs import cohort_inputs
from parfocal.dataset.lesions import Lesions, OutlinesError, read_on_scan
from parfocal.dataset.outlines_file import OutlinesFile
from parfocal.encoders.loading import load_encoder
from parfocal.features.header import SlideSettings

SIZE = (1024, 800)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def outlined(path: Path, *drawn: tuple[str | None, list[list[float]]], **where: object):
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": name}} if name else {},
        }
        for name, ring in drawn
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return OutlinesFile(path, **where)


def test_classes_are_counted_once_for_all_slides(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = outlined(
        tmp_path / "a.geojson", ("Tumor", square(0, 0, 9)), ("Stroma", square(0, 0, 5))
    )
    bow_tie = [[0, 0], [9, 9], [9, 0], [0, 9]]
    second = outlined(tmp_path / "b.geojson", ("Tumor", bow_tie), (None, square(1, 1, 3)))
    Lesions({"a": first, "b": second})
    (message,) = caplog.messages
    assert message == (
        "outlines of 2 slides: Tumor 2, Stroma 1, no class 1; 1 cross themselves and were made "
        "valid; all count as lesions (to select some, write a.geojson:Tumor in the column outlines)"
    )
    caplog.clear()
    chosen = [OutlinesFile(file.path, ("tumor",)) for file in (first, second)]
    Lesions({"a": chosen[0], "b": chosen[1]})
    assert caplog.messages == [
        "outlines of 2 slides: Tumor 2; not selected: Stroma 1, no class 1; 1 cross themselves and "
        "were made valid"
    ]
    assert caplog.records[0].levelno == logging.INFO
    caplog.clear()
    Lesions({})
    assert caplog.messages == []


def test_a_class_that_no_file_has_is_refused_and_one_that_a_file_lacks_is_not(tmp_path):
    first = outlined(tmp_path / "a.geojson", ("Stroma", square(0, 0, 5)), classes=("Tumor",))
    second = outlined(tmp_path / "b.geojson", ("Tumor", square(0, 0, 5)), classes=("Tumor",))
    lesions = Lesions({"a": first, "b": second})
    assert lesions.on_scan("a", Path("a.svs"), SIZE).polygons == ()
    message = r"a\.geojson: no outline has class 'Tumor' \(found: Stroma 1\); correct the name"
    with pytest.raises(CohortError, match=message):
        Lesions({"a": first})


def test_outlines_beside_the_scan_are_refused_with_both_sizes(tmp_path):
    file = outlined(tmp_path / "a.geojson", (None, square(60_300, 60_300, 400)))
    message = (
        r"a\.svs: the outlines in a\.geojson reach from x=60300, y=60300 to x=60700, y=60700, and "
        r"the scan has 1024 x 800 pixels, so none lies on it; check .* outlines_offset"
    )
    with pytest.raises(OutlinesError, match=message):
        read_on_scan(file, tmp_path / "a.svs", SIZE)
    with pytest.raises(OutlinesError, match=message):
        Lesions({"a": file}).on_scan("a", tmp_path / "a.svs", SIZE)
    moved = OutlinesFile(file.path, offset=(-60_000, -60_000))
    (polygon,) = read_on_scan(moved, tmp_path / "a.svs", SIZE).polygons
    assert polygon.outer[0].tolist() == [300, 300]


def test_outlines_partly_beside_the_scan_are_reported(tmp_path, caplog):
    drawn = ((None, square(100, 100, 50)), (None, square(2000, 100, 50)))
    file = outlined(tmp_path / "a.geojson", *drawn)
    assert len(read_on_scan(file, tmp_path / "a.svs", SIZE).polygons) == 2
    assert "reach from x=100, y=100 to x=2050, y=150" in caplog.text
    assert "1 of 2 lie outside" in caplog.text
    caplog.clear()
    edge = outlined(tmp_path / "a.geojson", (None, square(980, 0, 50)))  # 6 px of 1024 beyond
    read_on_scan(edge, tmp_path / "a.svs", SIZE)
    assert caplog.messages == []


def test_the_offset_of_the_scanned_area_is_that_of_the_slide_file(tmp_path, monkeypatch):
    file = outlined(tmp_path / "a.geojson", (None, square(300, 300, 400)), offset="bounds")
    slide = tmp_path / "a.png"
    Image.fromarray(np.full((800, 1024, 3), 200, np.uint8)).save(slide)
    (polygon,) = read_on_scan(file, slide, SIZE).polygons
    assert polygon.outer[0].tolist() == [300, 300]  # a PNG file records no scanned area
    monkeypatch.setattr("parfocal.dataset.lesions.bounds_offset", lambda path: (64.0, 7.0))
    (polygon,) = read_on_scan(file, slide, SIZE).polygons
    assert polygon.outer[0].tolist() == [364, 307]


def test_the_offset_of_the_scanned_area_needs_the_slide_file(tmp_path):
    file = outlined(tmp_path / "a.geojson", (None, square(300, 300, 400)), offset="bounds")
    with pytest.raises(OutlinesError, match=r"a\.svs: outlines_offset is bounds for a\.geojson"):
        read_on_scan(file, tmp_path / "a.svs", SIZE)


@contextmanager
def opened(slide: CohortSlide, *, as_pixels: bool):
    load = None if as_pixels else lambda: load_encoder("tiny")
    inputs = cohort_inputs(SlideSettings((2.5, 10.0), patch_size=16), load)
    with inputs.open(slide) as slide_input:
        yield slide_input


@pytest.mark.parametrize("as_pixels", [False, True])
def test_outlines_without_tissue_are_reported_once(tmp_path, caplog, as_pixels):
    pixels = np.full((256, 256, 3), 245, dtype=np.uint8)
    tissue = np.array([200, 90, 180]) + np.random.default_rng(0).integers(-20, 20, (128, 128, 3))
    pixels[:128, :128] = tissue
    Image.fromarray(pixels).save(tmp_path / "a.png")
    on, off = (outlined(tmp_path / f"{at}.geojson", (None, square(at, at, 20))) for at in (60, 220))
    for file, described in ((on, False), (off, True)):
        slide = CohortSlide("a", tmp_path / "a.png", "x", "a", 2, mpp=1.0, outlines=file)
        lesions = Lesions.of_slides([slide])
        assert lesions.has("a")
        with opened(slide, as_pixels=as_pixels) as slide_input:
            for _ in range(2):
                assert len(lesions.of_input(slide, slide_input).polygons) == 1
        count = sum(
            "a: there is no tissue under any outline of" in each for each in caplog.messages
        )
        assert count == described


def test_a_slide_without_outlines_has_no_lesions(tmp_path):
    slide = CohortSlide("a", tmp_path / "a.png", "x", "a", 2)
    lesions = Lesions.of_slides([slide])
    assert not lesions.has("a")
    assert lesions.on_scan("a", slide.path, SIZE) is None
