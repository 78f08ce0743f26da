"""A cache of regions of slides on disk, limited in size; the least recently used are deleted.

Each region is one uncompressed file, so that reading it needs no decoding. Several processes can
share a folder. Each counts only what it adds itself, so together they can exceed the limit.
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
        folder: folder of the files; created when first used.
        limit_gib: largest total size of the files, in GiB.
    """

    def __init__(self, folder: Path, *, limit_gib: float = 10.0) -> None:
        self._folder, self._limit = folder, int(limit_gib * 2**30)
        self._lock = threading.Lock()
        self._bytes: int | None = None  # total size; None before the first write

    def get(self, name: str) -> Pixels | None:
        """Return a region; None if it is not cached, or its file is damaged."""
        path = self._path(name)
        try:
            pixels: Pixels = np.load(path, allow_pickle=False)
            os.utime(path)
        except (OSError, ValueError, EOFError):
            return None
        return pixels

    def put(self, name: str, pixels: Pixels) -> None:
        """Add a region.

        Raises:
            UnwritableError: the folder cannot be written to.
        """
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The file gets its name when complete, but a cache need not wait for the disk.
            with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
                np.save(part, pixels)
            Path(part.name).replace(path)
        except OSError as error:
            raise UnwritableError(
                f"{self._folder}: the pixel cache cannot be written ({error.strerror}). Free "
                "space, choose a writable folder, or leave --cache out."
            ) from error
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(file.stat().st_size for file in self._files())
            else:
                self._bytes += pixels.nbytes
            if self._bytes > self._limit:
                self._delete_oldest()

    def _delete_oldest(self) -> None:
        """Delete the least recently used files down to 90% of the limit, so that it is rare."""
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
