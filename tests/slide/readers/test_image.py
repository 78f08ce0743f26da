import numpy as np
import pytest
import tifffile
from PIL import Image

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
    with pytest.raises(SlideError, match=r"a.tif: the pixels are 32-bit numbers"):
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
    with pytest.raises(SlideError, match=r"a.tif: the image is damaged or truncated"):
        read(path)


def test_a_pyramid_truncated_before_its_directory_is_refused(pyramid, noise):
    path = pyramid([noise, noise[::2, ::2]])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        SlideError, match=r"slide.tif: the directories .* are truncated or damaged. Copy the file"
    ):
        read(path)


def test_an_unsupported_ome_tiff_is_refused_as_such(tmp_path, noise):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise, photometric="rgb", metadata={"axes": "YXS"})
    message = r"a.ome.tif: an OME-TIFF that is not supported: only 8-bit RGB.* `vips tiffsave IN"
    with pytest.raises(SlideError, match=message):
        read(path)


def test_an_ome_tiff_that_pillow_cannot_open_is_recognized_by_its_name(tmp_path, noise):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise[..., 0].astype(np.complex64), metadata={"axes": "YX"})
    with pytest.raises(SlideError, match=r"a.ome.tif: an OME-TIFF"):
        read(path)


def test_a_tiff_with_unsupported_pixels_is_refused_as_such(tmp_path, noise):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise[..., 0].astype(np.complex64))
    with pytest.raises(
        SlideError, match=r"a.tif: a TIFF with a kind of pixels that neither OpenSlide"
    ):
        read(path)


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
