"""Several commands extract one cohort into one folder at the same time."""

import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parfocal.distribute.shards import Shard
from parfocal.distribute.status import read_status
from parfocal.distribute.worklist import Distribution
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings
from parfocal.features.store import FeatureFile

SETTINGS = SlideSettings(magnifications=(2.5, 10.0), patch_size=32)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def cohort(tmp_path: Path) -> list[tuple[str, Path, float]]:
    slides = []
    for seed in range(6):
        pixels = np.full((256, 256, 3), 245, dtype=np.uint8)
        noise = np.random.default_rng(seed).integers(0, 60, (160, 160, 3))
        pixels[32:192, 32:192] = noise + np.array([150, 60, 140])
        path = tmp_path / f"{seed}.png"
        Image.fromarray(pixels).save(path)
        slides.append((f"{seed}", path, 1.0))
    return slides


def patches_encoded(encoder, log: Path) -> None:
    """Add the number of patches of each batch to a file."""

    def note(_: object, inputs: tuple, __: object) -> None:
        with log.open("a") as file:
            file.write(f"{len(inputs[0])}\n")

    encoder.network.register_forward_hook(note)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


def test_two_clients_with_eight_processes_encode_each_slide_once(cohort, encoder, tmp_path):
    encoder.macs_per_patch()  # counted with a forward pass, so before the hook is set
    expected = extract_cohort(cohort, tmp_path / "alone", encoder=encoder, settings=SETTINGS)
    total = sum(
        int(FeatureFile(path).header.grid.valid(step).sum())
        for path in (tmp_path / "alone").glob("*.h5")
        for step in range(2)
    )
    patches_encoded(encoder, tmp_path / "log")
    rows = FORK.Queue()

    def client() -> None:
        result = extract_cohort(cohort, tmp_path / "shared", encoder=encoder, settings=SETTINGS)
        rows.put((result.done, result.skipped, result.elsewhere, result.failed))

    processes = [FORK.Process(target=client) for _ in range(8)]
    for process in processes:
        process.start()
    results = [rows.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sum(map(int, (tmp_path / "log").read_text().split())) == total
    done = Counter(name for each, _, _, _ in results for name in each)
    assert done == Counter(expected.done)
    for mine, skipped, elsewhere, failed in results:
        assert sorted((*mine, *skipped, *elsewhere)) == sorted(expected.done)
        assert failed == {}
    assert content(tmp_path / "shared") == content(tmp_path / "alone")
    assert len(read_status(tmp_path / "shared")[0].done) == 6


def test_shards_divide_the_slides_and_make_an_equal_folder(cohort, encoder, tmp_path):
    extract_cohort(cohort, tmp_path / "alone", encoder=encoder, settings=SETTINGS)
    for index in range(2):
        result = extract_cohort(
            *(cohort, tmp_path / "shards"),
            encoder=encoder,
            settings=SETTINGS,
            distribution=Distribution(Shard(index, 2)),
        )
        assert result.done == tuple(str(number) for number in range(index, 6, 2))
    assert content(tmp_path / "shards") == content(tmp_path / "alone")
