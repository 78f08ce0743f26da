"""A feature file with wrong types, shapes or values is refused, whatever is wrong in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.encoders.encoder import Encoder
from parfocal.features.errors import StoreError
from parfocal.features.header import Header, SlideSettings
from parfocal.features.store import FeatureFile
from parfocal.features.writer import create
from parfocal.grid import PatchGrid
from parfocal.slide.slide import Slide

MISSING = object()
ATTRIBUTES = (MISSING, "text", b"\xff", 3, -1, 0, np.nan, np.inf, 2**62, [], [1.0] * 40, True)
# Free text, and facts that nothing but another file can contradict.
UNCHECKED = {
    *("parfocal_version", "slide_id", "fingerprint", "mpp_source"),
    *("encoder_name", "encoder_license", "encoder_weights_hash", "encoder_interpolation"),
}
# Other settings, which `FeatureFile.check` compares with those of the model.
PLAUSIBLE = (("encoder_input_size", 3), ("exclude_classes", []), ("min_tissue", 0))


@pytest.fixture
def settings() -> SlideSettings:
    return SlideSettings(magnifications=(2.5, 5.0, 20.0), patch_size=16, tissue_method="all")


@pytest.fixture
def grid(slide: Slide, settings: SlideSettings) -> PatchGrid:
    return settings.grid(slide)


@pytest.fixture
def file(tmp_path: Path, grid: PatchGrid, settings: SlideSettings, encoder: Encoder) -> Path:
    path = tmp_path / "whole.h5"
    encoders = (encoder.spec,) * len(settings.magnifications)
    header = Header(encoders, settings, grid, "a", "0" * 64, "given")
    with create(path, header) as writer:
        for step, count in enumerate(grid.counts):
            rows = np.arange(count)
            writer.write(step, rows, np.ones((count, encoder.spec.dim), np.float16))
    return path


def read_all(path: Path) -> tuple[object, ...]:
    """Return all that a training reads of a feature file, in a form that can be compared."""
    file = FeatureFile(path)
    bag = file.bag()
    assert isinstance(bag, StoredBag)
    found: list[object] = [file.header.settings, file.encoders, file.mpps, file.header.slide_id]
    for level in file.levels:
        found.append(level[torch.arange(level.shape[0])].tolist())
    while True:
        found += [bag.features().tolist(), bag.valid.tolist(), bag.rows.tolist()]
        if len(found) > 12:
            return tuple(map(str, found))
        bag = bag.zoom(None)


def refused(path: Path) -> str | None:
    """Return the message by which a file is refused; None if it is not."""
    try:
        read_all(path)
    except StoreError as error:
        return str(error)
    return None


def changed(file: Path) -> Iterator[tuple[Path, h5py.File]]:
    """Yield copies of a file to change."""
    while True:
        copy = file.with_name("changed.h5")
        shutil.copy(file, copy)
        with h5py.File(copy, "r+") as content:
            yield copy, content


def test_the_whole_file_is_read(file: Path):
    assert refused(file) is None


def test_a_wrong_attribute_is_refused(file: Path):
    whole, copies = read_all(file), changed(file)
    with h5py.File(file) as content:
        names = set(content.attrs)
    accepted = []
    for name in sorted(names - UNCHECKED):
        for value in ATTRIBUTES:
            copy, content = next(copies)
            del content.attrs[name]
            if value is not MISSING:
                content.attrs[name] = value
            content.close()
            message = refused(copy)
            if message is None and read_all(copy) != whole:
                accepted.append((name, value))
            assert message is None or message.startswith(f"{copy}: "), message
    assert [each for each in accepted if each not in PLAUSIBLE] == []


def rewrite(content: h5py.File, name: str, values: object) -> None:
    del content[name]
    content[name] = values


def wrong_datasets(content: h5py.File, name: str) -> Iterator[object]:
    """Yield what a dataset may hold in place of its values."""
    values = content[name][:]
    yield "text"
    yield values[:-1]
    yield np.concatenate([values, values[:1]])
    yield values[..., None]
    yield values[:0]
    yield np.array([b"x"] * len(values))
    yield values.astype(complex)
    if values.dtype.kind in "iuf" and name != "roots":
        yield np.full_like(values, -1) if values.dtype.kind == "i" else np.full_like(values, np.nan)


def test_a_wrong_dataset_is_refused(file: Path):
    with h5py.File(file) as content:
        names: list[str] = []
        content.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        cases = [
            (name, values)
            for name in names
            if not name.endswith("coords")  # for people and other programs
            for values in (MISSING, *wrong_datasets(content, name))
        ]
    copies, accepted = changed(file), []
    assert len(cases) > 50
    for name, values in cases:
        copy, content = next(copies)
        if values is MISSING:
            del content[name]
        else:
            rewrite(content, name, values)
        content.close()
        message = refused(copy)
        if message is None:
            accepted.append((name, values))
        assert message is None or message.startswith(f"{copy}: "), message
    assert not accepted, accepted


def test_a_group_in_place_of_a_dataset_is_refused(file: Path):
    copies = changed(file)
    for name in ("roots", "2.5x/features", "2.5x/valid"):
        copy, content = next(copies)
        del content[name]
        content.create_group(name)
        content.close()
        assert "incomplete or damaged" in (refused(copy) or "")


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (np.nan, ". Delete the file and extract again."),
        (
            np.inf,
            " (values beyond 65,504 do not fit float16). Extract this slide again with float32 "
            "features.",
        ),
    ],
)
def test_features_that_are_not_finite_are_refused(file: Path, value: float, advice: str):
    with h5py.File(file, "r+") as content:
        content["5x/features"][3, 0] = value
        count = len(content["5x/features"])
    assert refused(file) == (
        f"{file}: features in 5x/features are not finite in 1 of the {count} rows that were read"
        f"{advice}"
    )


def test_features_that_are_not_finite_are_not_written(
    tmp_path: Path, grid: PatchGrid, settings: SlideSettings, encoder: Encoder
):
    encoders = (encoder.spec,) * len(settings.magnifications)
    header = Header(encoders, settings, grid, "a", "0" * 64, "given")
    path = tmp_path / "a.h5"
    features = np.full((1, encoder.spec.dim), np.inf, np.float16)
    with (
        pytest.raises(StoreError, match=f"{path}: .* not finite as float16 numbers"),
        create(path, header) as writer,
    ):
        writer.write(0, np.array([0]), features)
    assert list(tmp_path.iterdir()) == []
