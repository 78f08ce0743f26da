"""Push a model: to a folder of this machine, or to the Hub."""

from dataclasses import dataclass
from pathlib import Path

from parfocal.files import OutputError, write_together
from parfocal.hub import client
from parfocal.hub.card import license_of
from parfocal.hub.package import CARD_FILE, Package
from parfocal.hub.repository import Repository


@dataclass(frozen=True)
class Push:
    """What is pushed, and where to.

    Args:
        package: the files.
        target: repository or folder.
        private: whether a repository that does not exist becomes a private one.
        visibility: "private" or "public" of a repository that exists; None for a new one.
        hub: the Hub, for people.
    """

    package: Package
    target: Repository | Path
    private: bool
    visibility: str | None
    hub: str = "the Hub"

    @property
    def is_upload(self) -> bool:
        """Whether the files leave this machine."""
        return isinstance(self.target, Repository)

    @property
    def name(self) -> str:
        """What `predict` takes."""
        return str(self.target) if isinstance(self.target, Path) else self.target.text

    @property
    def lines(self) -> list[str]:
        """What goes where, one line for each file."""
        files = [
            f"  {name}  {len(content):,} bytes" for name, content in self.package.files.items()
        ]
        return [f"to {self._place}:", *files, *(f"  {note}" for note in self.package.notes)]

    def run(self) -> str:
        """Write or upload the files; return where they are.

        Raises:
            HubError: the Hub refuses.
            OutputError: the folder holds other files.
        """
        if isinstance(self.target, Path):
            _write(self.target, self.package)
            return str(self.target)
        return client.upload(self.target, self.package.files, private=self.private)

    @property
    def _place(self) -> str:
        if isinstance(self.target, Path):
            return f"the folder {self.target}, on this machine"
        new = f"if new, {'private' if self.private else 'public'}"
        state = new if self.visibility is None else f"exists, {self.visibility}"
        return f"the repository {self.target.id} of {self.hub} ({state})"


def plan_push(
    package: Package, target: Repository | Path, *, private: bool = True, offline: bool = False
) -> Push:
    """Return what a push would do.

    Args:
        package: the files.
        target: repository or folder; see `parse_target`.
        private: whether a repository that does not exist becomes a private one.
        offline: whether to ask the Hub nothing, also not whether the repository exists.

    Raises:
        HubError: the Hub does not answer.
    """
    if isinstance(target, Path) or offline:
        return Push(package, target, private, None)
    return Push(package, target, private, client.visibility(target), client.endpoint())


def pushed_license(target: Repository | Path, *, offline: bool = False) -> str | None:
    """Return the license that the card of an earlier push states; None if there is none.

    Args:
        target: repository or folder.
        offline: whether to ask the Hub nothing.

    Raises:
        HubError: the Hub does not answer.
    """
    if isinstance(target, Path):
        card = target / CARD_FILE
        return license_of(card.read_text(errors="replace")) if card.is_file() else None
    if offline or client.visibility(target) is None:
        return None
    card = client.download(target, [CARD_FILE]) / CARD_FILE
    return license_of(card.read_text(errors="replace")) if card.is_file() else None


def _write(folder: Path, package: Package) -> None:
    """Write the files to a folder that is new, empty, or from an earlier push."""
    if folder.is_dir():
        others = sorted({entry.name for entry in folder.iterdir()} - package.files.keys())
        if others:
            raise OutputError(
                f"{folder}: holds other files, such as {others[0]}, which would be published with "
                "the model later. Choose a new folder."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_together({folder / name: content for name, content in package.files.items()})
