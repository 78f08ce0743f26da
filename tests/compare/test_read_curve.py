import json

import pytest

from compare.test_curve import curve
from parfocal.compare.candidate import ComparisonError
from parfocal.compare.curve import curve_json
from parfocal.compare.read_curve import read_curve


def test_a_curve_is_read_as_it_was_written_and_shown_as_a_picture(tmp_path):
    path = tmp_path / "curve.json"
    path.write_text(curve_json(curve()))
    read = read_curve(path)
    assert curve_json(read) == path.read_text()
    assert read.areas == curve().areas
    picture = read._repr_svg_()
    assert picture.startswith("<?xml")
    assert "</svg>" in picture


@pytest.mark.parametrize("content", ["no JSON", "[]", json.dumps({"points": [{}], "areas": []})])
def test_a_file_that_is_no_curve_is_refused(tmp_path, content):
    path = tmp_path / "curve.json"
    path.write_text(content)
    with pytest.raises(ComparisonError, match=r"curve\.json: not the curve\.json of a comparison"):
        read_curve(path)


def test_a_missing_curve_is_refused(tmp_path):
    with pytest.raises(ComparisonError, match=r"cannot be read \(No such file or directory\)"):
        read_curve(tmp_path / "curve.json")
