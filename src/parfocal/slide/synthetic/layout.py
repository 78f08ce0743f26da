"""The layout of a painted slide: tissue, conspicuous regions and lesions.

All lengths are in microns, so the same layout can be painted at any mpp. A layout holds a lattice
and a few curves, never pixels, so its memory does not depend on the size of the slide.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage

LATTICE_UM = 50.0  # spacing of the points that define the tissue's outline
LATTICE_SIDES = (32, 1024)  # minimum and maximum number of points per side
EDGE_UM = 12.0  # width of the transition at the edge of the tissue and of a lesion
STRIDE = 8  # pixels between the points at which masks are computed exactly
REGION = 1.4  # diameter of a region, relative to the lesion inside it
CORNERS = 128  # number of vertices of a lesion's outline
MAX_DRAWS = 20  # tissues drawn before a slide is refused as too small


@dataclass(frozen=True)
class Blob:
    """A roundish region whose radius is a smooth function of the angle.

    Args:
        x: x of its center in microns.
        y: y of its center in microns.
        radii: radii in microns at evenly spaced angles; the last equals the first.
    """

    x: float
    y: float
    radii: Float[np.ndarray, " a"]

    def scaled(self, factor: float) -> "Blob":
        """Return the same shape with the same center, scaled by a factor."""
        return Blob(self.x, self.y, self.radii * factor)

    def depth(
        self, x: Float[np.ndarray, " w"], y: Float[np.ndarray, " h"]
    ) -> Float[np.ndarray, "h w"]:
        """Return how far points lie inside the outline, in microns along the radius."""
        across, down = x[None, :] - self.x, y[:, None] - self.y
        turn = np.arctan2(down, across) % (2 * np.pi) / (2 * np.pi) * (len(self.radii) - 1)
        outline = np.interp(turn, np.arange(len(self.radii)), self.radii)
        depth: Float[np.ndarray, "h w"] = outline - np.hypot(across, down)
        return depth

    def polygon(self) -> Float[np.ndarray, "a 2"]:
        """Return the outline as a closed ring of (x, y) in microns."""
        angles = np.linspace(0, 2 * np.pi, len(self.radii))
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * self.radii[:, None]
        ring[-1] = ring[0]
        outline: Float[np.ndarray, "a 2"] = ring + np.array([self.x, self.y])
        return outline


def draw_blob(rng: np.random.Generator, x: float, y: float, diameter_um: float) -> Blob:
    """Draw a region with the area of a disc of the given diameter."""
    angles = np.linspace(0, 2 * np.pi, CORNERS + 1)
    waves = np.arange(2, 7)
    sizes = rng.normal(0, 0.16, len(waves)) / (waves - 1)
    phases = rng.uniform(0, 2 * np.pi, len(waves))
    radii = 1 + (sizes[:, None] * np.cos(waves[:, None] * angles + phases[:, None])).sum(axis=0)
    radii = np.clip(radii, 0.6, 1.4)
    radii[-1] = radii[0]
    return Blob(x, y, radii * diameter_um / 2 / np.sqrt(np.mean(radii[:-1] ** 2)))


@dataclass(frozen=True)
class Masks:
    """Coverage of the pixels of one tile by each kind of structure, 0..1; None if all 0."""

    tissue: Float32[np.ndarray, "h w"] | None
    regions: Float32[np.ndarray, "h w"] | None
    lesions: Float32[np.ndarray, "h w"] | None
    second: Float32[np.ndarray, "h w"] | None = None


@dataclass(frozen=True)
class Layout:
    """The layout of one slide.

    Args:
        field: values on a lattice over the slide; tissue is where they are positive, and they rise
            by about 1 per `EDGE_UM` at the outline.
        spacing_um: spacing of the lattice in microns.
        mpp: microns per pixel.
        regions: regions that are conspicuous at low magnification.
        lesions: lesions, each inside a region.
        second: lesions of a second kind, each inside another region.
    """

    field: Float32[np.ndarray, "n n"]
    spacing_um: float
    mpp: float
    regions: tuple[Blob, ...]
    lesions: tuple[Blob, ...]
    second: tuple[Blob, ...] = ()

    def masks(self, x: int, y: int, side: int) -> Masks:
        """Compute the masks of a square tile whose top-left pixel is (x, y)."""
        points = np.arange(0, side + STRIDE, STRIDE)
        across, down = (x + points) * self.mpp, (y + points) * self.mpp
        tissue = self._tissue(across, down)
        if tissue is None:
            return Masks(None, None, None)
        return Masks(
            _enlarge(tissue, side),
            _cover(self.regions, across, down, side),
            _cover(self.lesions, across, down, side),
            _cover(self.second, across, down, side),
        )

    def _tissue(
        self, across: Float[np.ndarray, " n"], down: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n n"] | None:
        """Sample the lattice by a cubic spline; return None if there is no tissue nearby."""
        columns, rows = across / self.spacing_um, down / self.spacing_um
        left, right = max(0, int(columns[0]) - 1), int(columns[-1]) + 3
        top, bottom = max(0, int(rows[0]) - 1), int(rows[-1]) + 3
        # A spline stays within the range of its control points.
        if (self.field[top:bottom, left:right] <= 0).all():
            return None
        grid = np.stack(np.meshgrid(rows, columns, indexing="ij"))
        sampled: Float[np.ndarray, "n n"] = ndimage.map_coordinates(
            self.field, grid, order=3, prefilter=False, mode="nearest", output=np.float64
        )
        return sampled


def _cover(
    blobs: tuple[Blob, ...],
    across: Float[np.ndarray, " n"],
    down: Float[np.ndarray, " n"],
    side: int,
) -> Float32[np.ndarray, "h w"] | None:
    """Compute the coverage of each pixel by blobs; None if there are none nearby."""
    depth = np.full((len(down), len(across)), -np.inf)
    for blob in blobs:
        near_x, near_y = np.clip(blob.x, *across[[0, -1]]), np.clip(blob.y, *down[[0, -1]])
        if np.hypot(near_x - blob.x, near_y - blob.y) < blob.radii.max():
            depth = np.maximum(depth, blob.depth(across, down) / EDGE_UM)
    return _enlarge(depth, side) if (depth > 0).any() else None


def _enlarge(points: Float[np.ndarray, "n n"], side: int) -> Float32[np.ndarray, "h w"]:
    """Interpolate the pixels between points `STRIDE` apart, then clip to 0..1.

    A matrix product would be a hundred times slower when BLAS has to wait for a busy core.
    """
    share = (np.arange(STRIDE, dtype=np.float32) + 0.5) / STRIDE
    pixels: Float32[np.ndarray, "h w"] = points.astype(np.float32)
    for _ in range(2):
        near, far = pixels[:-1, None], pixels[1:, None]
        pixels = (near + (far - near) * share[:, None]).reshape(-1, pixels.shape[1])[:side].T
    return pixels.clip(0, 1)


def draw_layout(
    rng: np.random.Generator,
    *,
    extent_um: float,
    mpp: float,
    tissue_share: float,
    regions: int,
    lesions: int,
    lesion_um: float,
    second: int = 0,
) -> Layout | None:
    """Draw tissue that covers a share of a square slide, and place regions well inside it.

    Args:
        rng: random generator; the regions do not depend on the number of lesions.
        extent_um: side of the slide in microns.
        mpp: microns per pixel.
        tissue_share: share of the slide that is tissue.
        regions: number of regions.
        lesions: number of regions with a lesion inside.
        lesion_um: diameter in microns of a disc with the area of a lesion.
        second: number of the lesions that are of the second kind.

    Returns:
        The layout; None if the tissue has no room for the regions.
    """
    diameter = lesion_um * REGION
    for _ in range(MAX_DRAWS):
        field, spacing = _draw_field(rng, extent_um, tissue_share)
        centers = _place(rng, field, spacing, regions, diameter)
        if len(centers) == regions:
            blobs = tuple(draw_blob(rng, x, y, diameter) for x, y in centers)
            inside = tuple(blob.scaled(1 / REGION) for blob in blobs[:lesions])
            first = lesions - second
            return Layout(field, spacing, mpp, blobs, inside[:first], inside[first:])
    return None


def _draw_field(
    rng: np.random.Generator, extent_um: float, tissue_share: float
) -> tuple[Float32[np.ndarray, "n n"], float]:
    """Draw a random field that is positive on a given share of the slide."""
    side = int(np.clip(extent_um / LATTICE_UM, *LATTICE_SIDES))
    spacing = extent_um / (side - 1)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    # White noise divided by f^1.8: pieces up to the size of the slide, with irregular outlines.
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) / np.maximum(frequency, 1 / side) ** 1.8
    noise = np.fft.irfft2(spectrum, s=(side, side))
    noise /= noise.std()
    from_edge = np.minimum(np.arange(side), np.arange(side)[::-1]) / side
    border = np.clip(1 - np.minimum(from_edge[:, None], from_edge[None, :]) / 0.2, 0, 1)
    land = noise - 4 * border**2
    land -= np.quantile(land, 1 - tissue_share)
    slope = np.hypot(*np.gradient(land, spacing))[np.abs(land) < 0.2].mean()
    return (land / (slope * EDGE_UM)).astype(np.float32), spacing


def _place(
    rng: np.random.Generator,
    field: Float32[np.ndarray, "n n"],
    spacing: float,
    regions: int,
    diameter: float,
) -> list[tuple[float, float]]:
    """Choose centers well inside the tissue and apart from each other; fewer if no more fit."""
    room = ndimage.distance_transform_edt(field > 0) * spacing > 0.6 * diameter
    y, x = np.nonzero(room)
    centers: list[tuple[float, float]] = []
    while len(centers) < regions and len(x):
        chosen = rng.integers(len(x))
        centers.append((float(x[chosen] * spacing), float(y[chosen] * spacing)))
        apart = np.hypot(x - x[chosen], y - y[chosen]) * spacing > 1.4 * diameter
        x, y = x[apart], y[apart]
    return centers
