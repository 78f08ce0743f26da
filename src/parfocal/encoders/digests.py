"""Cache the hashes of large weights, which take seconds to compute.

A hash is kept in the user's cache folder under the identity of the weights file: its path, size and
time of modification. Where the folder cannot be written, hashes are computed each time.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from parfocal.encoders.weights import digest
from parfocal.files import write_whole

FILE = "weights-hashes.json"
MIN_BYTES = 64 << 20  # smaller weights take less than a second
MAX_ENTRIES = 500

logger = logging.getLogger(__name__)


def user_cache_folder() -> Path:
    """Return the user's cache folder: XDG_CACHE_HOME, or the default of the system.

    Raises:
        RuntimeError: the user has no home folder.
    """
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "parfocal"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "parfocal"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "parfocal"
    return Path.home() / ".cache" / "parfocal"


def digest_once(weights: Mapping[str, Tensor], files: Sequence[Path], *, recipe: str) -> str:
    """Return the hash of weights, from the user's cache if these files were hashed before.

    Args:
        weights: tensors by name, loaded from the files.
        files: files that the weights were loaded from; none if unknown, and then the hash is
            computed.
        recipe: everything besides the files that decides the tensors, such as the network's name.

    Returns:
        16 hex digits; see `digest`.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if not files or size < MIN_BYTES:
        return digest(weights)
    try:
        key, path = _identity(files, recipe), user_cache_folder() / FILE
    except (OSError, RuntimeError):
        return digest(weights)
    known = _read(path)
    if key not in known:
        known[key] = digest(weights)
        _write(path, known)
    return known[key]


def _identity(files: Sequence[Path], recipe: str) -> str:
    """Return a text that changes whenever one of the files does."""
    parts = [recipe]
    for file in files:
        real = file.resolve(strict=True)  # in the cache of the Hub, names are links to contents
        status = real.stat()
        parts.append(f"{real}\0{status.st_size}\0{status.st_mtime_ns}")
    return sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Read the cached hashes; return none if the file is missing or damaged."""
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)}


def _write(path: Path, known: dict[str, str]) -> None:
    """Write the newest hashes, if the folder can be written."""
    newest = dict(list(known.items())[-MAX_ENTRIES:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(newest, indent=1).encode())
    except OSError as error:
        logger.debug("%s: the hash of the weights cannot be cached (%s)", path, error)
