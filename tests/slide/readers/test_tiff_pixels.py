import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.slide.readers.test_opening import change

from parfocal.slide.errors import SlideError
from parfocal.slide.readers import tiled_tiff
from parfocal.slide.slide import Box, open_slide

ORIENTATION = 274


@pytest.fixture
def stored(tmp_path):
    """Return a function that writes pixels as a tiled TIFF and reads them as RGB."""

    def write(pixels, *, byteorder="<", **options):
        path = tmp_path / "a.tif"
        defaults = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
        tifffile.imwrite(path, pixels, byteorder=byteorder, **{**defaults, **options})
        return path

    return write


def read(path):
    with open_slide(path, mpp=0.5) as slide:
        return slide.read(Box(0, 0, *slide.size), 0.5), slide.notes


def planes_of(pixels):
    return np.moveaxis(pixels, 2, 0).copy()


# --- compressions, planes, byte orders ---


@pytest.mark.parametrize("place", [{}, {"tile": None, "rowsperstrip": 24}], ids=["tiles", "strips"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "compression", [None, "lzw", "deflate", "packbits", "lzma", "zstd", "jpegxl", "jpeg2000", "png"]
)
def test_lossless_compressions_are_decoded(stored, picture, compression, byteorder, place):
    path = stored(picture, compression=compression, byteorder=byteorder, **place)
    pixels, notes = read(path)
    assert (pixels == picture).all()
    assert notes == ()


@pytest.mark.parametrize("options", [{"compression": "webp"}, {"compression": "jpeg"}])
def test_lossy_compressions_are_decoded(stored, picture, options):
    path = stored(picture, compressionargs={"level": 95}, **options)
    assert (read(path)[0] == tifffile.imread(path)).all()


@pytest.mark.parametrize("compression", [None, "lzw", "jpeg"])
def test_separate_planes_are_put_together(stored, picture, compression):
    path = stored(planes_of(picture), planarconfig="separate", compression=compression)
    assert (read(path)[0] == np.moveaxis(tifffile.imread(path), 0, 2)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd"])
def test_a_predictor_is_undone(stored, picture, dtype, compression):
    pixels = picture.astype(dtype) * (257 if dtype == np.uint16 else 1)
    path = stored(pixels, compression=compression, predictor=True, byteorder=">")
    assert (read(path)[0] == picture).all()


def test_a_compression_that_is_not_decoded_is_named(stored, picture):
    path = change(stored(picture, compression="deflate"), "Compression", 34676)
    message = (
        r"a.tif: the file has pixels compressed as SGILOG, which cannot be decoded here. .*bfco"
    )
    with pytest.raises(SlideError, match=message):
        read(path)


def test_a_long_strip_without_compression_is_read_in_parts(stored, picture, monkeypatch):
    monkeypatch.setattr(tiled_tiff, "RAW_STRIP_PX", 440 * 10)
    path = stored(picture, tile=None, rowsperstrip=304)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.read(Box(0, 0, 440, 304), 0.5) == picture).all()
    with open_slide(path, mpp=0.5) as slide:
        before = slide.cost_meter.total().bytes_read
        assert (slide.read(Box(5, 31, 100, 8), 0.5) == picture[31:39, 5:105]).all()
        assert slide.cost_meter.total().bytes_read - before == 440 * 10 * 3


# --- samples and bits ---


def test_twelve_bits_in_sixteen_are_scaled(stored, picture):
    pixels, notes = read(stored(picture.astype(np.uint16) * 16))
    assert np.abs(pixels.astype(int) - picture).max() <= 1
    assert notes == ("16 bits per sample, but the largest value is 4080; 12 bits are shown",)


def test_sixteen_bits_are_scaled_over_their_range(stored, picture):
    picture = picture.copy()
    picture[0, 0] = 255
    assert (read(stored(picture.astype(np.uint16) * 257))[0] == picture).all()


@pytest.mark.parametrize("kind", ["unspecified", "unassalpha", "assocalpha"])
def test_a_fourth_sample_is_transparency_only_if_it_is_declared_so(stored, picture, kind):
    alpha = np.full(picture.shape[:2], 102, np.uint8)
    premultiplied = np.rint(picture * 0.4).astype(np.uint8)
    colors = premultiplied if kind == "assocalpha" else picture
    pixels, _ = read(stored(np.dstack([colors, alpha]), extrasamples=[kind]))
    expected = picture if kind == "unspecified" else picture * 0.4 + 255 * 0.6
    assert np.abs(pixels - expected).max() <= 1.5


def test_a_fourth_sample_of_zeros_is_not_transparency(stored, picture):
    zeros = np.zeros(picture.shape[:2], np.uint8)
    path = stored(np.dstack([picture, zeros]), extrasamples=["unspecified"])
    assert (read(path)[0] == picture).all()


@pytest.mark.parametrize(("photometric", "sign"), [("minisblack", 1), ("miniswhite", -1)])
def test_gray_becomes_rgb(stored, picture, photometric, sign):
    gray = picture[..., 0]
    pixels, _ = read(stored(gray, photometric=photometric))
    assert (pixels == (gray if sign == 1 else 255 - gray)[..., None]).all()


def test_black_and_white_becomes_rgb(stored, picture):
    bits = picture[..., 0] > 128
    assert (read(stored(bits, photometric="minisblack"))[0] == bits[..., None] * 255).all()


def test_a_palette_is_applied(stored, picture):
    colors = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    pixels, _ = read(stored(picture[..., 0], photometric="palette", colormap=colors))
    assert (pixels == (colors // 257).T[picture[..., 0]]).all()


def test_inks_become_rgb(stored, picture):
    inks = np.dstack([picture, picture[..., 0] // 4])
    expected = Image.fromarray(inks, "CMYK").convert("RGB")
    assert (read(stored(inks, photometric="separated"))[0] == np.asarray(expected)).all()


def test_rgba_that_is_tagged_as_gray_is_refused(stored, picture):
    rgba = np.dstack([picture, picture[..., 0]])
    path = stored(
        *(rgba,), photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"] * 3
    )
    message = r"a.tif: the file has 4 samples per pixel that are tagged as gray .* 262 2 FILE`\.$"
    with pytest.raises(SlideError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        *((np.int8, "8-bit signed"), (np.int16, "16-bit signed")),
        *((np.float32, "32-bit floating-point"), (np.uint32, "32-bit unsigned")),
    ],
)
def test_numbers_that_are_no_colors_are_refused(stored, picture, dtype, words):
    message = f"a.tif: the file has {words} pixels, which cannot be shown as colors. Convert it"
    with pytest.raises(SlideError, match=message):
        read(stored((picture // 2).astype(dtype)))


def test_lab_in_strips_is_refused(stored, picture):
    path = stored(picture, photometric="cielab", tile=None, rowsperstrip=16)
    with pytest.raises(SlideError, match=r"a.tif: the file has pixels in CIELAB. Convert it to an"):
        read(path)


# --- orientation ---


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_turned_picture_is_turned_upright(stored, picture, orientation, byteorder):
    tag = (ORIENTATION, "H", 1, orientation, True)
    pixels, notes = read(stored(picture, extratags=[tag], byteorder=byteorder))
    turned = {
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.swapaxes(0, 1),
        6: np.rot90(picture, -1),
        7: np.rot90(picture, 2).swapaxes(0, 1),
        8: np.rot90(picture),
    }
    assert (pixels == turned[orientation]).all()
    assert notes == (f"Orientation is {orientation}; the picture is turned upright",)


def test_a_part_of_a_turned_picture_is_the_part_of_the_upright_one(stored, picture):
    path = stored(picture, extratags=[(ORIENTATION, "H", 1, 6, True)])
    with open_slide(path, mpp=0.5) as slide:
        assert slide.size == (304, 440)
        part = slide.read(Box(30, 50, 100, 70), 0.5)
    assert (part == np.rot90(picture, -1)[50:120, 30:130]).all()


# --- JPEG ---


def jpeg_tiles(picture, change):
    for number in range(4):
        y, x = divmod(number, 2)
        tile = picture[y * 128 : y * 128 + 128, x * 128 : x * 128 + 128]
        encoded = imagecodecs.jpeg8_encode(
            np.ascontiguousarray(tile), level=85, colorspace="RGB", outcolorspace="YCbCr"
        )
        yield change(encoded) if number == 3 else encoded


@pytest.fixture
def jpegs(tmp_path, picture):
    """Return a function that writes JPEG tiles, of which the last is changed."""

    def write(change):
        path = tmp_path / "a.tif"
        tifffile.imwrite(
            *(path, jpeg_tiles(picture, change)),
            shape=(256, 256, 3),
            dtype=np.uint8,
            tile=(128, 128),
            compression="jpeg",
            photometric="ycbcr",
            subsampling=(1, 1),
            metadata=None,
        )
        return path

    return write


@pytest.mark.parametrize("count", [4, 16, 1000])
def test_zeros_before_the_end_of_a_tile_lose_no_pixel(jpegs, count):
    whole, _ = read(jpegs(lambda tile: tile))
    path = jpegs(lambda tile: tile[:-2] + bytes(count) + tile[-2:])
    with open_slide(path, mpp=0.5) as slide:
        assert slide.notes == ()
        assert (slide.read(Box(0, 0, 256, 256), 0.5) == whole).all()
        assert slide.notes == ("1 tile has spare bytes before its end; no pixel is lost",)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tile: tile[:-500] + bytes(498) + tile[-2:],  # zeros in place of pixels
        lambda tile: tile[:-2] + b"\x55" * 100 + tile[-2:],
        lambda tile: tile[:-500],
    ],
)
def test_other_bytes_before_the_end_of_a_tile_are_damage(jpegs, damage):
    with pytest.raises(SlideError, match=r"a.tif: damaged at x=128, y=128"):
        read(jpegs(damage))


def test_a_tile_with_a_jfif_header_is_ycbcr_whatever_the_tag_says(jpegs):
    path = jpegs(lambda tile: tile)
    whole, _ = read(path)
    assert (read(change(path, "PhotometricInterpretation", 2))[0] == whole).all()
