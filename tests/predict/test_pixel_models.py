"""Every model that takes pixels predicts a slide; its checkpoint has no encoder."""

from pathlib import Path

import pytest

from parfocal.features.header import SlideSettings
from parfocal.models import MODELS
from parfocal.models.checkpoint import Checkpoint, TrainingProvenance, build_model
from parfocal.models.description import read_description
from parfocal.predict.slide import predict

SMALL = Path(__file__).parents[1] / "fixtures" / "v1" / "pixel_models"  # settings of small models


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].traits.takes_pixels])
def test_a_model_that_takes_pixels_predicts_a_slide(name: str, slide: Path, tmp_path: Path):
    settings = read_description(SMALL / name)["model"]["settings"]
    magnifications = tuple(settings.get("magnifications", (10.0,)))
    Checkpoint(
        model=build_model(name, settings).eval(),
        model_name=name,
        model_settings=settings,
        labels=("normal", "tumor"),
        encoders=(),
        slide=SlideSettings(magnifications, 16),
        training=TrainingProvenance(0, 0),
    ).save(tmp_path)
    record = predict(slide, Checkpoint.load(tmp_path))
    assert set(record.probabilities) == {"normal", "tumor"}
    assert record.regions
    assert record.model.encoder is None
