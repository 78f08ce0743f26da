import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from parfocal.slide.errors import MissingMppError, SlideError
from parfocal.slide.readers import image as module
from parfocal.slide.slide import Box, open_slide


def read(path):
    with open_slide(path, mpp=0.5) as slide:
        return slide.read(Box(0, 0, *slide.size), 0.5)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_an_ordinary_image_is_a_slide_with_one_level(tmp_path, noise, name):
    Image.fromarray(noise).save(tmp_path / name)
    assert (read(tmp_path / name) == noise).all()


def test_a_jpeg_is_a_slide(tmp_path):
    Image.new("RGB", (50, 40), (200, 100, 150)).save(tmp_path / "a.jpg", quality=95)
    pixels = read(tmp_path / "a.jpg")
    assert pixels.shape == (40, 50, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 150)).max() <= 3


def test_dots_per_inch_are_not_used_as_pixel_size(tmp_path, noise):
    Image.fromarray(noise).save(tmp_path / "a.png", dpi=(72, 72))
    with pytest.raises(MissingMppError, match=r"a.png: the file records no microns per pixel"):
        open_slide(tmp_path / "a.png")


def test_gray_becomes_rgb(tmp_path, noise):
    Image.fromarray(noise[..., 0]).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == noise[..., :1]).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    deep = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / name)
    assert read(tmp_path / name)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_32_bit_numbers_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(SlideError, match=r"a.tif: the file has 32-bit floating-point pixels"):
        read(tmp_path / "a.tif")


def test_transparency_is_composed_over_white(tmp_path):
    rgba = np.array([[[0, 0, 0, 0], [200, 0, 0, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png")[0].tolist() == [[255] * 3, [200, 0, 0], [204] * 3]


def test_a_palette_with_a_transparent_color_is_composed_over_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    assert read(tmp_path / "a.png")[0].tolist() == [[255] * 3, [40, 50, 60]]


def test_an_image_above_pillows_limit_opens(tmp_path, noise, monkeypatch):
    Image.fromarray(noise).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert (read(tmp_path / "a.png") == noise).all()
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_an_image_too_large_for_memory_is_refused(tmp_path, noise, monkeypatch):
    Image.fromarray(noise).save(tmp_path / "a.png")
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    message = "a.png: an image of 403 x 301 px without a pyramid .* Convert it to a pyramidal TIFF"
    with pytest.raises(SlideError, match=message):
        read(tmp_path / "a.png")


def test_read_returns_a_copy(noise, tmp_path):
    Image.fromarray(noise).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        slide.read(Box(0, 0, 9, 9), 0.5)[:] = 0
        assert (slide.read(Box(0, 0, 9, 9), 0.5) == noise[:9, :9]).all()


def test_a_truncated_image_is_refused(tmp_path, noise):
    path = tmp_path / "a.png"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(SlideError, match=r"a.png: the image is damaged or truncated"):
        read(path)


def test_a_tiff_truncated_inside_its_pixels_is_refused(tmp_path, noise):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, photometric="rgb", rowsperstrip=16)
    path.write_bytes(path.read_bytes()[:-5000])
    message = r"a.tif: image 0 of the file is truncated: 1 of its 19 strips lie beyond the end"
    with pytest.raises(SlideError, match=message):
        read(path)


def test_a_pyramid_truncated_before_its_directory_is_refused(pyramid, noise):
    path = pyramid([noise, noise[::2, ::2]])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        SlideError, match=r"slide.tif: the directories .* are truncated or damaged. Copy the file"
    ):
        read(path)


def test_an_ome_tiff_in_strips_is_read(tmp_path, noise):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise, photometric="rgb", metadata={"axes": "YXS"})
    assert (read(path) == noise).all()


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_a_tiff_with_pixels_that_are_no_colors_is_refused(tmp_path, noise, name):
    tifffile.imwrite(tmp_path / name, noise[..., 0].astype(np.complex64))
    with pytest.raises(SlideError, match=rf"{name}: the file has 64-bit complex pixels"):
        read(tmp_path / name)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_png_of_any_kind_is_read_as_pillow_reads_it(tmp_path, noise, mode):
    gray = Image.fromarray(noise[:64, :64, 0])
    image = Image.fromarray(noise[:64, :64].astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        image = image.convert(mode[:-1])
        image.putalpha(gray)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    shown = gray if mode == "I;16" else image
    assert (read(tmp_path / "a.png") == np.asarray(shown.convert("RGB"))).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_read_as_pillow_reads_it(tmp_path, noise, mode, options):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).convert(mode).save(path, **options)
    with Image.open(path) as image:
        assert (read(path) == np.asarray(image.convert("RGB"))).all()


def test_a_damaged_jpeg_is_refused_where_pillow_reads_other_pixels(tmp_path, noise):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    with Image.open(path) as image:
        image.load()
    with pytest.raises(SlideError, match=r"a.jpg: the image is damaged or truncated \(.*Copy"):
        read(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_the_orientation_of_a_photograph_is_used(tmp_path, noise, name, orientation):
    image = Image.fromarray(noise)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert (read(tmp_path / name) == upright).all()


def test_a_size_that_the_file_cannot_hold_is_refused_before_memory_is_used(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (16, 16)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (30_000).to_bytes(4) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    path.write_bytes(content)
    message = r"a.png: the image is damaged .*30000 x 30000 px cannot be stored in \d+ bytes"
    with pytest.raises(SlideError, match=message):
        read(path)


def test_a_png_needs_little_more_memory_than_its_pixels(tmp_path):
    path, side = tmp_path / "a.png", 2000
    Image.new("RGBA", (side, side), (200, 100, 150, 128)).save(path)
    tracemalloc.start()
    read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 3 * side * side  # stored with transparency, kept, and returned


def test_a_dicom_file_without_a_slide_is_refused(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(100))
    with pytest.raises(SlideError, match=r"a.dcm: a DICOM file that is not a whole-slide image"):
        read(path)


def test_a_file_that_is_not_an_image_is_refused(tmp_path):
    path = tmp_path / "a.svs"
    path.write_text("x,y,width,height\n")
    with pytest.raises(SlideError, match=r"a.svs: not a slide: neither OpenSlide .* nor Pillow"):
        read(path)


@pytest.mark.parametrize("name", ["test3-DAPI-2-387.ndpi", "her2st-C2.tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_truncated_real_slide_is_never_read_as_a_smaller_one(real, tmp_path, name, share):
    path = tmp_path / name
    whole = real(f"slides/{name}").read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SlideError, match="truncated"):
        open_slide(path)
