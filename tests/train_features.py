"""Stored features of toy slides, for tests of training, evaluation and prediction."""

from pathlib import Path

import numpy as np

from parfocal.encoders.loading import load_encoder
from parfocal.features.header import Header, SlideSettings
from parfocal.features.store import feature_path
from parfocal.features.writer import create
from parfocal.grid import PatchGrid

COARSE, CHILDREN = 6, 4


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
