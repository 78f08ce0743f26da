"""Combine folders of features by another tool, each with one or more magnifications."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from parfocal.encoders.spec import EncoderSpec
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.folder import FeatureSlide, FolderFacts
from parfocal.features.foreign.encoder_names import UNNAMED, describe_encoder, encoder_name
from parfocal.features.foreign.patches import ScanFacts, ToolFolder, ToolPatches
from parfocal.features.foreign.slide import ForeignSlide
from parfocal.features.header import SlideSettings, group_names
from parfocal.grid.ladder import whole_ratio
from parfocal.slide.errors import SlideError
from parfocal.slide.identity import file_fingerprint, slide_id
from parfocal.slide.resolution import magnification_of, mpp_of
from parfocal.slide.slide import open_slide
from parfocal.slide.sources.url import SlidePath, is_at_hand

OCTAVES = tuple(80 / 2**step for step in range(8))
SAME_OCTAVE = 1.25  # scanners of 40x have 0.2 to 0.3 µm per pixel
MAX_DEVIATION = 1.5  # of the true resolution from the nominal one, as a ratio
SAME_NOMINAL = 0.05


class ForeignFolder:
    """Folders of features that other tools made, used as one.

    Args:
        folders: the folders, each with the magnification that its features are taken for; None for
            the one that it stores.
        slides: slides of which the files may be available, for tools that do not store the
            resolution.
        encoder: encoder of features whose tool does not store it; empty if it is unknown.
        magnification: magnification of features whose tool does not store it, where the slide file
            is not available either; None if it is unknown.

    Raises:
        StoreError: no slide can be read, or the folders do not go together.
    """

    def __init__(
        self,
        folders: Sequence[tuple[float | None, ToolFolder]],
        slides: Iterable[FeatureSlide] = (),
        *,
        encoder: str = "",
        magnification: float | None = None,
    ) -> None:
        self._encoder, self._magnification = encoder, magnification
        self._folders = tuple(folders)
        self._scans: dict[SlidePath, ScanFacts | None] = {}
        self._mpps: dict[str, dict[float, float]] = {}  # true ones, by slide and magnification
        self._levels: dict[float, ToolPatches] = {}  # of the first slide
        self._levels = self._first_slide(slides)
        tools = dict.fromkeys(folder.tool for _, folder in self._folders)
        self.facts = FolderFacts(
            " and ".join(tools),
            tuple(self._levels),
            self._one_patch_size(),
            tuple(
                describe_encoder(level.encoder, level.rows.shape[1], patch_size=level.patch_size)
                for level in self._levels.values()
            ),
        )
        _check_ladder(self, self.facts.magnifications)

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(str(folder.path) for _, folder in self._folders))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all slides, in any of the folders."""
        return tuple(sorted({name for _, folder in self._folders for name in folder.files}))

    def files(self, slide: FeatureSlide) -> tuple[Path, ...]:
        """Return the files with the features of a slide, which may be missing."""
        names = [_name_in(folder, slide) for _, folder in self._folders]
        return tuple(
            folder.path / f"{slide.slide_id}.h5" if name is None else folder.files[name]
            for name, (_, folder) in zip(names, self._folders, strict=True)
        )

    def open(
        self, slide: FeatureSlide, settings: SlideSettings, encoders: Sequence[EncoderSpec]
    ) -> ForeignSlide:
        """Return the features of a slide, after checking them.

        Raises:
            StoreError: a file is missing or damaged, or does not mix with the others.
        """
        self._check_expected(settings, encoders)
        scan = self._scan(slide)
        levels = self._read(slide, scan)
        for magnification in settings.magnifications:
            if magnification not in levels:
                raise StoreError(
                    f"{self}: slide {slide.slide_id} has features of "
                    f"{', '.join(group_names(list(levels)))}, and not of {magnification:g}x. "
                    f"Extract it again with {self.facts.tool}."
                )
            self._check_level(magnification, levels[magnification], scan)
        opened = ForeignSlide(levels, self.facts.tool, scan)
        grid = opened.select(settings.magnifications).grid
        if scan is not None:
            self._mpps[slide.slide_id] = dict(zip(settings.magnifications, grid.mpps, strict=True))
        return opened

    def open_named(self, name: str) -> ForeignSlide:
        """Return the features of a slide of which only the name is known, at all magnifications.

        Raises:
            StoreError: a file is missing or damaged, or does not mix with the others.
        """
        settings = SlideSettings(self.facts.magnifications, self.facts.patch_size)
        return self.open(NamedSlide(name), settings, self.facts.encoders)

    def fingerprint(self, slide: FeatureSlide) -> str | None:
        """Return the fingerprint of the slide file; None if it is not available."""
        return file_fingerprint(slide.path) if is_at_hand(slide.path) else None

    def true_mpps(self, magnification: float) -> tuple[float, float, float] | None:
        """Return the lowest, median and highest true resolution of the opened slides.

        Args:
            magnification: nominal magnification.

        Returns:
            µm per pixel; None if no slide file was available.
        """
        found = [mpps[magnification] for mpps in self._mpps.values() if magnification in mpps]
        return (min(found), median(found), max(found)) if found else None

    def _first_slide(self, slides: Iterable[FeatureSlide]) -> dict[float, ToolPatches]:
        """Return the patches of the first slide that can be read, which the others have to match.

        Slides of the cohort come first, because their files may be available.
        """
        known = [slide for slide in slides if self._has(slide)]
        problem: StoreError | None = None
        for slide in (*known, *(NamedSlide(name) for name in self.names)):
            try:
                return self._read(slide, self._scan(slide))
            except MixedFeaturesError:
                raise
            except StoreError as error:
                problem = problem or error
        raise problem or StoreError(f"{self}: there are no features of any slide.")

    def _has(self, slide: FeatureSlide) -> bool:
        return all(_name_in(folder, slide) is not None for _, folder in self._folders)

    def _read(self, slide: FeatureSlide, scan: ScanFacts | None) -> dict[float, ToolPatches]:
        """Return the patches of a slide by magnification, lowest first."""
        levels: dict[float, ToolPatches] = {}
        for given, folder in self._folders:
            name = _name_in(folder, slide)
            if name is None:
                raise StoreError(
                    f"{folder.path}: there are no features of slide {slide.slide_id}. Extract them "
                    f"with {folder.tool}, or remove the slide from the cohort."
                )
            for level in folder.read(name, scan):
                magnification = self._nominal(given, level, folder)
                if magnification in levels:
                    raise MixedFeaturesError(
                        f"{self}: several folders are of {magnification:g}x; name one folder for "
                        "each magnification, as 2.5=DIR,10=DIR."
                    )
                levels[magnification] = replace(
                    level,
                    mpp=level.mpp or mpp_of(magnification),
                    encoder=level.encoder or self._encoder,
                )
        return dict(sorted(levels.items()))

    def _nominal(self, given: float | None, level: ToolPatches, folder: ToolFolder) -> float:
        """Return the nominal magnification of patches."""
        if level.mpp is None:
            if given is None and len(self._levels) == 1:
                return next(iter(self._levels))
            known = given or self._magnification
            if known is None:
                raise StoreError(
                    f"{level.rows.path}: {folder.tool} does not store the magnification, and the "
                    "slide file, from which it follows, is not available. Give the magnification "
                    f"M with the folder, as M={folder.path}."
                )
            return known
        found = magnification_of(level.mpp)
        if folder.tool == "CLAM":
            if given is not None and not self._levels:
                _refuse_other_magnification(folder, given, found)
            return given or next(iter(self._levels), _octave(found))
        if given is None:
            return float(f"{found:.4g}")
        if abs(given / found - 1) > SAME_NOMINAL:
            raise MixedFeaturesError(
                f"{folder.path}: the features are of {found:.4g}x, and {given:g}x was given. Write "
                f"{found:.4g}={folder.path}."
            )
        return given

    def _check_expected(self, settings: SlideSettings, encoders: Sequence[EncoderSpec]) -> None:
        """Refuse features whose patches or encoders are not those that a model takes."""
        stored = self.facts.encoders_at(settings.magnifications, str(self))
        if self.facts.patch_size != settings.patch_size:
            raise MixedFeaturesError(
                f"{self}: the patches have {self.facts.patch_size} px, and now it is "
                f"{settings.patch_size}; the two do not mix. Use features of {settings.patch_size} "
                "px, or set slide.patch_size."
            )
        for magnification, own, expected in zip(
            group_names(settings.magnifications), stored, encoders, strict=True
        ):
            name_differs = own.name not in (UNNAMED, expected.name)
            if name_differs or own.dim != expected.dim:
                raise MixedFeaturesError(
                    f"{self}: the features at {magnification} were made by {own.name} "
                    f"({own.dim} features), and now it is {expected.name} ({expected.dim}); the "
                    "two do not mix."
                )

    def _check_level(
        self, magnification: float, level: ToolPatches, scan: ScanFacts | None
    ) -> None:
        """Refuse a slide that does not mix with the first one, or whose places are impossible."""
        first, path = self._levels[magnification], level.rows.path
        for what, found, expected in (
            ("encoder", encoder_name(level.encoder), encoder_name(first.encoder)),
            ("features per patch", level.rows.shape[1], first.rows.shape[1]),
            ("patch size", level.patch_size, first.patch_size),
        ):
            if found != expected:
                raise MixedFeaturesError(
                    f"{path}: {what} {found}, and other slides of the folder have {expected}; "
                    "they do not mix. Keep them in different folders, or extract again."
                )
        _check_places(path, level, scan)
        if scan is not None and level.unit == "px":
            true = level.side * scan.mpp / level.patch_size
            if not _is_near(magnification, magnification_of(true)):
                raise StoreError(
                    f"{path}: the features are of {magnification:g}x, and on this slide of "
                    f"{scan.mpp:.4g} µm/px the patches have {true:.4g} µm/px, which is "
                    f"{magnification_of(true):.3g}x. Check the mpp of the slide, or extract it "
                    "again."
                )

    def _one_patch_size(self) -> int:
        sizes = {f"{each:g}x": level.patch_size for each, level in self._levels.items()}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{size} px at {name}" for name, size in sizes.items())
            raise MixedFeaturesError(
                f"{self}: the patches have {found}, and a model needs one size. Extract all "
                "magnifications with one patch size."
            )
        return next(iter(sizes.values()))

    def _scan(self, slide: FeatureSlide) -> ScanFacts | None:
        """Return what the slide file records; None if it is not available or cannot be read."""
        if slide.path not in self._scans:
            self._scans[slide.path] = None
            if is_at_hand(slide.path):
                with suppress(SlideError, OSError), open_slide(slide.path, mpp=slide.mpp) as opened:
                    self._scans[slide.path] = ScanFacts(opened.size, opened.mpp)
        return self._scans[slide.path]


@dataclass(frozen=True)
class NamedSlide:
    """A slide of which only the name is known.

    Args:
        slide_id: name of its feature files.
    """

    slide_id: str
    path: Path = Path(".unknown")
    mpp: float | None = None
    tissue: Path | None = None


def _name_in(folder: ToolFolder, slide: FeatureSlide) -> str | None:
    """Return the name of a slide in a folder: its id, or the name of its file."""
    return next((n for n in (slide.slide_id, slide_id(slide.path)) if n in folder.files), None)


def _octave(magnification: float) -> float:
    """Return the usual magnification that a resolution stands for, if it is near one."""
    nearest = min(OCTAVES, key=lambda each: max(each / magnification, magnification / each))
    near = max(nearest / magnification, magnification / nearest) <= SAME_OCTAVE
    return nearest if near else float(f"{magnification:.3g}")


def _is_near(magnification: float, found: float) -> bool:
    """Return whether a nominal magnification may stand for the one of a slide."""
    return 1 / MAX_DEVIATION <= magnification / found <= MAX_DEVIATION


def _refuse_other_magnification(folder: ToolFolder, given: float, found: float) -> None:
    """Refuse a given magnification that the size of the patches on a slide contradicts."""
    if not _is_near(given, found):
        nominal = _octave(found)
        raise MixedFeaturesError(
            f"{folder.path}: {given:g}x was given, and the size of the patches on the first slide "
            f"means {nominal:g}x. Write {nominal:g}={folder.path}, or check the slide's mpp."
        )


def _check_ladder(folder: ForeignFolder, magnifications: Sequence[float]) -> None:
    """Refuse magnifications whose patches cannot nest, if there are several."""
    for low, high in pairwise(magnifications):
        if whole_ratio(high, low) is None:
            raise MixedFeaturesError(
                f"{folder}: {high:g}x is not a whole multiple of {low:g}x, so the patches do not "
                "nest. Name folders whose magnifications are, as 2.5=DIR,10=DIR, or one folder."
            )


def _check_places(path: Path, level: ToolPatches, scan: ScanFacts | None) -> None:
    """Refuse coordinates that are not on the slide."""
    size = level.slide_size if scan is None else scan.size
    if scan is not None and level.slide_size not in (None, scan.size):
        raise StoreError(
            f"{path}: the features are of a slide of {level.slide_size} pixels, and the slide file "
            f"has {scan.size}. Check the names, or extract this slide again."
        )
    low, high = level.corners.min(axis=0), level.corners.max(axis=0)
    if not (low >= -level.side / 2).all() or not (level.corners < float("inf")).all():
        raise StoreError(
            f"{path}: coordinates reach down to x={low[0]:.0f}, y={low[1]:.0f}, outside of any "
            "slide. Extract this slide again."
        )
    if level.unit == "px" and size is not None and (high >= size).any():
        raise StoreError(
            f"{path}: coordinates reach x={high[0]:.0f}, y={high[1]:.0f}, and the slide has "
            f"{size[0]} x {size[1]} pixels, so they are of another slide. Check the names, or "
            "extract this slide again."
        )
