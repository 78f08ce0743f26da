"""Fetch the folder of a run from the Hub, and check that using it sends nothing elsewhere.

Nothing is unpickled: a model is JSON and safetensors, which are checked as those of any run.
"""

import logging
from pathlib import Path
from typing import Any

from parfocal.encoders.service import is_address
from parfocal.hub import client
from parfocal.hub.repository import PREFIX, HubError, Repository, parse_repository
from parfocal.models.description import (
    HUB_DESCRIPTION_FILE,
    HUB_WEIGHTS_FILE,
    read_description,
)

FETCHED_FILES = (HUB_DESCRIPTION_FILE, HUB_WEIGHTS_FILE)

logger = logging.getLogger(__name__)


def is_hub_run(text: str) -> bool:
    """Return whether the name of a run is one of the Hub."""
    return text.startswith(PREFIX)


def fetch_run(text: str) -> Path:
    """Download a model from the Hub, unless it is in the cache, and return its folder.

    Args:
        text: name of the repository, as hf:owner/name or hf:owner/name@revision.

    Raises:
        HubError: the name is wrong, the files cannot be had, or they name a file or a service that
            they must not.
        CheckpointError: the description of the model is damaged.
    """
    repository = parse_repository(text)
    folder = client.download(repository, FETCHED_FILES)
    for name in FETCHED_FILES:
        if not (folder / name).is_file():
            raise HubError(
                f"{repository.text}: it has no {name}, so it is not a model of parfocal; check the "
                "name."
            )
    _check(repository, read_description(folder))
    logger.info("%s: using %s", repository.text, folder)
    return folder


def _check(repository: Repository, description: dict[str, Any]) -> None:
    """Refuse a model that names a service, which would receive pixels, or a file of this machine.

    `push` writes neither.
    """
    stored = description.get("encoder")
    for spec in stored if isinstance(stored, list) else [stored]:
        for key in ("address", "name"):
            value = spec.get(key, "") if isinstance(spec, dict) else ""
            if value and (key == "address" or is_address(str(value))):
                raise HubError(
                    f"{repository.text}: its encoder is a service at {str(value)[:100]!r}, which "
                    "would receive the pixels of your slides. It is not used."
                )
    files = description.get("encoder_weights")
    if any(files if isinstance(files, list) else [files]):
        raise HubError(
            f"{repository.text}: it names a file with the encoder's weights on this machine. It is "
            "not used."
        )
