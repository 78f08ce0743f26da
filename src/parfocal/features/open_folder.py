"""Open a folder of stored features, by parfocal or by another tool."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from parfocal.features.errors import StoreError
from parfocal.features.folder import FeatureFolder, FeatureSlide, OwnFolder, refuse_missing
from parfocal.features.foreign.detect import detect
from parfocal.features.foreign.folder import ForeignFolder
from parfocal.features.foreign.patches import ToolFolder

# A folder, or one for each magnification; or what `open_features` has made of them.
Features = Path | Mapping[float, Path] | FeatureFolder


def open_features(
    features: Features,
    slides: Iterable[FeatureSlide] = (),
    *,
    encoder: str | None = None,
    magnification: float | None = None,
) -> FeatureFolder:
    """Open stored features; what made them is found by their content.

    Args:
        features: a folder, or folders by magnification.
        slides: the slides that will be opened, for tools that leave the resolution to the slide
            file.
        encoder: encoder of features whose tool does not store it; None if it is unknown.
        magnification: magnification of features whose tool does not store it, where the slide file
            is not available either; None if it is unknown.

    Raises:
        StoreError: a folder is missing, empty, ambiguous, or cannot be read.
    """
    if isinstance(features, FeatureFolder):
        return features
    if isinstance(features, Path):
        found = detect(features)
        if not found:
            return OwnFolder(features)
        _refuse_ambiguous(features, found)
        folders: list[tuple[float | None, ToolFolder]] = [(None, each) for each in found]
    else:
        folders = [_one_folder(*each) for each in sorted(features.items())]
    return ForeignFolder(folders, slides, encoder=encoder or "", magnification=magnification)


def _one_folder(magnification: float, path: Path) -> tuple[float, ToolFolder]:
    """Return the folder of features of one magnification.

    Raises:
        StoreError: there is none, or several.
    """
    found = detect(path)
    if len(found) == 1:
        return magnification, found[0]
    if found:
        raise _ambiguous_error(path, found)
    refuse_missing(path)
    if not any(path.glob("*.h5")):
        raise StoreError(
            f"{path}: no features of any known tool here; give a folder by TRIDENT, CLAM, STAMP, "
            "slide2vec or ZoomMIL."
        )
    raise StoreError(
        f"{path}: feature files of parfocal hold all magnifications; give the folder alone, as "
        f"--features {path}."
    )


def _refuse_ambiguous(path: Path, found: Iterable[ToolFolder]) -> None:
    """Refuse a job folder in which several folders are of one magnification."""
    parents = [each.path.parent for each in found]
    if len(set(parents)) < len(parents):
        raise _ambiguous_error(path, found)


def _ambiguous_error(path: Path, found: Iterable[ToolFolder]) -> StoreError:
    listed = ", ".join(str(each.path.relative_to(path)) for each in found)
    return StoreError(
        f"{path}: there are several folders of features here ({listed}). Give one of them, or one "
        "for each magnification, as 2.5=DIR,10=DIR."
    )
