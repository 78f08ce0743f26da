"""Read rows of features from PyTorch and NumPy files, without unpickling anything but tensors."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.features.errors import StoreError
from parfocal.features.hdf5 import error_cause

PICKLE = b"\x80\x02"  # start of files of before PyTorch 1.6, in pickle protocol 2


class TorchRows:
    """The rows of a tensor in a `.pt` file, of which only the pages that are used are read.

    Args:
        path: the file, written by `torch.save(tensor, path)`.
        tool: tool that wrote the file, for messages.

    Raises:
        StoreError: the file is missing, damaged, or holds something else.
    """

    name = "features"

    def __init__(self, path: Path, *, tool: str) -> None:
        self.path, self.tool = path, tool
        found = tuple(self._load().shape)
        self.shape = (found[0], found[1]) if len(found) == 2 else (0, 0)

    def read(self, rows: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """Return some rows, in order.

        Raises:
            StoreError: the file is missing or damaged.
        """
        picked = self._load()[torch.from_numpy(rows)]
        # NumPy has no bfloat16, and every bfloat16 is a float32.
        return np.asarray(picked.float() if picked.dtype == torch.bfloat16 else picked)

    def _load(self) -> Tensor:
        with _loading(self.path, self.tool):
            with self.path.open("rb") as file:
                start = file.read(2)
            if start[:1] == PICKLE[:1] and start != PICKLE:  # torch warns of other protocols
                raise UnpicklingError
            try:
                found = torch.load(self.path, "cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files of before PyTorch 1.6 cannot be mapped
                found = torch.load(self.path, "cpu", weights_only=True)
            if not isinstance(found, Tensor) or found.ndim > 2 or not found.is_floating_point():
                raise StoreError(
                    f"{self.path}: the file holds {_describe(found)}, not a table of features "
                    f"(patches, features). Save the tensor alone with torch.save."
                )
            return found


class NpzRows:
    """The rows of the array `features` in an `.npz` file, which is read whole.

    Args:
        path: the file.
        tool: tool that wrote the file, for messages.

    Raises:
        StoreError: the file is missing or damaged, or has no such array.
    """

    name = "features"

    def __init__(self, path: Path, *, tool: str) -> None:
        self.path, self.tool = path, tool
        found = self._load().shape
        self.shape = (found[0], found[1]) if len(found) == 2 else (0, 0)

    def read(self, rows: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """Return some rows, in order.

        Raises:
            StoreError: the file is missing or damaged.
        """
        picked: Float[np.ndarray, "n d"] = self._load()[rows]
        return picked

    def _load(self) -> Float[np.ndarray, "..."]:
        found: Float[np.ndarray, ...]
        found = read_arrays(self.path, "features", tool=self.tool)["features"]
        if found.dtype.kind != "f" or found.ndim > 2:
            raise StoreError(
                f"{self.path}: features are {found.dtype} of shape {found.shape}, not a table of "
                f"numbers (patches, features). Extract again with {self.tool}."
            )
        return found


def read_arrays(path: Path, *names: str, tool: str) -> dict[str, np.ndarray]:
    """Read arrays of an `.npz` file.

    Args:
        path: the file.
        names: names of the arrays.
        tool: tool that wrote the file, for messages.

    Raises:
        StoreError: the file is missing or damaged, or an array is missing or pickled.
    """
    with _loading(path, tool), np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in names}


@contextmanager
def _loading(path: Path, tool: str) -> Iterator[None]:
    """Turn what torch and NumPy raise for a file into a StoreError."""
    try:
        yield
    except FileNotFoundError:
        raise StoreError(
            f"{path}: there is no such file. Extract the features of this slide with {tool}, or "
            "remove it from the cohort."
        ) from None
    except UnpicklingError as error:
        raise StoreError(
            f"{path}: the file is a pickle of other objects than tensors, which parfocal does not "
            "load, because a pickle can run any program. Save the tensor of features alone with "
            "torch.save, or as the dataset 'features' of an HDF5 file."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{path}: the file is incomplete or damaged ({error_cause(error)}). Delete it and "
            f"extract again with {tool}."
        ) from error


def _describe(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of {found.dtype} and shape {tuple(found.shape)}"
    return f"a {type(found).__name__}"
