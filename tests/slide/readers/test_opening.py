import os
import socket

import numpy as np
import openslide
import pytest
import tifffile

from parfocal.cost import CostMeter
from parfocal.slide.errors import MissingMppError, SlideError
from parfocal.slide.readers.opening import open_scan
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.tiled_tiff import TiledTiffScan
from parfocal.slide.slide import Box, open_slide


def is_read_directly(path):
    return isinstance(open_scan(path, CostMeter()), TiledTiffScan)


def change(path, tag, value):
    """Overwrite a tag of the first directory."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(value)
    return path


@pytest.fixture
def ome(tmp_path, picture):
    """Return a function that writes the picture as an OME-TIFF with three levels."""

    def write(pixels=picture, axes="YXS", **metadata):
        path = tmp_path / "a.ome.tif"
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(pixels, subifds=2, metadata={"axes": axes, **metadata}, **options)
            for step in (2, 4):
                tiff.write(pixels[..., ::step, ::step, :], subfiletype=1, **options)
        return path

    return write


# --- which reader ---


def test_a_plain_pyramid_is_read_directly(plain):
    assert is_read_directly(plain(compression="deflate"))


def test_files_of_other_vendors_are_left_to_openslide(plain, monkeypatch):
    monkeypatch.setattr(openslide.OpenSlide, "detect_format", lambda path: "ventana")
    assert not is_read_directly(plain())


def test_a_compression_that_openslide_does_not_decode_is_read_directly(plain, picture):
    path = plain(compression="zstd")
    with open_slide(path) as slide:
        assert (slide.read(Box(0, 0, 440, 304), 0.5) == picture).all()


def test_colors_that_only_openslide_converts_are_left_to_it(plain):
    path = change(plain(), "PhotometricInterpretation", 8)  # CIELab
    scan = open_scan(path, CostMeter())
    assert isinstance(scan, OpenSlideScan)
    assert (scan.levels[0].width, scan.levels[0].height) == (440, 304)


def test_damaged_tags_are_refused_before_openslide_sees_them(ome, monkeypatch):
    path = ome(PhysicalSizeX=0.5)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].pages[0].tags["TileWidth"].overwrite(0)
    monkeypatch.setattr(openslide.OpenSlide, "detect_format", lambda path: pytest.fail("called"))
    with pytest.raises(SlideError, match=r"a.ome.tif"):
        open_slide(path)


# --- what is no file ---


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SlideError, match=r"no such file. Check the path"):
        open_slide(tmp_path / "a.svs")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.svs")
    with pytest.raises(SlideError, match=r"not a file but a device, pipe or socket"):
        open_slide(tmp_path / "a.svs", mpp=0.5)


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.svs")
        with pytest.raises(SlideError, match=r"not a file but a device"):
            open_slide("a.svs", mpp=0.5)


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(SlideError, match=r"cannot be read .*Check its name"):
        open_slide(tmp_path / ("a" * 300 + ".svs"), mpp=0.5)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.svs").touch()
    with pytest.raises(SlideError, match=r"the file is empty \(0 bytes\)"):
        open_slide(tmp_path / "a.svs", mpp=0.5)


# --- OME-TIFF ---


def test_an_ome_tiff_has_all_its_levels(ome, picture):
    with open_slide(ome(PhysicalSizeX=0.5, PhysicalSizeY=0.5)) as slide:
        assert [(level.width, level.downsample) for level in slide.levels] == [
            *((440, 1.0), (220, 2.0), (110, 4.0))
        ]
        assert slide.vendor == "ome-tiff"
        assert (slide.read(Box(0, 0, 440, 304), 1.0) == picture[::2, ::2]).all()
        assert slide.cost_meter.total().pixels_decoded == 220 * 152


def test_the_mpp_of_an_ome_tiff_comes_from_its_xml(ome):
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeY": 250.0}
    units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
    with open_slide(ome(**sizes, **units)) as slide:
        assert slide.mpp == 0.25
        assert slide.mpp_source == "file: PhysicalSizeX and PhysicalSizeY of the OME-XML"


def test_an_ome_tiff_without_a_pixel_size_is_refused(ome):
    with pytest.raises(MissingMppError, match=r"a.ome.tif: the file records no microns per pixel"):
        open_slide(ome())


def test_an_ome_tiff_with_several_depths_is_refused(ome, picture):
    path = ome(np.stack([picture, picture]), axes="ZYXS", PhysicalSizeX=0.5)
    with pytest.raises(SlideError, match=r"a.ome.tif: the file holds 2 color planes: 2 depths"):
        open_slide(path)


def test_a_real_ome_tiff_is_read(real):
    path = real("slides/OS-1-detail.ome.tif")
    with open_slide(path) as slide:
        pixels = slide.read(Box(0, 0, *slide.size), slide.mpp)
    assert slide.mpp == pytest.approx((0.2270972430394695 + 0.22710240047237298) / 2)
    assert (pixels == tifffile.imread(path)).all()
