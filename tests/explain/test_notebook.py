import builtins
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from explain.demo_folder import DARK, LESION, SIDE, write_json
from parfocal.explain.notebook import to_frame, to_html
from parfocal.explain.read_record import read_prediction
from parfocal.slide.slide import open_slide


@pytest.fixture
def record(folder):
    return read_prediction(folder / "predictions" / "a.json")


def test_a_prediction_shows_its_summary_and_the_slide_with_the_patches(record):
    html = record._repr_html_()
    assert "a: tumor 0.80 · visited 6 of 60 patches" in html
    assert "data:image/jpeg;base64," in html
    assert '<rect x="600" y="300" width="200" height="200" stroke="#0072b2"' in html


def test_a_missing_slide_is_reported_instead_of_its_picture(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    content["slide"]["path"] = "/gone/<a>.tif"
    html = to_html(read_prediction(write_json(tmp_path / "a.json", content)))
    assert "No picture: /gone/&lt;a&gt;.tif: no such file" in html


def test_a_changed_slide_file_is_not_shown(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    content["slide"]["fingerprint"] = "0" * 32
    html = to_html(read_prediction(write_json(tmp_path / "a.json", content)))
    assert "has changed since the prediction" in html
    assert "<img" not in html


def test_the_data_frame_has_the_regions_in_the_order_of_visits(record):
    table = record.to_frame()
    assert table.index.tolist() == ["0-0", "0-1", "0-2", "0-3", "1-0", "1-1"]
    assert table.loc["1-0", ["x", "y", "score"]].tolist() == [600.0, 300.0, 0.9]
    assert table["selected"].sum() == 1


def test_without_pandas_the_error_says_how_to_install_it(record, monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "pandas":
            raise ImportError
        return original(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"needs pandas: pip install 'parfocal\[notebook\]'"):
        to_frame(record)


def test_a_slide_shows_a_thumbnail_that_is_not_counted_as_cost(folder):
    with open_slide(folder / "cohort" / "a.tif") as slide:
        before = slide.cost_meter.total().pixels_decoded
        pixels = np.array(Image.open(io.BytesIO(slide._repr_png_()))).astype(int)
        assert slide.cost_meter.total().pixels_decoded == before
    assert pixels.shape == (480, 480, 3)
    middle = [round((corner + LESION[2] / 2) * 480 / SIDE) for corner in LESION[1::-1]]
    assert np.abs(pixels[tuple(middle)] - DARK).max() < 12
