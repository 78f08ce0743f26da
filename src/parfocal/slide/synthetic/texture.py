"""Paint tissue: fibers, glands and nuclei in two dyes, and lesions visible only when sharp.

A conspicuous region is crowded with dark nuclei. In a lesion the nuclei at the same places are
hollow with a dark spot, and all differences coarser than `HIDDEN_UM` are removed. At low
magnification both are therefore the same picture, and their mean colors are equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from scipy import fft, ndimage

from parfocal.slide.synthetic.mosaic import Squares, Textures

SIDES_PX = (448, 1024)  # minimum and maximum side of a texture
SIDE_UM = 448.0
SQUARES = 4  # squares of each kind, each used in eight orientations
HIDDEN_UM = 1.2  # coarser differences between lesion and region are removed

Canvas = Float32[np.ndarray, "n s s"]
Stamps = Float32[np.ndarray, "e r r"]
Profile = Callable[[Stamps], Stamps]


@dataclass(frozen=True)
class Stain:
    """The stain and illumination of a slide.

    Args:
        dyes: optical density of hematoxylin and eosin for red, green and blue.
        glass: color of glass.
    """

    dyes: Float[np.ndarray, "2 3"]
    glass: UInt8[np.ndarray, " 3"]

    def color(self, hematoxylin: Canvas, eosin: Canvas) -> Squares:
        """Convert amounts of dye to colors by the Beer-Lambert law."""
        dyes = self.dyes.astype(np.float32)
        density = hematoxylin[..., None] * dyes[0] + eosin[..., None] * dyes[1]
        colors: Squares = np.rint(self.glass * np.exp(-density)).astype(np.uint8)
        return colors


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw a random stain; stains differ more between slides than between kinds of tissue."""
    dyes = np.array([[0.65, 0.70, 0.29], [0.10, 0.75, 0.22]])
    dyes *= rng.uniform(0.8, 1.2, size=(2, 1)) * rng.uniform(0.9, 1.1, size=(2, 3))
    glass = rng.uniform(236, 246) + rng.uniform(-2, 2, size=3)
    return Stain(dyes, np.rint(glass).astype(np.uint8))


@dataclass(frozen=True)
class Ellipses:
    """Ellipses on squares of texture.

    Args:
        square: index of the square.
        x: x of the center in pixels.
        y: y of the center in pixels.
        long: longer half-axis in pixels.
        short: shorter half-axis in pixels.
        angle: angle of the longer axis in radians.
        dye: amount of dye.
    """

    square: Int64[np.ndarray, " n"]
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    long: Float[np.ndarray, " n"]
    short: Float[np.ndarray, " n"]
    angle: Float[np.ndarray, " n"]
    dye: Float[np.ndarray, " n"]

    def select(self, mask: Bool[np.ndarray, " n"]) -> "Ellipses":
        """Return the ellipses where `mask` is True."""
        return Ellipses(*(getattr(self, field.name)[mask] for field in fields(self)))


class Painter:
    """Paints squares of tissue for one slide.

    Args:
        rng: random generator.
        mpp: microns per pixel.
    """

    def __init__(self, rng: np.random.Generator, mpp: float) -> None:
        self._rng, self._mpp = rng, mpp
        self._side = int(np.clip(SIDE_UM / mpp, *SIDES_PX))

    def textures(self, stain: Stain, *, two_kinds: bool = False) -> Textures:
        """Paint the squares of all kinds, with lesions of one kind or of two."""
        region, *lesions = self._region(stain, (_hollow, _ringed)[: 1 + two_kinds])
        second = lesions[1] if two_kinds else None
        return Textures(self._plain(stain), region, lesions[0], stain.glass, second)

    def _plain(self, stain: Stain) -> Squares:
        """Paint fibers with sparse nuclei, and glands with walls of nuclei."""
        eosin = 0.55 + 0.10 * self._noise(16, 5) + 0.08 * self._noise(60, 60)
        hematoxylin = 0.08 + 0.02 * self._noise(20, 20)
        glands = self._scatter(
            150, long_um=(34, 52), short_um=(26, 40), jitter=0.13
        )  # clear of seams
        glands = glands.select(self._rng.uniform(size=len(glands.x)) < 0.7)
        inside = self._stamp(glands, _cone)
        wall, middle = (inside * 20).clip(0, 1), (inside * 12 - 6).clip(0, 1)
        eosin += wall * (0.45 - eosin) - 0.4 * middle
        hematoxylin += 0.12 * wall - 0.2 * middle
        stroma = self._scatter(24, long_um=(4, 7), short_um=(1.8, 2.6))
        stroma = stroma.select(inside[_at(stroma)] == 0)
        for nuclei in (stroma, self._walls(glands)):
            hematoxylin = np.maximum(hematoxylin, self._stamp(nuclei, _filled))
        return stain.color(hematoxylin.clip(0), eosin.clip(0.02))

    def _region(self, stain: Stain, lesions: Sequence[Profile]) -> list[Squares]:
        """Paint crowded nuclei as benign tissue, and the same nuclei as each kind of lesion."""
        eosin = (0.42 + 0.08 * self._noise(12, 6) + 0.08 * self._noise(60, 60)).clip(0.02)
        ground = (0.14 + 0.03 * self._noise(20, 20)).clip(0)
        nuclei = self._scatter(13, long_um=(4.6, 5.6), short_um=(4.0, 5.0))
        benign, *changed = (
            stain.color(np.maximum(ground, self._stamp(nuclei, profile)), eosin)
            for profile in (_filled, *lesions)
        )
        sigma = HIDDEN_UM / self._mpp
        return [benign, *(_only_fine(benign, lesion, sigma) for lesion in changed)]

    def _noise(self, along_um: float, across_um: float) -> Canvas:
        """Draw noise of unit variance, smoothed along a random direction in each square."""
        angle = self._rng.uniform(0, np.pi, size=(SQUARES, 1, 1)).astype(np.float32)
        down = fft.fftfreq(self._side).astype(np.float32)[:, None] / self._mpp
        over = fft.rfftfreq(self._side).astype(np.float32)[None, :] / self._mpp
        along = (over * np.cos(angle) + down * np.sin(angle)) * along_um
        across = (down * np.cos(angle) - over * np.sin(angle)) * across_um
        shape = (SQUARES, self._side, self._side)
        spectrum = fft.rfft2(self._rng.standard_normal(shape, dtype=np.float32))
        noise: Canvas = fft.irfft2(spectrum * np.exp(-6 * (along**2 + across**2)), s=shape[1:])
        noise /= noise.std()
        return noise

    def _scatter(
        self,
        spacing_um: float,
        *,
        long_um: tuple[float, float],
        short_um: tuple[float, float],
        jitter: float = 0.4,
    ) -> Ellipses:
        """Place ellipses at the points of a square lattice, with random shifts."""
        columns = max(1, round(self._side * self._mpp / spacing_um))
        cells = np.arange(SQUARES * columns**2)
        square, cell = np.divmod(cells, columns**2)
        row, column = np.divmod(cell, columns)
        shift = 0.5 + self._rng.uniform(-jitter, jitter, size=(2, len(cells)))
        return Ellipses(
            square,
            (column + shift[0]) * self._side / columns,
            (row + shift[1]) * self._side / columns,
            self._rng.uniform(*long_um, len(cells)) / self._mpp,
            self._rng.uniform(*short_um, len(cells)) / self._mpp,
            self._rng.uniform(0, np.pi, len(cells)),
            self._rng.uniform(0.6, 1.1, len(cells)),
        )

    def _walls(self, glands: Ellipses) -> Ellipses:
        """Place nuclei side by side in the walls of glands, pointing inwards."""
        turns = np.arange(0, 2 * np.pi, 2 * np.pi / 28)
        turn = np.tile(turns, len(glands.x)) + self._rng.normal(0, 0.04, len(glands.x) * 28)
        gland = np.repeat(np.arange(len(glands.x)), 28)
        angle = glands.angle[gland]
        along = 0.8 * glands.long[gland] * np.cos(turn)
        across = 0.8 * glands.short[gland] * np.sin(turn)
        size = self._rng.uniform(0.85, 1.15, len(gland)) / self._mpp
        return Ellipses(
            glands.square[gland],
            glands.x[gland] + along * np.cos(angle) - across * np.sin(angle),
            glands.y[gland] + along * np.sin(angle) + across * np.cos(angle),
            4.6 * size,
            2.4 * size,
            angle + turn,
            self._rng.uniform(0.6, 1.1, len(gland)),
        )

    def _stamp(self, ellipses: Ellipses, profile: Profile) -> Canvas:
        """Draw ellipses on empty squares; where they overlap, the darker one is used."""
        canvas = np.zeros((SQUARES, self._side, self._side), dtype=np.float32)
        reach = int(np.ceil(ellipses.long.max())) + 1
        offsets = np.arange(-reach, reach + 1)
        x = np.floor(ellipses.x).astype(np.int64)[:, None, None] + offsets[None, None, :]
        y = np.floor(ellipses.y).astype(np.int64)[:, None, None] + offsets[None, :, None]
        across = (x + 0.5 - ellipses.x[:, None, None]).astype(np.float32)
        down = (y + 0.5 - ellipses.y[:, None, None]).astype(np.float32)
        cosine, sine = (
            turn(ellipses.angle).astype(np.float32)[:, None, None] for turn in (np.cos, np.sin)
        )
        along = (across * cosine + down * sine) / ellipses.long[:, None, None].astype(np.float32)
        aside = (down * cosine - across * sine) / ellipses.short[:, None, None].astype(np.float32)
        dye = profile(np.hypot(along, aside)) * ellipses.dye[:, None, None].astype(np.float32)
        place = (ellipses.square[:, None, None] * self._side + y) * self._side + x
        drawn = (dye > 0) & (x >= 0) & (x < self._side) & (y >= 0) & (y < self._side)
        np.maximum.at(canvas.reshape(-1), place[drawn], dye[drawn])
        return canvas


def _at(ellipses: Ellipses) -> tuple[Int64[np.ndarray, " n"], ...]:
    """Return an index of the pixels at the centers of ellipses."""
    return ellipses.square, ellipses.y.astype(np.int64), ellipses.x.astype(np.int64)


def _cone(radius: Stamps) -> Stamps:
    """Return the depth inside an ellipse: 0 at the rim, 1 at the center."""
    return (1 - radius).clip(0)


def _filled(radius: Stamps) -> Stamps:
    """Return the dye of an evenly dark nucleus."""
    return (4 - 4 * radius).clip(0, 1)


def _hollow(radius: Stamps) -> Stamps:
    """Return the dye of a nucleus with a dark rim, a pale inside and a dark spot."""
    rim = (1 - 5 * np.abs(radius - 0.85)).clip(0)
    spot = (3 - 7 * radius).clip(0, 1.2)
    hollow: Stamps = np.maximum(1.2 * rim, spot)
    return hollow


def _ringed(radius: Stamps) -> Stamps:
    """Return the dye of a nucleus with a wide dark rim around nothing."""
    return (1.6 - 4 * np.abs(radius - 0.7)).clip(0, 1.4)


def _only_fine(benign: Squares, lesion: Squares, sigma: float) -> Squares:
    """Return the benign squares with only the finest details of the lesion."""
    change = lesion.astype(np.float32) - benign
    for _ in range(2):  # after one pass, a network still finds the lesion at 4 µm per pixel
        change -= ndimage.gaussian_filter(change, (0, sigma, sigma, 0), mode="wrap", truncate=3)
    fine: Squares = np.rint(benign + change).clip(0, 255).astype(np.uint8)
    return fine
