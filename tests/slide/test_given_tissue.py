import json
import pickle

import numpy as np
import pytest
from PIL import Image

from parfocal.slide.errors import NoTissueError
from parfocal.slide.given_tissue import (
    TissueFileError,
    find_tissue_file,
    slide_tissue,
    tissue_fingerprint,
)
from parfocal.slide.slide import open_slide, slide_from_array

WIDTH, HEIGHT = 600, 400  # at 16 µm per pixel, as the mask


@pytest.fixture
def slide():
    """Glass with stained tissue in its left half."""
    pixels = np.full((HEIGHT, WIDTH, 3), 240, dtype=np.uint8)
    pixels[:, :300] = (190, 90, 160)
    return slide_from_array(pixels, mpp=16.0, name="S-1")


def ring(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]


def feature(box, name=None, **properties):
    if name is not None:
        properties["classification"] = {"name": name}
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": "Polygon", "coordinates": [ring(*box)]},
    }


def geojson(tmp_path, *features):
    path = tmp_path / "tissue.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def mask(tmp_path, pixels, name="mask.png", **options):
    path = tmp_path / name
    Image.fromarray(np.asarray(pixels)).save(path, **options)
    return path


def half_mask(value=255, *, size=(HEIGHT, WIDTH), dtype=np.uint8):
    """Return a mask with tissue in the upper half."""
    pixels = np.zeros(size, dtype=dtype)
    pixels[: size[0] // 2] = value
    return pixels


def read(slide, path, **settings):
    slide.tissue_path = path
    return slide_tissue(slide, **settings)


def assert_box(tissue, x, y, width, height):
    """Check that the tissue is one box of the slide."""
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[y : y + height, x : x + width] = True
    assert tissue.mask.shape == (HEIGHT, WIDTH)
    assert (tissue.mask == expected).all()


def test_areas_are_used_instead_of_finding_tissue(tmp_path, slide):
    tissue = read(slide, geojson(tmp_path, feature((350, 100, 200, 150))))
    assert_box(tissue, 350, 100, 200, 150)
    assert tissue.mask_mpp == 16.0
    assert slide.cost_meter.total().pixels_decoded == 0


def test_areas_as_trident_writes_them_are_read(tmp_path, slide):
    contour = feature((10, 20, 30, 40), tissue_id=0)
    assert_box(read(slide, geojson(tmp_path, contour)), 10, 20, 30, 40)


@pytest.mark.parametrize(
    "name", ["Artifact", "artifacts", "Pen", "Pen: blue", "Ignore*", "Ignored"]
)
def test_areas_of_excluded_classes_are_subtracted(tmp_path, slide, name):
    path = geojson(
        tmp_path, feature((100, 100, 200, 100), "Tissue"), feature((200, 0, 300, 300), name)
    )
    assert_box(read(slide, path), 100, 100, 100, 100)


def test_classes_to_exclude_can_be_chosen(tmp_path, slide):
    path = geojson(
        tmp_path, feature((100, 100, 200, 100), "Pen"), feature((200, 0, 300, 300), "Fold")
    )
    assert_box(read(slide, path, exclude_classes=("fold*",)), 100, 100, 100, 100)


def test_areas_of_excluded_classes_alone_are_subtracted_from_the_found_tissue(tmp_path, slide):
    path = geojson(tmp_path, feature((0, 0, 600, 200), "Pen"))
    tissue = read(slide, path)
    assert not tissue.mask[:200].any()
    assert tissue.mask[205:, :295].all()
    assert not tissue.mask[:, 305:].any()
    assert_box(read(slide, path, method="all"), 0, 200, 600, 200)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(half_mask(255), id="255"),
        pytest.param(half_mask(1), id="1"),
        pytest.param(half_mask(700, dtype=np.uint16), id="16 bits"),
        pytest.param(half_mask() > 0, id="1 bit"),
        pytest.param(half_mask()[..., None].repeat(3, 2), id="RGB"),
        pytest.param(np.dstack([half_mask() * 0 + 255, half_mask()]), id="white, transparent"),
        pytest.param(np.dstack([*[half_mask() * 0] * 3, half_mask()]), id="black, transparent"),
        pytest.param(np.dstack([half_mask()] * 3 + [half_mask() // 3]), id="a faint overlay"),
        pytest.param(np.dstack([*[half_mask()] * 3, half_mask() * 0 + 255]), id="opaque RGBA"),
        pytest.param(half_mask(size=(2 * HEIGHT, 2 * WIDTH)), id="finer"),
    ],
)
def test_a_mask_image_is_tissue_where_it_is_not_0(tmp_path, slide, pixels):
    if max(pixels.shape) > WIDTH:
        slide = slide_from_array(np.zeros((1200, 1800, 3), dtype=np.uint8), mpp=5.333)
        tissue = read(slide, mask(tmp_path, pixels))
        assert tissue.share == 0.5
    else:
        assert_box(read(slide, mask(tmp_path, pixels)), 0, 0, WIDTH, HEIGHT // 2)


def test_a_mask_in_jpeg_is_split_in_the_middle(tmp_path, slide):
    path = mask(tmp_path, half_mask(), "mask.jpg", quality=30)
    assert_box(read(slide, path), 0, 0, WIDTH, HEIGHT // 2)


@pytest.mark.parametrize(
    "palette", [[0, 0, 0, 255, 255, 255], [255, 255, 255, 0, 0, 0], [200, 0, 60, 0, 0, 0]]
)
def test_the_colors_of_a_palette_decide_not_its_order(tmp_path, slide, palette):
    black = 0 if palette[0] == 0 else 1
    image = Image.fromarray(np.where(half_mask(1) == 1, 1 - black, black).astype(np.uint8))
    image.putpalette(palette)
    image.save(tmp_path / "mask.png")
    assert_box(read(slide, tmp_path / "mask.png"), 0, 0, WIDTH, HEIGHT // 2)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (half_mask(218) + 12, "no pixel is 0: its values are 12 to 230. Save 0 where"),
        (half_mask(0.8, dtype=np.float32) + np.float32(0.1), "no pixel is 0: its values are"),
        (np.indices((HEIGHT, WIDTH)).sum(0).astype(np.uint8), "a picture or a map of probab"),
    ],
)
def test_an_image_of_other_values_is_no_mask(tmp_path, slide, pixels, message):
    assert refusal(slide, mask(tmp_path, pixels, "mask.tif")).startswith(message)


def test_tissue_on_all_of_the_scan_has_a_warning(tmp_path, slide):
    tissue = read(slide, mask(tmp_path, half_mask() * 0 + 1))
    assert tissue.warning == (
        "S-1: tissue file mask.png: it covers 100.0% of the scan. Check that it is of this slide."
    )


def test_an_inverted_mask_has_a_warning(tmp_path):
    pixels = np.full((HEIGHT, WIDTH, 3), 240, dtype=np.uint8)
    pixels[100:300, 100:400] = (190, 90, 160)
    slide = slide_from_array(pixels, mpp=16.0, name="S-1")
    given = np.ones((HEIGHT, WIDTH), dtype=np.uint8)
    given[100:300, 100:400] = 0
    warning = read(slide, mask(tmp_path, given)).warning
    assert warning.endswith(
        "found on the scan. It is tissue at the edge of the scan, so it may be inverted."
    )
    assert read(slide, mask(tmp_path, 1 - given)).warning is None


def test_areas_in_microns_have_a_warning(tmp_path):
    pixels = np.full((HEIGHT, WIDTH, 3), 240, dtype=np.uint8)
    pixels[200:350, 300:550] = (190, 90, 160)
    slide = slide_from_array(pixels, mpp=0.25, name="S-1")
    tissue = read(slide, geojson(tmp_path, feature((75, 50, 62, 37))))
    assert tissue.warning.endswith("It may be in microns instead of level-0 pixels.")
    assert read(slide, geojson(tmp_path, feature((300, 200, 250, 150)))).warning is None


def test_the_classes_of_the_areas_are_kept_and_doubtful_ones_have_a_warning(tmp_path, slide):
    areas = [feature((0, 0, 300, 200), name) for name in ("Tissue", None, "Pen")]
    assert read(slide, geojson(tmp_path, *areas[:2])).classes == "Tissue 1, no class 1"
    tissue = read(slide, geojson(tmp_path, feature((0, 200, 90, 90)), areas[2]))
    assert (tissue.classes, tissue.warning) == ("no class 1; without Pen 1", None)
    warning = read(slide, geojson(tmp_path, areas[0], feature((0, 0, 9, 9), "Background"))).warning
    assert "areas of class Background count as tissue" in warning
    assert "slide.exclude_classes" in warning


def test_what_has_no_area_is_ignored_with_a_warning(tmp_path, slide, caplog):
    point = {"type": "Point", "coordinates": [1, 2]}
    read(slide, geojson(tmp_path, feature((0, 0, 300, 200)), point))
    assert "S-1: tissue file tissue.geojson: ignored Point 1, which have no area" in caplog.text


def test_a_coarse_mask_covers_the_whole_slide(tmp_path, slide):
    tissue = read(slide, mask(tmp_path, half_mask(size=(80, 120))))
    assert tissue.mask.shape == (80, 120)
    assert tissue.mask_mpp == pytest.approx(80)
    assert tissue.fraction(np.array([0, 0]), np.array([0, 200]), 200.0).tolist() == [1, 0]


def test_given_tissue_has_the_fingerprint_of_its_file_and_no_warning(tmp_path, slide):
    path = geojson(tmp_path, feature((0, 0, WIDTH, HEIGHT - 50)))
    tissue = read(slide, path)
    assert tissue.fingerprint == tissue_fingerprint(path, ("Artifact*", "Pen", "Ignore*")) != ""
    assert tissue.fingerprint != tissue_fingerprint(path, ("Pen",))
    assert tissue.warning is None
    path.write_text(path.read_text() + " ")
    assert tissue.fingerprint != read(slide, path).fingerprint


def test_found_tissue_has_no_fingerprint(slide):
    assert slide_tissue(slide).fingerprint == "" == tissue_fingerprint(None, ())


def refusal(slide, path):
    with pytest.raises(TissueFileError) as error:
        read(slide, path)
    text = str(error.value)
    assert text.startswith(f"S-1: tissue file {path.name}: ")
    return text.split(": ", 2)[2]


@pytest.mark.parametrize("box", [(60_000, 0, 10, 10), (0, 500, 10, 10), (-500, 0, 550, 10)])
def test_areas_beyond_the_scan_are_refused_with_both_ranges(tmp_path, slide, box):
    x, y, width, height = box
    text = refusal(slide, geojson(tmp_path, feature((10, 10, 20, 20)), feature(box)))
    assert f"x {min(x, 10)} to {max(x + width, 30)} and y " in text
    assert f"to {max(y + height, 30)}, and the scan is 600 x 400 px" in text


def test_areas_slightly_beyond_the_scan_are_cut_off(tmp_path, slide):
    assert_box(read(slide, geojson(tmp_path, feature((500, 300, 120, 110)))), 500, 300, 100, 100)


def test_a_file_that_leaves_no_tissue_is_refused(tmp_path, slide):
    covered = geojson(tmp_path, feature((9, 9, 9, 9)), feature((0, 0, 99, 99), "Pen"))
    assert refusal(slide, covered).startswith("it leaves no tissue on the scan")
    empty = mask(tmp_path, half_mask(0))
    assert refusal(slide, empty).startswith("it leaves no tissue on the scan")


def test_a_file_without_areas_is_refused(tmp_path, slide):
    assert refusal(slide, geojson(tmp_path)).startswith("it has no polygon;")
    point = {"type": "Point", "coordinates": [1, 2]}
    assert refusal(slide, geojson(tmp_path, point)).startswith("it has no polygon, only Point 1;")


def test_a_coordinate_that_is_no_number_is_refused_with_its_feature(tmp_path, slide):
    path = geojson(tmp_path, feature((9, 9, 9, 9)), feature((float("nan"), 0, 9, 9)))
    assert refusal(slide, path).startswith("feature 2: corner 1 of a ring is not a finite number")


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (HEIGHT, WIDTH // 2), (300, 400)])
def test_a_mask_of_another_shape_is_refused(tmp_path, slide, size):
    text = refusal(slide, mask(tmp_path, half_mask(size=size)))
    assert text.startswith(
        f"the mask is {size[1]} x {size[0]} px, and the scan 600 x 400 px, so their"
    )
    assert "neither cropped nor rotated" in text


def test_a_mask_larger_than_the_scan_is_refused(tmp_path, slide):
    text = refusal(slide, mask(tmp_path, half_mask(size=(2 * HEIGHT, 2 * WIDTH))))
    assert "so the scan is smaller. Give a mask of this slide" in text


def test_a_mask_that_is_too_coarse_is_refused(tmp_path, slide):
    text = refusal(slide, mask(tmp_path, half_mask(size=(40, 60))))
    assert "a pixel of the mask is 160 µm wide. Save it with at most 100 µm per pixel" in text


def test_a_color_picture_is_no_mask(tmp_path, slide):
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert refusal(slide, mask(tmp_path, pixels)).startswith("a color picture, not a mask")


def test_a_mask_of_too_many_pixels_is_refused(tmp_path, slide, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    text = refusal(slide, mask(tmp_path, half_mask()))
    assert text == "the mask is too large; 16 µm per pixel are enough."


@pytest.mark.parametrize("name", ["tissue.png", "tissue.txt"])
def test_a_file_of_another_kind_is_refused(tmp_path, slide, name):
    path = tmp_path / name
    path.write_text("no image")
    assert refusal(slide, path).startswith("neither GeoJSON (.geojson, .json) nor an image")


def test_a_damaged_mask_is_refused(tmp_path, slide):
    path = mask(tmp_path, np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-2000])
    assert refusal(slide, path).startswith("the image cannot be read (")


def test_a_missing_file_is_refused(tmp_path, slide):
    assert refusal(slide, tmp_path / "none.geojson") == "no such file; correct the path."


def test_an_empty_slide_is_refused_if_areas_are_only_subtracted(tmp_path):
    slide = slide_from_array(np.full((400, 600, 3), 240, dtype=np.uint8), mpp=16.0, name="S-1")
    with pytest.raises(NoTissueError):
        read(slide, geojson(tmp_path, feature((0, 0, 50, 50), "Pen")))


def test_an_opened_slide_keeps_its_tissue_file_when_pickled(tmp_path):
    path = tmp_path / "S-1.png"
    Image.new("RGB", (600, 400), "white").save(path)
    areas = geojson(tmp_path, feature((0, 0, 60, 40)))
    with open_slide(path, mpp=16.0, tissue=areas) as slide:
        copy = pickle.loads(pickle.dumps(slide))
    with copy:
        assert slide_tissue(copy).share == pytest.approx(0.01)


def test_the_file_of_a_slide_is_found_by_its_name(tmp_path):
    assert find_tissue_file(tmp_path, "S-1") is None
    for name in ("S-1.png", "S-10.geojson", "S-1.v2.png"):
        (tmp_path / name).touch()
    assert find_tissue_file(tmp_path, "S-1") == tmp_path / "S-1.png"
    assert find_tissue_file(tmp_path, "S-1.v2") == tmp_path / "S-1.v2.png"
    (tmp_path / "S-1.geojson").touch()
    assert find_tissue_file(tmp_path, "S-1") == tmp_path / "S-1.geojson"
