"""Weights on the Hugging Face Hub: where they are cached, and why they cannot be loaded.

The only module that imports huggingface_hub, which timm and transformers install.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from parfocal.encoders.card import HUB, EncoderCard
from parfocal.encoders.weights import WEIGHTS_OPTION, EncoderError, first_line

WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
# The names that timm and transformers look for first.
STANDARD_FILES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
# Names of the errors of huggingface_hub, which timm and transformers may wrap in others.
GATED, MISSING = {"GatedRepoError"}, {"RepositoryNotFoundError", "RevisionNotFoundError"}
UNREACHABLE = {
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "IncompleteSnapshotError",
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
    "ProxyError",
    "ReadTimeout",
    "SSLError",
    "Timeout",
}
YES = {"1", "ON", "YES", "TRUE"}  # values of HF_HUB_OFFLINE


def cache_folder() -> Path:
    """Return the folder in which huggingface_hub caches repositories, from its variables."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(name):
            return Path(folder).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    return home.expanduser() / "hub"


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in YES for name in names)


def cached_files(repository: str, *, dataset: bool = False, name: str = "") -> list[Path]:
    """Return the weights files of a repository that are in the Hub's cache.

    Args:
        repository: `OWNER/NAME`.
        dataset: whether the repository is a data set.
        name: path of the only weights file in the repository; empty for the files found there.
    """
    kind = "datasets" if dataset else "models"
    folder = cache_folder() / f"{kind}--{repository.replace('/', '--')}" / "snapshots"
    try:
        snapshots = sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime)
        if not snapshots:
            return []
        if name:
            return [snapshots[-1] / name] if (snapshots[-1] / name).is_file() else []
        return weights_files(snapshots[-1])
    except OSError:
        return []


def weights_files(folder: Path) -> list[Path]:
    """Return the weights files of a folder: those of a standard name, or else all.

    Args:
        folder: folder of a model, as the Hub lays it out.
    """
    standard = [folder / name for name in STANDARD_FILES if (folder / name).is_file()]
    if standard:
        return standard[:1]
    found = sorted(folder.iterdir())
    for suffix in WEIGHTS_SUFFIXES:
        if files := [path for path in found if path.suffix == suffix and path.is_file()]:
            return files
    return []


def download(card: EncoderCard) -> Path:
    """Return the path of a card's weights file, downloaded or from the cache of the Hub.

    Raises:
        EncoderError: the file cannot be downloaded or found.
    """
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 (comes with timm)

        kind = "dataset" if card.dataset else "model"
        return Path(hf_hub_download(card.hub, card.weights_file, repo_type=kind))
    # The errors of the Hub client and of its HTTP library have no common base class.
    except Exception as error:
        raise unavailable(card.id, error, card=card) from error


def unavailable(
    name: str, error: Exception, *, card: EncoderCard | None = None, repository: str = ""
) -> EncoderError:
    """Return an error that says why weights cannot be loaded, and what to do.

    Args:
        name: name of the encoder.
        error: error of timm, transformers or huggingface_hub.
        card: card of the encoder, if it has one.
        repository: repository on the Hub, for an encoder without a card.
    """
    page = card.page if card is not None else f"{HUB}{repository}"
    kinds = {type(each).__name__ for each in _chain(error)}
    quoted = f"{type(error).__name__}: {first_line(error)}"
    gated = bool(kinds & GATED) or (card is not None and card.gated)
    cached = card is not None and card.loader == "titan"
    if kinds & GATED:
        reason = f"access to the weights was refused ({quoted})"
    elif kinds & MISSING:
        reason = f"the Hub shows no such repository to this account ({quoted})"
    elif isinstance(error, ModuleNotFoundError):
        reason = f"{error.name} is not installed; run pip install 'parfocal[hub]'"
    elif is_offline():
        reason = f"the weights are not in {cache_folder()}, and HF_HUB_OFFLINE is set"
    elif kinds & UNREACHABLE:
        reason = f"the weights are not in {cache_folder()}, and the Hub cannot be reached"
    else:
        reason = f"the weights cannot be loaded ({quoted})"
    return EncoderError(f"{name}: {reason}. {how_to_get(page, gated=gated, cached=cached)}")


def how_to_get(page: str, *, gated: bool, cached: bool = False) -> str:
    """Return the sentences that say how to get weights, online and offline.

    Args:
        page: page of the weights.
        gated: whether access has to be granted.
        cached: whether they can only be loaded from the Hub's cache.
    """
    online = (
        f"Ask for access at {page}, then set HF_TOKEN to a token of that account"
        if gated
        else f"The weights are at {page}"
    )
    if cached:
        return (
            f"{online}. Without network: load it once on another machine, and copy its cache of "
            "the Hub (HF_HUB_CACHE)."
        )
    return (
        f"{online}. Without network: download the files of that page on another machine and give "
        f"the weights file, or the folder with its config.json: {WEIGHTS_OPTION}."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    seen = 0
    while error is not None and seen < 20:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1
