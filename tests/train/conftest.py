from pathlib import Path

import numpy as np
import pytest

from parfocal.dataset import Cohort, read_cohort
from parfocal.settings import RunSettings, load_settings
from train_features import write_features


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
    """Toy slides: one coarse patch stands out, and the features of its children give the label."""
    rows = ["slide_id,path,label"]
    rng = np.random.default_rng(0)
    for number in range(20):
        label = ("ill", "well")[number % 2]
        rows.append(f"{number:03d},{number:03d}.svs,{label}")
        write_features(tmp_path / "features", f"{number:03d}", rng, 1 if label == "ill" else -1)
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    return read_cohort(tmp_path / "cohort.csv")
