import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from parfocal.dataset import CohortError
from parfocal.distribute.worklist import Distribution
from parfocal.explain.inspection import InspectedSlide, SlideSource, inspect_slides, list_sources
from parfocal.explain.inspection.sheet import check_sheet, write_sheet
from parfocal.explain.inspection.strip import GAP, LINE
from parfocal.features.header import SlideSettings
from parfocal.slide.slide import open_slide
from shared_work import SentEngine

SETTINGS = SlideSettings((2.5, 10.0), patch_size=64)


@pytest.fixture
def slides(tmp_path, write_slide):
    """Two slides of 512 px, whose tissue is on the left, and on all of the scan."""
    paths = []
    for name, columns in (("left", 256), ("whole", 512)):
        pixels = np.full((512, 512, 3), 240, dtype=np.uint8)
        pixels[:, :columns] = (190, 90, 160)
        paths.append(write_slide(tmp_path / f"{name}.tif", pixels))
    return paths


def table(tmp_path, *rows):
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(("slide_id,path,mpp,tissue", *rows)) + "\n")
    return path


def test_slides_of_tables_and_files_are_listed(tmp_path, slides):
    mask = tmp_path / "mask.png"
    Image.new("L", (64, 64), 1).save(mask)
    cohort = table(tmp_path, "w,whole.tif,0.5,mask.png")
    assert list_sources([slides[0], cohort], mpp=2.0) == [
        SlideSource(slides[0], 2.0),
        SlideSource(slides[1], 0.5, mask, from_cohort=True),
    ]


def test_a_workbook_of_any_kind_is_a_table(tmp_path, slides):
    (tmp_path / "cohort.xlsm").write_bytes(b"")
    with pytest.raises(CohortError, match=r"cohort\.xlsm: not a complete \.xlsx workbook"):
        list_sources([tmp_path / "cohort.xlsm"])


def test_given_tissue_files_come_before_those_of_a_table(tmp_path, slides):
    mask = tmp_path / "mask.png"
    Image.new("L", (64, 64), 1).save(mask)
    cohort = table(tmp_path, "w,whole.tif,,mask.png")
    other = tmp_path / "contours" / "whole.geojson"
    other.parent.mkdir()
    other.touch()
    (source,) = list_sources([cohort], tissue=other.parent)
    assert source.tissue == other


def test_a_slide_that_fails_is_followed_by_the_next(tmp_path, slides):
    sources = [SlideSource(tmp_path / "none.svs"), SlideSource(slides[0])]
    failed, inspected = inspect_slides(sources, SETTINGS)
    assert failed.report is None
    assert failed.reason == (
        f"{tmp_path / 'none.svs'}: no such slide, folder or cohort table. Check the path."
    )
    assert inspected.report.id == "left"
    assert inspected.picture is None


def picture_of(slide):
    (inspected,) = inspect_slides([SlideSource(slide)], SETTINGS, pictures=True)
    return np.asarray(Image.open(io.BytesIO(inspected.picture))).astype(int)


def test_the_picture_shows_the_border_of_the_tissue_and_fades_glass(slides):
    left = picture_of(slides[0])
    width = 3 * 220 + 4 * 14
    assert left.shape == (24 + 220 + 22 + 14, width, 3)
    panel = left[24 : 24 + 220, 14 : 14 + 220]
    middle = panel[50:170, 105:115]  # around the border between tissue and glass
    assert (middle[..., 1] - middle[..., 0] > 50).any(axis=1).all()
    patches = left[24 : 24 + 220, -14 - 220 : -14]
    assert patches[100, 50].tolist() == pytest.approx([190, 90, 160], abs=25)
    assert patches[100, 180].min() > panel[100, 180].min() + 5


def test_tissue_without_a_patch_is_blue(tmp_path, write_slide):
    pixels = np.full((512, 512, 3), 240, dtype=np.uint8)
    pixels[:, :250] = (190, 90, 160)
    pixels[300:380, 440:470] = (190, 90, 160)
    settings = SlideSettings((2.5, 10.0), patch_size=128, min_tissue=0.5)
    slide = write_slide(tmp_path / "speck.tif", pixels)
    (inspected,) = inspect_slides([SlideSource(slide)], settings, pictures=True)
    drawn = np.asarray(Image.open(io.BytesIO(inspected.picture))).astype(int)
    red, green, blue = drawn[24 : 24 + 220, -14 - 220 : -14].transpose(2, 0, 1)
    is_blue = (blue > 150) & (red < 90) & (green < 160)
    assert is_blue[130:165, 188:203].mean() > 0.5
    assert not is_blue[:, :100].any()


def test_a_sheet_shows_doubtful_slides_first(tmp_path, slides):
    inspected = list(
        inspect_slides(
            [SlideSource(slides[0]), SlideSource(slides[1]), SlideSource(tmp_path / "<b>.svs")],
            SETTINGS,
            pictures=True,
        )
    )
    write_sheet(tmp_path / "new" / "sheet.html", inspected)
    page = (tmp_path / "new" / "sheet.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.index("whole.tif") < page.index("&lt;b&gt;.svs") < page.index("left.tif")
    assert "<b>.svs" not in page
    assert "tissue was found on 100.0% of the scan" in page
    assert "3 slides" in page
    assert "nothing to skip on this slide" in page
    assert "1 failed, 1 with a warning" in page


def test_a_sheet_is_also_one_image(tmp_path, slides):
    inspected = list(
        inspect_slides([SlideSource(path) for path in slides], SETTINGS, pictures=True)
    )
    write_sheet(tmp_path / "sheet.png", inspected)
    heights = [Image.open(io.BytesIO(slide.picture)).height for slide in inspected]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > sum(heights)
        before = sheet.size
    failed = InspectedSlide(tmp_path / "a.svs", None, "the file is damaged", None)
    write_sheet(tmp_path / "sheet.png", [*inspected, failed])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == before[1] + 2 * LINE + GAP
        (left, top, right, bottom) = (
            ImageOps.invert(sheet.convert("L")).crop((0, 0, sheet.width, 2 * LINE + GAP)).getbbox()
        )
        assert right - left > 50  # failed slides come first, with the reason
        assert bottom - top > LINE


def test_a_sheet_of_failed_slides_alone_is_written(tmp_path):
    failed = [InspectedSlide(tmp_path / "a.svs", None, "no such file", None)]
    write_sheet(tmp_path / "sheet.png", failed)
    write_sheet(tmp_path / "sheet.html", failed)
    assert "no such file" in (tmp_path / "sheet.html").read_text()


def test_a_sheet_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"sheet\.pdf: the sheet is an \.html or a \.png file"):
        check_sheet(tmp_path / "sheet.pdf", 1)


def test_too_many_slides_for_an_image_are_refused(tmp_path):
    check_sheet(tmp_path / "sheet.html", 500)
    with pytest.raises(ValueError, match=r"room for 60 slides, and there are 500; write an \.html"):
        check_sheet(tmp_path / "sheet.png", 500)


def opened_slides(monkeypatch):
    """Return a list that gets the name of each slide that is opened."""
    opened = []

    def open_and_note(path, **options):
        opened.append(path.name)
        return open_slide(path, **options)

    monkeypatch.setattr("parfocal.explain.inspection.batch.open_slide", open_and_note)
    return opened


def test_an_inspection_goes_on_where_it_stopped(tmp_path, slides, monkeypatch):
    opened, out = opened_slides(monkeypatch), tmp_path / "inspected.jsonl"
    sources, settings = list_sources(slides), SlideSettings((2.5, 10.0), 64)
    undisturbed = list(inspect_slides(sources, settings))
    opened.clear()
    next(inspect_slides(sources, settings, out=out))
    assert list(inspect_slides(sources, settings, out=out)) == undisturbed
    assert len(opened) == len(slides)
    list(inspect_slides(sources, settings, out=out, again=True))
    assert len(opened) == 2 * len(slides)
    list(inspect_slides(sources, replace(settings, min_tissue=0.2), out=out))
    assert len(opened) == 3 * len(slides)


@pytest.mark.parametrize("out", [None, "inspected.jsonl"])
def test_workers_inspect_as_one_process(tmp_path, slides, out):
    sources = [*list_sources(slides), SlideSource(tmp_path / "none.svs")]
    alone = list(inspect_slides(sources, SETTINGS, pictures=True))
    found = inspect_slides(
        *(sources, SETTINGS),
        pictures=True,
        out=None if out is None else tmp_path / out,
        distribution=Distribution(engine=SentEngine()),
    )
    assert sorted(found, key=alone.index) == alone


def test_pictures_are_kept_with_the_results(tmp_path, slides, monkeypatch):
    opened, out = opened_slides(monkeypatch), tmp_path / "inspected.jsonl"
    sources, settings = list_sources(slides), SlideSettings((2.5, 10.0), 64)
    list(inspect_slides(sources, settings, out=out))
    drawn = list(inspect_slides(sources, settings, pictures=True, out=out))
    assert len(opened) == 2 * len(slides)  # the first call drew none
    assert list(inspect_slides(sources, settings, pictures=True, out=out)) == drawn
    assert len(opened) == 2 * len(slides)
