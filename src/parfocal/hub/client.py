"""The Hugging Face Hub, through huggingface_hub, the only file that imports it.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honored by that package.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from parfocal.hub.repository import HubError, Repository

DOWNLOADED = "download the model in another way, and give its folder instead of the name"
# Where the errors of huggingface_hub come from; which of them it uses depends on its version.
PACKAGES = ("huggingface_hub", "hf_xet", "httpx", "httpcore", "requests", "urllib3")


def download(repository: Repository, files: Sequence[str]) -> Path:
    """Download files of a repository, unless the cache has them.

    Args:
        repository: the repository.
        files: names of the files; others are not downloaded.

    Returns:
        The folder in the cache that contains them.

    Raises:
        HubError: huggingface_hub is not installed, or the files cannot be had.
    """
    hub = _huggingface_hub()
    with _errors(repository, hub, DOWNLOADED):
        folder = hub.snapshot_download(
            repo_id=repository.id, revision=repository.revision, allow_patterns=list(files)
        )
    return Path(folder)


def visibility(repository: Repository) -> str | None:
    """Return "private" or "public" for a repository that exists; None for one that does not.

    Raises:
        HubError: huggingface_hub is not installed, or the Hub does not answer.
    """
    hub = _huggingface_hub()
    with _errors(repository, hub, "write a folder with `parfocal push RUN DIR`"):
        if not hub.HfApi().repo_exists(repository.id):
            return None
        return "private" if hub.HfApi().model_info(repository.id).private else "public"


def upload(repository: Repository, files: Mapping[str, bytes], *, private: bool) -> str:
    """Create a repository if needed and write files to it, in one commit.

    Args:
        repository: the repository.
        files: content by name.
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        HubError: huggingface_hub is not installed, or the Hub refuses.
    """
    hub = _huggingface_hub()
    with _errors(repository, hub, "write a folder with `parfocal push RUN DIR`"):
        api = hub.HfApi()
        api.create_repo(repository.id, private=private, exist_ok=True)
        commit = api.create_commit(
            repository.id,
            operations=[
                hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
                for name, content in files.items()
            ],
            commit_message="Push a model with parfocal",
        )
    return str(commit.commit_url)


def endpoint() -> str:
    """Return the address of the Hub that is used.

    Raises:
        HubError: huggingface_hub is not installed.
    """
    return str(_huggingface_hub().constants.ENDPOINT)


def _huggingface_hub() -> ModuleType:
    """Import the package.

    Raises:
        HubError: it is not installed.
    """
    try:
        import huggingface_hub  # noqa: PLC0415 (optional)
        import huggingface_hub.constants  # noqa: PLC0415 (no attribute until it is imported)
    except ImportError:
        raise HubError(
            "the Hub needs huggingface_hub, which is not installed; run pip install "
            f"'parfocal[hub]', or {DOWNLOADED}."
        ) from None
    module: ModuleType = huggingface_hub
    return module


@contextmanager
def _errors(repository: Repository, hub: Any, otherwise: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into one line."""
    try:
        yield
    except Exception as error:  # of several packages, which change between its versions
        if not _is_hub_error(error):
            raise
        raise HubError(f"{repository.text}: {_describe(error, hub, otherwise)}.") from error


def _is_hub_error(error: Exception) -> bool:
    modules = [type(each).__module__ for each in (error, error.__cause__)]
    return isinstance(error, OSError) or any(module.startswith(PACKAGES) for module in modules)


def _describe(error: Exception, hub: Any, otherwise: str) -> str:
    """Describe an error of huggingface_hub, and what to do."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in names:
        return (
            "access to it has to be requested on its page; then log in with `hf auth login`, or "
            "set HF_TOKEN"
        )
    if "RevisionNotFoundError" in names:
        return "it has no such revision; check the name after @"
    if "RepositoryNotFoundError" in names or status == 404:
        return (
            "no such repository, or it is private; check the name, and log in with `hf auth "
            f"login` or set HF_TOKEN, or {otherwise}"
        )
    if status in (401, 403):
        return (
            f"access refused (status {status}); log in with `hf auth login`, or set HF_TOKEN to a "
            "token that may do this"
        )
    if "OfflineModeIsEnabled" in names or (
        "LocalEntryNotFoundError" in names and hub.constants.HF_HUB_OFFLINE
    ):
        return f"HF_HUB_OFFLINE is set, and it is not in the cache; unset it, or {otherwise}"
    text = " ".join(str(error).split())[:200].rstrip(".")
    return f"the Hub cannot be used ({text}); try again, or {otherwise}"
