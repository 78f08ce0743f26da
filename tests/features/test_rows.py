"""Rows are read at their positions in the file, as HDF5 itself reads them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from parfocal.features import rows as rows_module
from parfocal.features.errors import StoreError
from parfocal.features.rows import Hdf5Rows, StoredFeatures, row_positions

TABLE = np.random.default_rng(0).normal(size=(700, 6))
LAYOUTS = {
    "one row in a chunk, growing": {"chunks": (1, 6), "maxshape": (None, 6)},
    "256 rows in a chunk": {"chunks": (256, 6)},
    "contiguous": {},
    "compressed": {"chunks": (256, 6), "compression": "gzip"},
    "shuffled": {"chunks": (256, 6), "shuffle": True},
    "several chunks in a row": {"chunks": (256, 4)},
    "big-endian": {"chunks": (256, 6), "dtype": ">f4"},
    "half": {"chunks": (256, 6), "dtype": "f2"},
}
AT_POSITIONS = {name for name in LAYOUTS if name not in ("compressed", "shuffled")} - {
    "several chunks in a row"
}


def write(path: Path, layout: dict[str, object]) -> np.ndarray:
    """Write the table between other data, and return it as it was stored."""
    with h5py.File(path, "w") as file:
        file["before"] = np.arange(1000)
        options = {"dtype": "f4", **layout}
        if layout.get("maxshape"):
            dataset = file.create_dataset("features", (0, 6), **options)
            for start in range(0, len(TABLE), 64):  # as features come from an encoder
                dataset.resize(min(start + 64, len(TABLE)), axis=0)
                dataset[start : start + 64] = TABLE[start : start + 64]
                file[f"between-{start}"] = start
        else:
            file.create_dataset("features", data=TABLE, **options)
        file["after"] = np.arange(1000)
    with h5py.File(path) as file:
        return file["features"][:]


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_those_that_hdf5_reads(tmp_path: Path, name: str):
    stored = write(tmp_path / "a.h5", LAYOUTS[name])
    with h5py.File(tmp_path / "a.h5") as file:
        assert (row_positions(file["features"]) is not None) == (name in AT_POSITIONS)
    reader = Hdf5Rows(tmp_path / "a.h5", "features", stored.shape)
    for rows in (np.arange(700), np.array([0, 1, 2, 255, 256, 699]), np.array([5]), np.arange(0)):
        found = reader.read(rows)
        assert found.astype(stored.dtype).tobytes() == stored[rows].tobytes()
        assert found.shape == (len(rows), 6)
    table = StoredFeatures(reader, device=torch.device("cpu"))
    wanted = [3, 3, 699, 0]
    assert table[torch.tensor(wanted)].tolist() == stored[wanted].tolist()
    assert torch.equal(table.all(), torch.from_numpy(stored.astype(stored.dtype.newbyteorder("="))))


def test_without_positions_rows_are_read_by_hdf5(tmp_path: Path, monkeypatch):
    stored = write(tmp_path / "a.h5", LAYOUTS["one row in a chunk, growing"])
    monkeypatch.setattr(rows_module, "row_positions", lambda dataset: None)
    reader = Hdf5Rows(tmp_path / "a.h5", "features", stored.shape)
    assert reader.read(np.array([3, 699])).tobytes() == stored[[3, 699]].tobytes()


def test_rows_that_were_never_written_are_zero(tmp_path: Path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("features", (700, 6), "f4", chunks=(256, 6))
        dataset[300:400] = 1
    found = Hdf5Rows(tmp_path / "a.h5", "features", (700, 6)).read(np.arange(700))
    assert np.flatnonzero(found.any(axis=1)).tolist() == list(range(300, 400))


def test_a_replaced_file_is_looked_up_again(tmp_path: Path):
    path = tmp_path / "a.h5"
    write(path, LAYOUTS["contiguous"])
    reader = Hdf5Rows(path, "features", (700, 6))
    reader.read(np.arange(3))
    stored = write(path, {"chunks": (1, 6), "maxshape": (None, 6)})
    assert reader.read(np.arange(700)).tobytes() == stored.tobytes()


def test_a_file_that_became_shorter_is_refused(tmp_path: Path):
    path = tmp_path / "a.h5"
    write(path, LAYOUTS["contiguous"])
    reader = Hdf5Rows(path, "features", (700, 6))
    reader.read(np.arange(3))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(StoreError, match=r"a\.h5: the feature file is incomplete or damaged"):
        reader.read(np.arange(700))
    path.unlink()
    with pytest.raises(StoreError, match="there is no such feature file"):
        reader.read(np.arange(700))


def test_places_without_a_stored_row_are_zero(tmp_path: Path):
    stored = write(tmp_path / "a.h5", LAYOUTS["half"])
    reader = Hdf5Rows(tmp_path / "a.h5", "features", stored.shape)
    table = StoredFeatures(reader, device=torch.device("cpu"), stored_rows=np.array([5, -1, 2, -1]))
    assert table.all().tolist() == [*stored[[5]].tolist(), [0] * 6, *stored[[2]].tolist(), [0] * 6]
