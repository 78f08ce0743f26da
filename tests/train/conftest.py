from pathlib import Path

import pytest

from parfocal.dataset import Cohort
from parfocal.settings import RunSettings, load_settings
from train_features import write_toy_cohort


@pytest.fixture(scope="session")
def settings() -> RunSettings:
    return load_settings(
        "zoommil-eff",
        overrides=[
            "slide.patch_size=16",
            "slide.magnifications=2.5,5",
            "encoder.name=tiny",
            "model.k=1",
            "model.dim=16",
            "model.sigma=0.05",
            "model.dropout=0.1",
            "train.epochs=4",
            "train.learning_rate=0.01",
        ],
    )


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return write_toy_cohort(tmp_path)
