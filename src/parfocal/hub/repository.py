"""Names of repositories: `owner/name`, `hf:owner/name` or `hf:owner/name@revision`."""

import re
from dataclasses import dataclass
from pathlib import Path

PREFIX = "hf:"
NAME = re.compile(
    r"(?P<owner>[A-Za-z0-9][A-Za-z0-9._-]{0,95})/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,95})"
    r"(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{0,99}))?"
)


class HubError(Exception):
    """A model that cannot be pushed or fetched; the message says what to do."""


@dataclass(frozen=True)
class Repository:
    """A repository of models on the Hub.

    Args:
        owner: user or organization.
        name: name of the repository.
        revision: branch, tag or commit; None for the default branch.
    """

    owner: str
    name: str
    revision: str | None = None

    @property
    def id(self) -> str:
        """Owner and name, as the Hub writes them."""
        return f"{self.owner}/{self.name}"

    @property
    def text(self) -> str:
        """What `predict` takes."""
        return f"{PREFIX}{self.id}" + ("" if self.revision is None else f"@{self.revision}")


def parse_repository(text: str) -> Repository:
    """Parse the name of a repository, with or without "hf:".

    Raises:
        HubError: it is not a name of the Hub.
    """
    match = NAME.fullmatch(text.removeprefix(PREFIX))
    if match is None:
        raise HubError(f"{text!r} is not a repository; give hf:OWNER/NAME or hf:OWNER/NAME@TAG.")
    return Repository(match["owner"], match["name"], match["revision"])


def parse_target(text: str) -> Repository | Path:
    """Return what a model is pushed to: a repository, or a folder on this machine.

    `hf:owner/name` is always a repository, and so is `owner/name` unless there is a folder `owner`
    here. Anything else is a folder.

    Raises:
        HubError: the name begins with "hf:" and is not a name of the Hub, or names a revision.
    """
    is_name = NAME.fullmatch(text) is not None and not Path(text).parent.is_dir()
    if not text.startswith(PREFIX) and not is_name:
        return Path(text)
    repository = parse_repository(text)
    if repository.revision is not None:
        raise HubError(f"{text}: models are pushed to the default branch; leave out @REVISION.")
    return repository
