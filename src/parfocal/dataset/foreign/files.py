"""Find the files of slides that tables name without folder or extension."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.errors import CohortError
from parfocal.dataset.foreign.names import Names, is_feature_file, listed, stem_of
from parfocal.dataset.rows import file_exists, find_file
from parfocal.slide.listing import PICTURE_SUFFIXES, SLIDE_SUFFIXES
from parfocal.slide.readers.dicom import is_dicom_name
from parfocal.slide.sources.url import is_url


@dataclass(frozen=True)
class FoundFile:
    """The file of a slide.

    Args:
        path: path for the cohort; the id of the slide where only its features were found.
        exists: whether a slide file was found, or is remote.
        has_features: whether only a file of features was found.
    """

    path: str
    exists: bool = True
    has_features: bool = False


class SlideFiles:
    """The slide files and feature files in some folders.

    Args:
        folders: folders that are searched at any depth.

    Raises:
        CohortError: a folder does not exist, or holds neither slides nor features.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._slides: dict[str, list[Path]] = defaultdict(list)
        self._pictures: dict[str, list[Path]] = defaultdict(list)
        self._features: dict[str, list[Path]] = defaultdict(list)
        for folder in folders:
            if not folder.is_dir():
                raise CohortError(f"{folder}: no such folder; give one that holds the slides.")
            for place, _, files in os.walk(folder):
                self._add(Path(place), files)
        for stem, paths in self._pictures.items():  # beside slides, these are thumbnails
            self._slides.setdefault(stem, paths)
        if folders and not self._slides and not self._features:
            raise CohortError(
                f"{', '.join(map(str, folders))}: neither slides nor features in this folder; "
                "correct --slides."
            )
        self._names = Names([*self._slides, *self._features])
        self._longer: dict[str, list[str]] = defaultdict(list)
        for stem in self._slides or self._features:
            self._longer[stem.partition(".")[0]].append(stem)
        self.shortened: dict[str, str] = {}

    def _add(self, place: Path, files: Sequence[str]) -> None:
        if any(is_dicom_name(name) for name in files):
            self._slides[place.name].append(place)
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SLIDE_SUFFIXES:
                self._slides[stem_of(name)].append(place / name)
            elif suffix in PICTURE_SUFFIXES:
                self._pictures[stem_of(name)].append(place / name)
            elif is_feature_file(name):
                self._features[stem_of(name)].append(place / name)

    def find(self, name: str, table: Path) -> FoundFile | None:
        """Return the file of a slide.

        Args:
            name: name in the table, possibly with folder and extension.
            table: the table, at whose folder relative paths start.

        Returns:
            The file. Without folders to search, the path as it is in the table. None if folders
            were given and have no such file.

        Raises:
            CohortError: several files have the name.
        """
        if is_url(name):
            return FoundFile(name)
        beside = find_file(table.parent, name)
        if not is_feature_file(name) and stem_of(name) != name and file_exists(beside):
            return FoundFile(os.path.abspath(beside))  # noqa: PTH100  # links stay as they are
        if not self._folders:
            return FoundFile(stem_of(name) if is_feature_file(name) else name, exists=False)
        stem = self._stem(stem_of(name))
        if stem is None:
            return None
        slides = self._slides.get(stem, [])
        if len(slides) > 1:
            slides = [path for path in slides if path.as_posix().endswith(name)] or slides
        if len(slides) > 1:
            raise CohortError(
                f"{name}: {len(slides)} files may be this slide ({listed(map(str, slides))}); name "
                "the folder of one with --slides, or write the file name into the table."
            )
        if slides:
            return FoundFile(os.path.abspath(slides[0]))  # noqa: PTH100
        return FoundFile(stem, exists=False, has_features=True)

    def _stem(self, stem: str) -> str | None:
        """Return the name of a file without extension; one may continue after a dot, as in TCGA."""
        found = self._names.find(stem)
        if found is not None:
            return found
        longer = [
            each for each in self._longer[stem.partition(".")[0]] if each.startswith(f"{stem}.")
        ]
        if len(longer) != 1:
            return None
        self.shortened[stem] = longer[0]
        return longer[0]

    @property
    def notes(self) -> list[str]:
        """Which names were found although they are written in another way."""
        notes = self._names.notes("names of slides")
        if self.shortened:
            pairs = listed(f"{name} = {found}" for name, found in self.shortened.items())
            notes.append(f"{len(self.shortened)} names of slides matched by their start: {pairs}")
        return notes
