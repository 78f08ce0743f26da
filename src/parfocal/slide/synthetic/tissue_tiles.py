"""Textures of real tissue: squares cut by someone else, one folder a class."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError

from parfocal.slide.errors import SlideError
from parfocal.slide.synthetic.mosaic import Squares, Textures

Color = Float32[np.ndarray, " 3"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
NORMAL_NAMES = {"h", "n", "normal", "healthy", "benign", "negative"}
LESION_NAMES = {"ac", "lesion", "tumor", "cancer", "malignant", "adenocarcinoma"}
PER_SLIDE = (128, 40)  # squares of normal tissue and of lesion that one slide is made of
GAIN = (0.6, 1.7)  # by which a tile's contrast is changed at most

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TileFiles:
    """Image files of two classes, and the microns per pixel they are taken to have."""

    normal: tuple[Path, ...]
    lesion: tuple[Path, ...]
    mpp: float

    def shares(self, fractions: tuple[float, ...], seed: int) -> tuple["TileFiles", ...]:
        """Deal the files out, none to two of the shares.

        Raises:
            ValueError: too few files for every share to have one of each class.
        """
        rng = np.random.default_rng(seed)
        normal, lesion = (_deal(files, fractions, rng) for files in (self.normal, self.lesion))
        return tuple(TileFiles(*pair, self.mpp) for pair in zip(normal, lesion, strict=True))


def find_tiles(
    folder: Path, *, mpp: float, normal_class: str | None = None, lesion_class: str | None = None
) -> TileFiles:
    """List the tiles of two classes, and tell in the log which these are.

    Args:
        folder: holds one folder a class.
        mpp: of the tiles.
        normal_class: folder of normal tissue; None for the one whose name says so.
        lesion_class: folder of lesions; likewise.

    Raises:
        ValueError: the folders are not there, empty, or their names do not tell.
    """
    classes = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    if len(classes) < 2:
        raise ValueError(
            f"{folder}: found {len(classes)} folders, where there should be one with tiles of "
            "normal tissue and one with tiles of lesions."
        )
    normal = normal_class or _telling(folder, classes, NORMAL_NAMES, "normal")
    lesion = lesion_class or _telling(folder, classes, LESION_NAMES, "lesion")
    unused = [name for name in classes if name not in (normal, lesion)]
    logger.info(
        "%s: normal tissue from %s, lesions from %s%s",
        *(folder, normal, lesion),
        f"; not used: {', '.join(unused)}" if unused else "",
    )
    return TileFiles(_images(folder / normal), _images(folder / lesion), mpp)


def tile_textures(
    files: TileFiles, mpp: float, rng: np.random.Generator, stain: np.random.Generator
) -> Textures:
    """Load some tiles of each class as the textures of one slide.

    All are brought to one mean color and contrast, so that color does not tell the class.

    Args:
        files: to choose from.
        mpp: of the slide.
        rng: chooses the tiles.
        stain: draws the color they are brought to, about that of the normal ones.

    Raises:
        SlideError: a tile is not an image, or not as large as the others.
    """
    normal, lesion = (
        _load(
            [of_class[index] for index in rng.permutation(len(of_class))[:count]], files.mpp / mpp
        )
        for of_class, count in zip((files.normal, files.lesion), PER_SLIDE, strict=True)
    )
    colors = np.array([_color(tile) for tile in normal])
    mean = colors[:, 0].mean(axis=0) * stain.uniform(0.92, 1.06, size=3).astype(np.float32)
    spread = colors[:, 1].mean(axis=0) * np.float32(stain.uniform(0.9, 1.1))
    plain, changed = (_match(tiles, mean, spread) for tiles in (normal, lesion))
    glass = np.rint(stain.uniform(236, 246) + stain.uniform(-2, 2, size=3)).astype(np.uint8)
    return Textures(plain, plain, changed, glass)


def _deal(
    files: tuple[Path, ...], fractions: tuple[float, ...], rng: np.random.Generator
) -> list[tuple[Path, ...]]:
    """Shuffle files and cut them up by fractions."""
    order = rng.permutation(len(files))
    ends = np.rint(np.cumsum(fractions) * len(files)).astype(int)
    shares = [tuple(files[index] for index in part) for part in np.split(order, ends[:-1])]
    if any(fraction and not share for fraction, share in zip(fractions, shares, strict=True)):
        raise ValueError(
            f"{files[0].parent}: {len(files)} tiles are too few for the parts of the cohort to "
            "have some each; add tiles, or ask for fewer parts."
        )
    return shares


def _telling(folder: Path, classes: list[str], names: set[str], kind: str) -> str:
    """Find the one folder whose name says what it holds."""
    found = [name for name in classes if name.casefold() in names]
    if len(found) != 1:
        raise ValueError(
            f"{folder}: which folder holds {kind} tissue? None or several of "
            f"{', '.join(classes)} say so; name it with {kind}_class (--{kind}-class)."
        )
    return found[0]


def _images(folder: Path) -> tuple[Path, ...]:
    images = folder.iterdir() if folder.is_dir() else []
    files = tuple(sorted(path for path in images if path.suffix.lower() in SUFFIXES))
    if not files:
        raise ValueError(f"{folder}: no tiles found; it should hold .jpg, .png or .tif images.")
    return files


def _load(files: list[Path], scale: float) -> Squares:
    """Read square tiles of one size, enlarged by a factor."""
    tiles = [_read(path) for path in files]
    width, height = tiles[0].size
    side = round(min(width, height) * scale)
    for path, tile in zip(files, tiles, strict=True):
        if tile.size != (width, height):
            raise SlideError(
                f"{path}: the tile is {tile.width} x {tile.height} pixels and {files[0].name} is "
                f"{width} x {height}; bring all tiles to one size."
            )
    return np.stack(
        [np.asarray(tile.resize((side, side), Image.Resampling.BICUBIC)) for tile in tiles]
    )


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise SlideError(
            f"{path}: the tile cannot be read ({error}); replace it, or take it out of the folder."
        ) from error


def _color(tile: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "2 3"]:
    """Give the mean and the standard deviation of each color."""
    flat = tile.reshape(-1, 3).T.astype(np.float32)
    return np.stack([flat.mean(axis=1), flat.std(axis=1)])


def _match(tiles: Squares, mean: Color, spread: Color) -> Squares:
    """Bring every tile to one mean color and, within limits, to one contrast."""
    matched = np.empty_like(tiles)
    for number, tile in enumerate(tiles):
        own_mean, own_spread = _color(tile)
        gain = np.clip(spread / own_spread.clip(1), *GAIN)
        matched[number] = np.rint((tile - own_mean) * gain + mean).clip(0, 255)
    return matched
