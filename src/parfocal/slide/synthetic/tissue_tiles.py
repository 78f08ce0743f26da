"""Textures from image tiles of real tissue, one folder per class."""

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
LESION_NAMES = {"ac", "lesion", "tumor", "tumour", "cancer", "malignant", "adenocarcinoma"}
PER_SLIDE = (128, 40)  # number of normal and of lesion tiles used for one slide
GAIN = (0.6, 1.7)  # range of factors by which a tile's contrast is changed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TileFiles:
    """Image files of two classes.

    Args:
        normal: tiles of normal tissue.
        lesion: tiles of lesions.
        mpp: microns per pixel of the tiles.
    """

    normal: tuple[Path, ...]
    lesion: tuple[Path, ...]
    mpp: float

    def divide(self, fractions: tuple[float, ...], seed: int) -> tuple["TileFiles", ...]:
        """Divide the files at random into disjoint parts.

        Args:
            fractions: share of the files in each part.
            seed: seed of the random order.

        Raises:
            ValueError: there are too few files for every part to have one of each class.
        """
        rng = np.random.default_rng(seed)
        normal, lesion = (_divide(files, fractions, rng) for files in (self.normal, self.lesion))
        return tuple(TileFiles(*pair, self.mpp) for pair in zip(normal, lesion, strict=True))


def find_tiles(
    folder: Path, *, mpp: float, normal_class: str | None = None, lesion_class: str | None = None
) -> TileFiles:
    """List the tiles of two classes, and log which folders are used.

    Args:
        folder: folder with one folder per class.
        mpp: microns per pixel of the tiles.
        normal_class: name of the folder of normal tissue; None to recognize it by its name.
        lesion_class: name of the folder of lesions; None to recognize it by its name.

    Raises:
        ValueError: a folder is missing or empty, or cannot be recognized by its name.
    """
    classes = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    if len(classes) < 2:
        raise ValueError(
            f"{folder}: found {len(classes)} folders, but it must hold one with tiles of normal "
            "tissue and one with tiles of lesions."
        )
    normal = normal_class or _find_class(folder, classes, NORMAL_NAMES, "normal")
    lesion = lesion_class or _find_class(folder, classes, LESION_NAMES, "lesion")
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

    All tiles get the same mean color and contrast, so that color does not predict the class.

    Args:
        files: tiles to choose from.
        mpp: microns per pixel of the slide.
        rng: random generator for the choice of tiles.
        stain: random generator for the color, which is near that of the normal tiles.

    Raises:
        SlideError: a tile is not an image, or its size differs from that of the others.
    """
    normal, lesion = (
        _load(
            [of_class[index] for index in rng.permutation(len(of_class))[:count]], files.mpp / mpp
        )
        for of_class, count in zip((files.normal, files.lesion), PER_SLIDE, strict=True)
    )
    colors = np.array([_color_statistics(tile) for tile in normal])
    mean = colors[:, 0].mean(axis=0) * stain.uniform(0.92, 1.06, size=3).astype(np.float32)
    spread = colors[:, 1].mean(axis=0) * np.float32(stain.uniform(0.9, 1.1))
    plain, changed = (_match(tiles, mean, spread) for tiles in (normal, lesion))
    glass = np.rint(stain.uniform(236, 246) + stain.uniform(-2, 2, size=3)).astype(np.uint8)
    return Textures(plain, plain, changed, glass)


def _divide(
    files: tuple[Path, ...], fractions: tuple[float, ...], rng: np.random.Generator
) -> list[tuple[Path, ...]]:
    """Shuffle files and divide them by fractions."""
    order = rng.permutation(len(files))
    ends = np.rint(np.cumsum(fractions) * len(files)).astype(int)
    parts = [tuple(files[index] for index in part) for part in np.split(order, ends[:-1])]
    if any(fraction and not part for fraction, part in zip(fractions, parts, strict=True)):
        raise ValueError(
            f"{files[0].parent}: {len(files)} tiles are too few for every split of the cohort. Add "
            "tiles, or use fewer splits."
        )
    return parts


def _find_class(folder: Path, classes: list[str], names: set[str], kind: str) -> str:
    """Return the only folder whose name is one of `names`."""
    matching = [name for name in classes if name.casefold() in names]
    if len(matching) != 1:
        raise ValueError(
            f"{folder}: cannot tell which folder holds {kind} tissue: {len(matching)} of "
            f"{', '.join(classes)} have a name that says so. Name it with {kind}_class "
            f"(--{kind}-class)."
        )
    return matching[0]


def _images(folder: Path) -> tuple[Path, ...]:
    images = folder.iterdir() if folder.is_dir() else []
    files = tuple(sorted(path for path in images if path.suffix.lower() in SUFFIXES))
    if not files:
        raise ValueError(
            f"{folder}: no tiles found. The folder must hold .jpg, .png or .tif images."
        )
    return files


def _load(files: list[Path], scale: float) -> Squares:
    """Read tiles of one size as squares, enlarged by a factor."""
    tiles = [_read(path) for path in files]
    width, height = tiles[0].size
    side = round(min(width, height) * scale)
    for path, tile in zip(files, tiles, strict=True):
        if tile.size != (width, height):
            raise SlideError(
                f"{path}: the tile is {tile.width} x {tile.height} pixels and {files[0].name} is "
                f"{width} x {height}. All tiles must have one size."
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
            f"{path}: the tile cannot be read ({error}). Replace it, or remove it from the folder."
        ) from error


def _color_statistics(tile: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "2 3"]:
    """Return the mean and the standard deviation of each color channel."""
    flat = tile.reshape(-1, 3).T.astype(np.float32)
    return np.stack([flat.mean(axis=1), flat.std(axis=1)])


def _match(tiles: Squares, mean: Color, spread: Color) -> Squares:
    """Set the mean color of every tile and, within limits, its contrast."""
    matched = np.empty_like(tiles)
    for number, tile in enumerate(tiles):
        own_mean, own_spread = _color_statistics(tile)
        gain = np.clip(spread / own_spread.clip(1), *GAIN)
        matched[number] = np.rint((tile - own_mean) * gain + mean).clip(0, 255)
    return matched
