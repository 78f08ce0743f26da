"""A cache of features on disk, filled as models visit slides; docs/formats.md has the layout.

There is one SQLite file per slide and encoder. A batch is one transaction, so that a killed process
loses at most the current batch, and several processes can fill one cache. No connection stays open,
so a bag can be pickled or used after a fork.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float16, Int64

from parfocal.distribute.mounts import mount_of
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.errors import StoreError, UnwritableError

LOCK_TIMEOUT_S = 60  # how long to wait while another process writes

# `side` is the side of a patch in level-0 pixels. Unlike its mpp, it does not change when the slide
# is opened with another mpp. The 1 is the version of the table.
TABLE = """
CREATE TABLE IF NOT EXISTS features_1 (
    side REAL, x INTEGER, y INTEGER, value BLOB NOT NULL, PRIMARY KEY (side, x, y)
)
"""


class CacheConnection:
    """An open cache of one slide's features by one encoder.

    Args:
        database: connection to the SQLite file.
        dim: features per patch.
    """

    def __init__(self, database: sqlite3.Connection, dim: int) -> None:
        self._database, self._dim = database, dim

    def get(
        self, side: float, coords: Int64[np.ndarray, "n 2"]
    ) -> tuple[Bool[np.ndarray, " n"], Float16[np.ndarray, "m d"]]:
        """Return the cached features of patches.

        Args:
            side: side of the patches, in level-0 pixels.
            coords: (x, y) of the patches' top-left corners, in level-0 pixels.

        Returns:
            Whether each patch is cached, and the features of those that are.
        """
        query = "SELECT value FROM features_1 WHERE side = ? AND x = ? AND y = ?"
        rows = [self._database.execute(query, (side, x, y)).fetchone() for x, y in coords.tolist()]
        values = bytearray().join(row[0] for row in rows if row is not None)
        found = np.array([row is not None for row in rows], dtype=bool)
        return found, np.frombuffer(values, dtype="<f2").reshape(-1, self._dim)

    def put(
        self, side: float, coords: Int64[np.ndarray, "n 2"], features: Float16[np.ndarray, "n d"]
    ) -> None:
        """Add features of patches in one transaction.

        Args:
            side: side of the patches, in level-0 pixels.
            coords: (x, y) of the patches' top-left corners, in level-0 pixels.
            features: features of the patches.
        """
        rows = [
            (side, x, y, value.astype("<f2").tobytes())
            for (x, y), value in zip(coords.tolist(), features, strict=True)
        ]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO features_1 VALUES (?, ?, ?, ?)", rows)


@dataclass(frozen=True)
class SlideCache:
    """The cache of one slide's features by one encoder.

    Args:
        path: SQLite file; created when first connected to.
        dim: features per patch.
    """

    path: Path
    dim: int

    @contextmanager
    def connect(self) -> Iterator[CacheConnection]:
        """Open the file for the duration of a `with` block, in one process and thread.

        Raises:
            UnwritableError: the file cannot be used, for example because the disk is full.
            StoreError: the file is damaged.
        """
        try:
            with closing(sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S)) as database:
                _enable_write_ahead_log(database)
                database.execute(TABLE)
                yield CacheConnection(database, self.dim)
        except sqlite3.OperationalError as error:
            raise UnwritableError(
                f"{self.path}: the feature cache cannot be used ({error}). Free space, choose a "
                "writable folder on a local disk, or leave --cache out."
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path}: the feature cache is damaged ({error}). Delete this file; it is "
                "filled again when the slide is visited."
            ) from error


@dataclass(frozen=True)
class FeatureCache:
    """A folder of cached features of any number of slides and encoders.

    Args:
        folder: folder of the SQLite files, on a local disk; created when first used.
    """

    folder: Path

    def for_slide(self, fingerprint: str, encoder: EncoderSpec, *, patch_size: int) -> SlideCache:
        """Return the cache of one slide's features by one encoder.

        Args:
            fingerprint: fingerprint of the slide file.
            encoder: encoder of the features; its license and mpp range make no difference.
            patch_size: side of a patch in pixels.

        Raises:
            UnwritableError: the folder cannot be created, or is on a network file system.
        """
        _refuse_network(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnwritableError(
                f"{self.folder}: the folder of the feature cache cannot be created "
                f"({error.strerror}). Choose another with --cache."
            ) from error
        key = sha256(_key_text(encoder, patch_size).encode()).hexdigest()[:16]
        return SlideCache(self.folder / f"{fingerprint[:32]}-{key}.sqlite", encoder.dim)


@cache  # reads the table of mounts
def _refuse_network(folder: Path) -> None:
    """Refuse a folder where the locks of SQLite may not work.

    Raises:
        UnwritableError: the folder is on a network file system.
    """
    mount = mount_of(folder)
    if mount is not None and mount.is_network:
        raise UnwritableError(
            f"{folder}: this folder is on a network file system, {mount.kind} ({mount.source}), "
            "where the SQLite databases of the feature cache may be damaged. Choose a folder on a "
            "local disk with --cache, or leave it out."
        )


def _key_text(encoder: EncoderSpec, patch_size: int) -> str:
    """Return the text whose hash names a cache file.

    Written out field by field, so that existing caches are found whatever `EncoderSpec` becomes. A
    field that `EncoderSpec` got later is there only where it differs from its default.
    """
    later = {
        name: value
        for name, value in encoder.to_dict().items()
        if name in ("resize_px", "output", "prefix_tokens")
    }
    return (
        f"EncoderSpec(name={encoder.name!r}, dim={encoder.dim}, input_size={encoder.input_size}, "
        f"mean={encoder.mean}, std={encoder.std}, mpp_range=(0.0, 0.0), "
        "licence='', "  # the name of this field in version 1
        f"weights_hash={encoder.weights_hash!r}, interpolation={encoder.interpolation!r}), "
        f"{patch_size}{f', {later}' if later else ''}"
    )


def _enable_write_ahead_log(database: sqlite3.Connection) -> None:
    """Let readers go on while another process writes, and do not wait for the disk per batch."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # This statement, unlike others, fails at once while another process creates the file.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break
    database.execute("PRAGMA synchronous = NORMAL")
