from pathlib import Path

import numpy as np
import pytest

from parfocal.dataset import Cohort, read_cohort
from parfocal.encoders.loading import load_encoder
from parfocal.features.header import Header, SlideSettings
from parfocal.features.store import feature_path
from parfocal.features.writer import create
from parfocal.grid import PatchGrid
from parfocal.settings import RunSettings, load_settings

COARSE, CHILDREN = 6, 4


@pytest.fixture
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


def write_features(folder: Path, name: str, rng: np.random.Generator, lesion: int) -> None:
    grid = PatchGrid(
        mpps=(4.0, 2.0),
        patch_size=16,
        slide_size=(768, 128),
        slide_mpp=0.5,
        roots=np.array([[column, 0] for column in range(COARSE)]),
        sharpest_patches=COARSE * CHILDREN,
    )
    encoder = load_encoder("tiny").spec
    coarse = rng.normal(0, 0.02, (COARSE, encoder.dim))
    sharp = rng.normal(0, 0.02, (COARSE * CHILDREN, encoder.dim))
    place = rng.integers(COARSE)
    coarse[place, 0] += 3
    sharp[place * CHILDREN : (place + 1) * CHILDREN, 1] += 3 * lesion
    header = Header(
        (encoder,) * 2, SlideSettings((2.5, 5.0), 16), grid, name, f"{name:0>32}", "given"
    )
    with create(feature_path(folder, name), header) as writer:
        for step, table in enumerate((coarse, sharp)):
            writer.write(step, np.arange(len(table)), table.astype(np.float16))
