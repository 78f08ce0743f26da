import numpy as np
import pytest
import tifffile

from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Box, open_slide

CENTIMETERS = {"resolutionunit": "CENTIMETER"}


def at(mpp):
    return {"resolution": (1e4 / mpp, 1e4 / mpp), **CENTIMETERS}


@pytest.fixture
def images(tmp_path, picture):
    """Return a function that writes images, each a (step, options) of the picture."""

    def write(*specifications, name="a.tif", **container):
        path = tmp_path / name
        with tifffile.TiffWriter(path, **container) as tiff:
            for step, options in specifications:
                defaults = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
                tiff.write(picture[::step, ::step], **{**defaults, **options})
        return path

    return write


def check(path, picture, downsamples=(1.0, 2.0, 4.0), mpp=0.5):
    """Check that a slide has the picture as level 0, with levels and a resolution."""
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.levels] == list(downsamples)
        assert slide.mpp == pytest.approx(mpp)
        assert (slide.read(Box(0, 0, *slide.size), slide.mpp) == picture).all()


@pytest.mark.parametrize("container", [{}, {"byteorder": ">"}, {"bigtiff": True}])
def test_level_0_is_the_largest_picture_with_its_own_resolution(images, picture, container):
    smaller = {"subfiletype": 1}
    path = images(
        *((4, {**smaller, **at(2.0)}), (2, {**smaller, **at(1.0)}), (1, at(0.5))), **container
    )
    check(path, picture)


def test_a_tiled_thumbnail_may_come_first(images, picture):
    path = images((4, at(2.0)), (1, at(0.5)), (2, {"subfiletype": 1, **at(1.0)}))
    check(path, picture)


def test_levels_need_not_be_tagged_as_smaller_images(images, picture):
    description = "Motic V1.0.0 440x304|AppMag = 20|MPP = 0.5"
    thumbnail = {"tile": None, "rowsperstrip": 16}
    path = images((1, {"description": description}), (4, thumbnail), (2, {}), (4, {}))
    check(path, picture)
    with open_slide(path) as slide:
        assert (slide.vendor, slide.objective_power) == ("motic", "20")


def test_levels_below_the_first_directory_are_used(images, picture):
    path = images((1, {"subifds": 2, **at(0.5)}), (2, {"subfiletype": 1}), (4, {"subfiletype": 1}))
    check(path, picture)


def test_a_pyramid_in_strips_is_read(images, picture):
    strips = {"tile": None, "rowsperstrip": 24, "compression": "lzw"}
    check(images((1, {**strips, **at(0.5)}), (2, strips)), picture, (1.0, 2.0))


def test_a_label_and_an_overview_are_no_levels(tmp_path, picture):
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(picture, tile=(64, 64), photometric="rgb", metadata=None, **at(0.5))
        for part, kind in ((picture[:100, :90], 1), (picture[:80, :300], 9)):
            tiff.write(part, subfiletype=kind, photometric="rgb", metadata=None, rowsperstrip=16)
    check(path, picture, (1.0,))


def test_two_pictures_are_refused(tmp_path, picture):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for part in (picture[:200], picture[200:]):
            tiff.write(part, tile=(64, 64), photometric="rgb", metadata=None, **at(0.5))
    message = r"a.tif: the file holds 2 pictures: 440 x 200 px and 440 x 104 px. Save the one"
    with pytest.raises(SlideError, match=message):
        open_slide(path)


def test_pictures_of_one_size_are_refused(images):
    message = r"a.tif: the file holds 2 color pictures of 440 x 304 px, such as channels or depths"
    with pytest.raises(SlideError, match=message):
        open_slide(images((1, at(0.5)), (1, at(0.5))))


def test_a_level_of_another_shape_is_refused(tmp_path, picture):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate((picture, picture[::2, ::4])):
            options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, **at(0.5)}
            tiff.write(pixels, subfiletype=number, **options)
    message = r"a.tif: a smaller level of 110 x 152 px does not have the shape of level 0, 440 x"
    with pytest.raises(SlideError, match=message):
        open_slide(path)


@pytest.mark.parametrize("place", [{}, {"tile": None, "rowsperstrip": 16}], ids=["tiles", "strips"])
def test_a_level_with_other_pixels_is_refused(tmp_path, picture, place):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate((picture, picture[::2, ::2, 0])):
            options = {"tile": (64, 64), "metadata": None, "subfiletype": number, **place}
            tiff.write(pixels, photometric=("rgb", "minisblack")[number], **options)
    with pytest.raises(SlideError, match=r"220 x 152 px does not have the pixels of level 0"):
        open_slide(path, mpp=0.5)


def test_an_imagej_stack_is_refused(tmp_path, picture):
    path = tmp_path / "a.tif"
    stack = np.moveaxis(picture, 2, 0).copy()
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(SlideError, match=r"an ImageJ stack of 3 gray planes. Convert it to one"):
        open_slide(path, mpp=0.5)


# --- OME-TIFF ---


@pytest.fixture
def ome(tmp_path):
    """Return a function that writes images as an OME-TIFF."""

    def write(*images, photometric="rgb"):
        path = tmp_path / "a.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as tiff:
            for pixels, metadata in images:
                sizes = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
                tiff.write(
                    pixels, photometric=photometric, tile=(64, 64), metadata={**sizes, **metadata}
                )
        return path

    return write


def test_two_scenes_are_refused_with_their_names(ome, picture):
    path = ome((picture[:100], {"Name": "left"}), (picture[100:], {"Name": "right"}))
    message = (
        r"a.ome.tif: the file holds 2 pictures: 440 x 204 px \(right\) and 440 x 100 px \(left\)\."
        r" Save the one to use .* .*-series N "
    )
    with pytest.raises(SlideError, match=message):
        open_slide(path)


@pytest.mark.parametrize("name", ["label image", "Macro"])
def test_a_label_in_an_ome_tiff_is_left_out(ome, picture, name):
    path = ome((picture[:100], {"Name": name}), (picture, {"Name": "slide"}))
    check(path, picture, (1.0,))


def test_gray_planes_are_refused(ome, picture):
    planes = np.moveaxis(picture, 2, 0).copy()
    names = {"axes": "CYX", "Channel": {"Name": ["R", "G", "B"]}}
    message = r"a.ome.tif: the file holds 3 gray planes: 3 channels \(R, G, B\). Convert it to one"
    with pytest.raises(SlideError, match=message):
        open_slide(ome((planes, names), photometric="minisblack"))


def test_an_ome_xml_that_contradicts_the_file_is_refused(ome, picture):
    path = ome((picture, {}))
    path.write_bytes(path.read_bytes().replace(b'SizeX="440"', b'SizeX="441"'))
    with pytest.raises(SlideError, match=r"describes an image of 441 x 304 px, but the file holds"):
        open_slide(path)


def test_an_ome_xml_that_is_damaged_is_refused(ome, picture):
    path = ome((picture, {}))
    path.write_bytes(path.read_bytes().replace(b"<Pixels", b"<<ixels"))
    with pytest.raises(SlideError, match=r"a.ome.tif: the OME-XML describes no image \(its XML"):
        open_slide(path)
