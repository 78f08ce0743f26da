"""What a folder of stored features offers, whichever tool made it; ours is one of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from parfocal.encoders.spec import EncoderSpec
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.header import SlideSettings, group_names
from parfocal.features.rows import StoredFeatures
from parfocal.features.selection import Selection
from parfocal.features.store import FeatureFile, feature_path
from parfocal.slide.sources.url import SlidePath

OWN_TOOL = "parfocal"
NAMED_WITH_COLON = re.compile(r"(?P<magnification>\d+(\.\d+)?)x?:(?P<folder>.+)")


@runtime_checkable
class FeatureSlide(Protocol):
    """A slide whose features are looked for, such as a slide of a cohort."""

    @property
    def slide_id(self) -> str:
        """Id of the slide."""

    @property
    def path(self) -> SlidePath:
        """The slide file, which need not exist, or its URL."""

    @property
    def mpp(self) -> float | None:
        """µm per level-0 pixel, for a file that does not record it."""

    @property
    def tissue(self) -> Path | None:
        """File of the tissue; None for tissue that is found."""


@runtime_checkable
class SlideFeatures(Protocol):
    """The stored features of one slide, which have been checked."""

    @property
    def placed(self) -> bool:
        """Whether the places of the patches on the slide are known."""

    def select(self, magnifications: Sequence[float]) -> Selection:
        """Return the patches of some magnifications, lowest first.

        Raises:
            StoreError: the slide does not have them.
        """

    def tables(
        self, magnifications: Sequence[float], *, device: torch.device | str = "cpu"
    ) -> tuple[StoredFeatures, ...]:
        """Return the features of these patches, which are read when indexed."""


@dataclass(frozen=True)
class FolderFacts:
    """What all slides of a folder have in common.

    Args:
        tool: tool that extracted the features.
        magnifications: nominal magnifications, lowest first.
        patch_size: side of a patch in pixels.
        encoders: encoder of each magnification.
    """

    tool: str
    magnifications: tuple[float, ...]
    patch_size: int
    encoders: tuple[EncoderSpec, ...]

    def require_magnifications(self, magnifications: Sequence[float], folder: str) -> None:
        """Refuse features that lack a magnification of a trained model.

        Args:
            magnifications: magnifications of the model, lowest first.
            folder: the folder, for the message.

        Raises:
            MixedFeaturesError: the folder does not have one of them.
        """
        names, wanted = group_names(self.magnifications), group_names(magnifications)
        if set(wanted) <= set(names):
            return
        text = ",".join(f"{each:g}" for each in magnifications)
        advice = f"Extract them with `parfocal extract --magnifications {text}` into another folder"
        if self.tool != OWN_TOOL:
            folders = ",".join(f"{each:g}=DIR" for each in magnifications)
            advice = f"Give --features {folders}"
        raise MixedFeaturesError(
            f"{folder}: the features are of {' and '.join(names)}, and the run needs "
            f"{' and '.join(wanted)}. {advice}."
        )

    def encoders_at(self, magnifications: Sequence[float], folder: str) -> tuple[EncoderSpec, ...]:
        """Return the encoder of some magnifications.

        Args:
            magnifications: the magnifications.
            folder: the folder, for the message.

        Raises:
            MixedFeaturesError: the folder does not have one of them.
        """
        names = dict(zip(group_names(self.magnifications), self.encoders, strict=True))
        wanted = group_names(magnifications)
        for name in wanted:
            if name not in names:
                raise MixedFeaturesError(
                    f"{folder}: the features are of {', '.join(names)}, and not of {name}. Leave "
                    "it out, or extract again with it into another folder."
                )
        return tuple(names[name] for name in wanted)


@runtime_checkable
class FeatureFolder(Protocol):
    """A folder of stored features, or several with one magnification each."""

    @property
    def facts(self) -> FolderFacts:
        """What all slides have in common."""

    def files(self, slide: FeatureSlide) -> tuple[Path, ...]:
        """Return the files with the features of a slide, which may be missing."""

    def open(
        self, slide: FeatureSlide, settings: SlideSettings, encoders: Sequence[EncoderSpec]
    ) -> SlideFeatures:
        """Return the features of a slide, after checking them.

        Args:
            slide: the slide.
            settings: the patches expected.
            encoders: expected encoder of each magnification of `settings`.

        Raises:
            StoreError: a file is missing or damaged, or does not mix with the others.
        """

    def fingerprint(self, slide: FeatureSlide) -> str | None:
        """Return the fingerprint of the slide file; None where it is unknown."""


def refuse_missing(path: Path) -> None:
    """Refuse a folder of features that does not exist.

    Args:
        path: the folder.

    Raises:
        StoreError: it does not exist, or is no folder.
    """
    if path.is_dir():
        return
    found = "is a file, not a folder" if path.exists() else "does not exist"
    named = NAMED_WITH_COLON.match(str(path))
    advice = "Check the path"
    if named is not None:
        advice = f"Name a magnification with =, as {named['magnification']}={named['folder']}"
    raise StoreError(f"{path}: the folder of features {found}. {advice}.")


def _first_that_opens(files: Sequence[Path]) -> FeatureFile:
    """Return the first feature file that can be opened, or raise the error of the first."""
    errors = []
    for file in files:
        try:
            return FeatureFile(file)
        except StoreError as error:  # that of its slide
            errors.append(error)
    raise errors[0]


class OwnFolder:
    """A folder of feature files of parfocal.

    Args:
        path: the folder.

    Raises:
        StoreError: the folder is missing, or has no feature file in it that can be opened.
    """

    def __init__(self, path: Path) -> None:
        refuse_missing(path)
        files = sorted(path.glob("*.h5"))
        if not files:
            raise StoreError(
                f"{path}: no feature files (*.h5) here; run `parfocal extract` first, or give the "
                "folder in which another tool wrote features."
            )
        self._path = path
        self._first = first = _first_that_opens(files)
        self.facts = FolderFacts(OWN_TOOL, first.magnifications, first.patch_size, first.encoders)

    def __str__(self) -> str:
        return str(self._path)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all slides."""
        return tuple(path.stem for path in sorted(self._path.glob("*.h5")))

    def open_named(self, name: str) -> FeatureFile:
        """Return the feature file of a slide of which only the name is known.

        Raises:
            StoreError: the file is damaged, or does not mix with the first one.
        """
        first, file = self._first, FeatureFile(feature_path(self._path, name))
        for what, found, expected in (
            ("encoder", [e.name for e in file.encoders], [e.name for e in first.encoders]),
            ("magnifications", file.magnifications, first.magnifications),
            ("patch size", file.patch_size, first.patch_size),
        ):
            if found != expected:
                raise MixedFeaturesError(
                    f"{file.path}: {what} {found}, and {first.path.name} has {expected}; they do "
                    "not mix. Keep them in different folders."
                )
        return file

    def files(self, slide: FeatureSlide) -> tuple[Path, ...]:
        """Return the feature file of a slide."""
        return (feature_path(self._path, slide.slide_id),)

    def open(
        self, slide: FeatureSlide, settings: SlideSettings, encoders: Sequence[EncoderSpec]
    ) -> FeatureFile:
        """Return the feature file of a slide, after checking it.

        Raises:
            StoreError: the file is missing or damaged, or does not mix with the others.
        """
        file = FeatureFile(self.files(slide)[0])
        file.check(encoders, settings, tissue=slide.tissue)
        return file

    def fingerprint(self, slide: FeatureSlide) -> str | None:
        """Return the fingerprint of the slide file, which the feature file stores.

        Raises:
            StoreError: the feature file is missing or damaged.
        """
        return FeatureFile(self.files(slide)[0]).fingerprint
