import shutil
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


@pytest.fixture(scope="session")
def toy_cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Toy slides: one coarse patch stands out, and the features of its children give the label."""
    folder = tmp_path_factory.mktemp("toy")
    rows = ["slide_id,path,label"]
    rng = np.random.default_rng(0)
    for number in range(20):
        label = ("ill", "well")[number % 2]
        rows.append(f"{number:03d},{number:03d}.svs,{label}")
        write_features(folder / "features", f"{number:03d}", rng, 1 if label == "ill" else -1)
    (folder / "cohort.csv").write_text("\n".join(rows))
    return read_cohort(folder / "cohort.csv")


@pytest.fixture
def cohort(toy_cohort: Cohort, tmp_path: Path) -> Cohort:
    """A copy of the toy slides, which a test may change."""
    shutil.copytree(toy_cohort.source.parent, tmp_path, dirs_exist_ok=True)
    return read_cohort(tmp_path / "cohort.csv")
