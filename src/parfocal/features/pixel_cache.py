"""A cache of regions on disk, bounded: what was used longest ago makes room.

A file a region, uncompressed, so that reading one back is no decoding. Several processes may
share a folder; each counts what it adds, so the bound is met but for what others add.
"""

import os
import threading
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from jaxtyping import UInt8

from parfocal.features.errors import UnwritableError

Pixels = UInt8[np.ndarray, "h w 3"]


class PixelCache:
    """Regions kept between visits to a slide.

    Args:
        folder: where the files are; made when first used.
        limit_gib: how large they may become together.
    """

    def __init__(self, folder: Path, *, limit_gib: float = 10.0) -> None:
        self._folder, self._limit = folder, int(limit_gib * 2**30)
        self._lock = threading.Lock()
        self._bytes: int | None = None  # counted when first written to

    def get(self, name: str) -> Pixels | None:
        """Look a region up; None where it is not kept, or what is kept is damaged."""
        path = self._path(name)
        try:
            pixels: Pixels = np.load(path, allow_pickle=False)
            os.utime(path)
        except (OSError, ValueError, EOFError):
            return None
        return pixels

    def put(self, name: str, pixels: Pixels) -> None:
        """Keep a region.

        Raises:
            UnwritableError: the folder cannot be written to.
        """
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not there; but a cache may be lost, so it does not wait for the disk.
            with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
                np.save(part, pixels)
            Path(part.name).replace(path)
        except OSError as error:
            raise UnwritableError(
                f"{self._folder}: the pixel cache cannot be written ({error.strerror}). Free "
                "space, or choose a folder that you may write to, or go on without --cache."
            ) from error
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(file.stat().st_size for file in self._files())
            else:
                self._bytes += pixels.nbytes
            if self._bytes > self._limit:
                self._make_room()

    def _make_room(self) -> None:
        """Delete what was used longest ago, down to nine tenths, so that it is not done often."""
        ages = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self._files())
        self._bytes = sum(size for _, size, _ in ages)
        for _, size, file in ages:
            if self._bytes <= 0.9 * self._limit:
                break
            file.unlink(missing_ok=True)
            self._bytes -= size

    def _files(self) -> list[Path]:
        return list(self._folder.glob("*/*.npy"))

    def _path(self, name: str) -> Path:
        key = sha256(name.encode()).hexdigest()
        return self._folder / key[:2] / f"{key[2:32]}.npy"
