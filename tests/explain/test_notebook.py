import builtins
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from explain.demo_folder import DARK, LESION, SIDE, write_json
from parfocal.explain.notebook import frame_of, html_of
from parfocal.explain.read_record import read_prediction
from parfocal.slide.slide import open_slide


@pytest.fixture
def record(folder):
    return read_prediction(folder / "predictions" / "a.json")


def test_a_prediction_shows_its_answer_and_the_slide_with_squares(record):
    html = record._repr_html_()
    assert "a: tumor 0.80 · looked at 6 of 60 patches" in html
    assert "data:image/jpeg;base64," in html
    assert '<rect x="600" y="300" width="200" height="200" stroke="#0072b2"' in html


def test_a_slide_that_is_not_there_is_told_in_place_of_its_picture(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    content["slide"]["path"] = "/gone/<a>.tif"
    html = html_of(read_prediction(write_json(tmp_path / "a.json", content)))
    assert "No picture: /gone/&lt;a&gt;.tif: there is no such file" in html


def test_another_file_under_its_name_is_not_shown(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    content["slide"]["fingerprint"] = "0" * 32
    html = html_of(read_prediction(write_json(tmp_path / "a.json", content)))
    assert "another file by now" in html
    assert "<img" not in html


def test_regions_are_rows_by_order_of_looking(record):
    table = record.to_frame()
    assert table.index.tolist() == ["0-0", "0-1", "0-2", "0-3", "1-0", "1-1"]
    assert table.loc["1-0", ["x", "y", "score"]].tolist() == [600.0, 300.0, 0.9]
    assert table["selected"].sum() == 1


def test_without_pandas_it_says_how_to_get_it(record, monkeypatch):
    found = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "pandas":
            raise ImportError
        return found(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="needs pandas: pip install pandas"):
        frame_of(record)


def test_a_slide_shows_itself_small_and_unbilled(folder):
    with open_slide(folder / "cohort" / "a.tif") as slide:
        before = slide.cost_meter.total().pixels_decoded
        pixels = np.array(Image.open(io.BytesIO(slide._repr_png_()))).astype(int)
        assert slide.cost_meter.total().pixels_decoded == before
    assert pixels.shape == (480, 480, 3)
    middle = [round((corner + LESION[2] / 2) * 480 / SIDE) for corner in LESION[1::-1]]
    assert np.abs(pixels[tuple(middle)] - DARK).max() < 12
