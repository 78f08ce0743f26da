"""A cache of features on disk, filled as slides are visited; docs/formats.md tells the layout.

One SQLite file a slide and encoder. A batch is one transaction, so a kill loses at most the
batch under way, and several processes may fill one cache. No connection stays open: a bag may
be pickled or forked at any time.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float16, Int64

from parfocal.encoders.encoder import EncoderSpec
from parfocal.features.errors import StoreError, UnwritableError

LOCK_TIMEOUT_S = 60  # how long to wait while another process writes

# The side is the patch's in level-0 pixels: unlike its mpp, it stays true when the slide is given
# another mpp. Version 1 of the table; a change of it takes another name.
TABLE = """
CREATE TABLE IF NOT EXISTS features_1 (
    side REAL, x INTEGER, y INTEGER, value BLOB NOT NULL, PRIMARY KEY (side, x, y)
)
"""


class CacheConnection:
    """An open cache of one slide's features by one encoder.

    Args:
        database: that holds them.
        dim: features per patch.
    """

    def __init__(self, database: sqlite3.Connection, dim: int) -> None:
        self._database, self._dim = database, dim

    def get(
        self, side: float, coords: Int64[np.ndarray, "n 2"]
    ) -> tuple[Bool[np.ndarray, " n"], Float16[np.ndarray, "m d"]]:
        """Look patches up.

        Args:
            side: of the patches, in level-0 pixels.
            coords: their top-left corners, in level-0 pixels.

        Returns:
            Which are cached, and the features of those.
        """
        query = "SELECT value FROM features_1 WHERE side = ? AND x = ? AND y = ?"
        rows = [self._database.execute(query, (side, x, y)).fetchone() for x, y in coords.tolist()]
        values = bytearray().join(row[0] for row in rows if row is not None)
        found = np.array([row is not None for row in rows], dtype=bool)
        return found, np.frombuffer(values, dtype="<f2").reshape(-1, self._dim)

    def put(
        self, side: float, coords: Int64[np.ndarray, "n 2"], features: Float16[np.ndarray, "n d"]
    ) -> None:
        """Keep patches' features, all or none, from now on."""
        rows = [
            (side, x, y, value.astype("<f2").tobytes())
            for (x, y), value in zip(coords.tolist(), features, strict=True)
        ]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO features_1 VALUES (?, ?, ?, ?)", rows)


@dataclass(frozen=True)
class SlideCache:
    """Where the features of one slide by one encoder are cached.

    Args:
        path: the SQLite file; made when first opened.
        dim: features per patch.
    """

    path: Path
    dim: int

    @contextmanager
    def opened(self) -> Iterator[CacheConnection]:
        """Open the cache for one look at a slide, in one process and thread.

        Raises:
            UnwritableError: the file cannot be used, as when the disk is full.
            StoreError: it is damaged.
        """
        try:
            with closing(sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S)) as database:
                _write_ahead(database)
                database.execute(TABLE)
                yield CacheConnection(database, self.dim)
        except sqlite3.OperationalError as error:
            raise UnwritableError(
                f"{self.path}: the feature cache cannot be used ({error}). Free space, or choose "
                "a folder on a local disk that you may write to, or go on without --cache."
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path}: the feature cache is damaged ({error}). Delete this file; it is "
                "filled again as slides are visited."
            ) from error


@dataclass(frozen=True)
class FeatureCache:
    """A folder of cached features, for any number of slides and encoders.

    Args:
        folder: where the files are; made when first used. It must be on a local disk.
    """

    folder: Path

    def of(self, fingerprint: str, encoder: EncoderSpec, *, patch_size: int) -> SlideCache:
        """Give the cache of one slide by one encoder.

        Args:
            fingerprint: of the slide file.
            encoder: its name, weights and preparation of pixels tell it from others.
            patch_size: side of a patch in pixels.

        Raises:
            UnwritableError: the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnwritableError(
                f"{self.folder}: the folder for the feature cache cannot be made "
                f"({error.strerror}). Choose another with --cache."
            ) from error
        # What the license or the range says does not change a feature.
        made_by = replace(encoder, license="", mpp_range=(0.0, 0.0))
        key = sha256(f"{made_by}, {patch_size}".encode()).hexdigest()[:16]
        return SlideCache(self.folder / f"{fingerprint[:32]}-{key}.sqlite", encoder.dim)


def _write_ahead(database: sqlite3.Connection) -> None:
    """Let readers not wait for a writer, and no batch for the disk."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # This statement alone does not wait for another process that is just making the file.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            break
    database.execute("PRAGMA synchronous = NORMAL")
