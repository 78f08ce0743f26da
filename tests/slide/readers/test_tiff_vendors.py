"""The formats that are recognized in remote files are those that OpenSlide would read."""

import numpy as np
import pytest
import tifffile

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.tiff_directories import read_directories
from parfocal.slide.readers.tiff_vendors import DIRECT_VENDORS, scanner_vendor
from parfocal.slide.slide import open_slide
from parfocal.slide.sources.local import LocalSource
from range_server import serve

PHILIPS = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"></DataObject>'
)
LEICA = '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"></scn>'
VENTANA = b'<?xml version="1.0"?><iScan Magnification="40" ScanRes="0.25"></iScan>'
KINDS = {
    "generic-tiff": {},
    "aperio": {"description": "Aperio Image Library v10|AppMag = 20|MPP = 0.5"},
    "philips": {"description": PHILIPS, "software": "Philips DP v1.0"},
    "leica": {"description": LEICA},
    "ventana": {"extratags": [(700, 7, len(VENTANA), VENTANA, True)]},
    "trestle": {"software": "MedScan", "description": "OverlapsXY=0 0;Objective Power=20;"},
}


@pytest.fixture
def paint(tmp_path):
    def paint(name, tags):
        path = tmp_path / f"{name}.tif"
        pixels = np.zeros((256, 256, 3), dtype=np.uint8)
        options = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(pixels, **options, compression="jpeg", **{"software": False, **tags})
        return path

    return paint


@pytest.mark.parametrize("name", KINDS)
def test_a_scanners_format_is_recognized_as_by_openslide(paint, name):
    path = paint(name, KINDS[name])
    found = scanner_vendor(read_directories(path, LocalSource(path, CostMeter())))
    known = OpenSlideScan.vendor(path)
    if known not in DIRECT_VENDORS:
        assert found == known
    assert found == (None if name in DIRECT_VENDORS else name)


def test_a_scanners_format_far_away_is_refused_with_its_size(paint, tmp_path):
    path = paint("leica", KINDS["leica"])
    size = path.stat().st_size / 1000
    message = rf"leica.tif: a TIFF of leica cannot be read in place. Add --scratch .* {size:.1f} kB"
    with serve(tmp_path) as served, pytest.raises(SlideError, match=message):
        open_slide(f"{served.address}/leica.tif")
