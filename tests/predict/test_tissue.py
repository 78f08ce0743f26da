import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.explain.record import PredictionRecord
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.folder import FailedSlide, predict_slides


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A mask of the slide of 1024 px, with tissue at its lower right."""
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[40:, 40:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def predict_one(slide: Path, trained: Checkpoint, out: Path, **options: object) -> PredictionRecord:
    (record,) = predict_slides([slide], trained, out, **options)
    assert isinstance(record, PredictionRecord)
    return record


def test_only_patches_of_the_given_tissue_are_visited(
    tmp_path: Path, slide: Path, untrained: Checkpoint, mask: Path
):
    record = predict_one(slide, untrained, tmp_path / "out", tissue={slide: mask})
    assert min(region.x + region.width for region in record.regions) > 640
    stored = json.loads((tmp_path / "out" / "one.json").read_text())
    assert stored["slide"]["tissue_fingerprint"] == record.slide.tissue_fingerprint != ""


def test_a_slide_is_predicted_again_if_its_tissue_has_changed(
    tmp_path: Path, slide: Path, untrained: Checkpoint, mask: Path
):
    out = tmp_path / "out"
    found = predict_one(slide, untrained, out)
    assert found.slide.tissue_fingerprint == ""
    given = predict_one(slide, untrained, out, tissue={slide: mask})
    assert given.regions != found.regions
    Image.new("L", (64, 64), 1).save(mask)
    whole = predict_one(slide, untrained, out, tissue={slide: mask})
    assert whole.slide.tissue_fingerprint != given.slide.tissue_fingerprint
    assert predict_one(slide, untrained, out, tissue={slide: mask}).cost == whole.cost


def test_a_tissue_file_that_does_not_fit_is_the_failure_of_its_slide(
    tmp_path: Path, slide: Path, untrained: Checkpoint
):
    wide = tmp_path / "wide.png"
    Image.new("L", (200, 50), 1).save(wide)
    (failed,) = predict_slides([slide], untrained, tmp_path / "out", tissue={slide: wide})
    assert isinstance(failed, FailedSlide)
    assert failed.reason.startswith("one.tif: tissue file wide.png: the mask is 200 x 50 px")
