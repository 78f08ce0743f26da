"""Draw a slide in one row: the slide with its tissue, and its patches at each magnification."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from parfocal.explain.map_layout import FAINT, INK, QUIET, Color, shorten, wrap
from parfocal.grid import PatchGrid
from parfocal.slide.slide import Box, Slide
from parfocal.slide.tissue import Tissue

PANEL_PX = (280, 220)  # largest width and height of a picture in a row
MIN_PANEL_PX = 150  # smallest width of a panel, so that its caption fits
GAP, CAPTION, TITLE = 14, 22, 24
TEXT, SMALL = 15, 12  # font sizes
LINE = 16  # height of a line of small text
TISSUE: Color = (0, 150, 60)
PATCH: Color = (150, 60, 0)
UNCOVERED: Color = (0, 90, 220)  # tissue that is in no patch
FADE = 0.75  # how far the picture fades to white where there is no patch
MIN_SQUARE_PX = 5  # from this side on, patches have a border

Picture = UInt8[np.ndarray, "h w 3"]
Mask = Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class Panel:
    """A picture with its caption.

    Args:
        pixels: the picture.
        caption: one line below it.
    """

    pixels: Picture
    caption: str


def draw_strip(
    slide: Slide,
    tissue: Tissue,
    grid: PatchGrid | None,
    magnifications: Sequence[float],
    *,
    title: str,
) -> Image.Image:
    """Draw a slide, its tissue, and its patches at each magnification in one row.

    The tissue has a green border. Where there is no patch, the picture is faded, and tissue is
    blue.

    Args:
        slide: an open slide.
        tissue: its tissue.
        grid: its patches; None to draw none.
        magnifications: magnifications of the patches, lowest first.
        title: a line above the row.
    """
    picture = _read_picture(slide)
    inside = _tissue_at(tissue, picture.shape[:2])
    outlined = picture.copy()
    outlined[_border(inside)] = TISSUE
    panels = [Panel(outlined, f"tissue: {tissue.area_mm2:.3g} mm2, {tissue.share:.1%}")]
    for step, magnification in enumerate(magnifications if grid is not None else ()):
        assert grid is not None
        count = int(np.count_nonzero(grid.valid(step)))
        pixels = _draw_patches(picture, inside, grid, step)
        panels.append(Panel(pixels, f"{magnification:g}x: {count:,} patches"))
    return _compose(panels, title)


def draw_lines(texts: Sequence[str], width: int) -> Image.Image:
    """Draw texts below each other, broken into lines of a width in pixels."""
    lines = [line for text in texts for line in wrap(text, SMALL, width - 2 * GAP)]
    picture = Image.new("RGB", (width, LINE * len(lines) + GAP * bool(lines)), "white")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        position = GAP, GAP // 2 + LINE * number
        draw.text(position, line, INK, ImageFont.load_default(SMALL))
    return picture


def _read_picture(slide: Slide) -> Picture:
    width, height = slide.size
    pixels = max(width / PANEL_PX[0], height / PANEL_PX[1])
    size = max(1, round(height / pixels)), max(1, round(width / pixels))
    if pixels < 1:  # nothing is enlarged
        size = height, width
    return slide.resample(Box(0, 0, width, height), size)


def _tissue_at(tissue: Tissue, shape: tuple[int, ...]) -> Mask:
    """Return the tissue at the pixels of a picture of the whole slide."""
    height, width = shape
    rows = np.arange(height) * tissue.mask.shape[0] // height
    columns = np.arange(width) * tissue.mask.shape[1] // width
    inside: Mask = tissue.mask[np.ix_(rows, columns)]
    return inside


def _border(mask: Mask) -> Mask:
    """Return the pixels of a mask that have a neighbor outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    border: Mask = mask & ~inner
    return border


def _draw_patches(picture: Picture, inside: Mask, grid: PatchGrid, step: int) -> Picture:
    """Return a picture that is faded where a step has no patch, with the borders of patches."""
    height, width = inside.shape
    column, x_border = _lattice_index(grid, step, width, axis=0)
    row, y_border = _lattice_index(grid, step, height, axis=1)
    exists = np.zeros((row[-1] + 1, column[-1] + 1), dtype=bool)
    cells = grid.cells(step, np.flatnonzero(grid.valid(step)))
    cells = cells[(cells[:, 0] <= column[-1]) & (cells[:, 1] <= row[-1])]
    exists[cells[:, 1], cells[:, 0]] = True
    covered = exists[np.ix_(row, column)]
    drawn = picture.copy()
    drawn[~covered] = np.rint(picture[~covered] * (1 - FADE) + 255 * FADE).astype(np.uint8)
    drawn[inside & ~covered] = UNCOVERED
    if grid.side_px(step) * width / grid.slide_size[0] >= MIN_SQUARE_PX:
        drawn[covered & (y_border[:, None] | x_border[None, :])] = PATCH
        drawn[_border(covered)] = PATCH
    return drawn


def _lattice_index(
    grid: PatchGrid, step: int, length: int, *, axis: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the column or row of the lattice at each pixel, and where a patch begins."""
    position = (np.arange(length) + 0.5) * grid.slide_size[axis] / length
    index = (position // grid.side_px(step)).astype(np.int64)
    return index, np.diff(index, prepend=-1) > 0


def _compose(panels: Sequence[Panel], title: str) -> Image.Image:
    widths = [max(MIN_PANEL_PX, panel.pixels.shape[1]) for panel in panels]
    height = max(panel.pixels.shape[0] for panel in panels)
    size = sum(widths) + GAP * (len(panels) + 1), TITLE + height + CAPTION + GAP
    strip = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(strip)
    draw.text((GAP, 3), shorten(title, TEXT, size[0] - 2 * GAP), INK, ImageFont.load_default(TEXT))
    left = GAP
    for panel, width in zip(panels, widths, strict=True):
        panel_height, panel_width = panel.pixels.shape[:2]
        strip.paste(Image.fromarray(panel.pixels), (left, TITLE))
        frame = (left - 1, TITLE - 1, left + panel_width, TITLE + panel_height)
        draw.rectangle(frame, outline=FAINT)
        caption = shorten(panel.caption, SMALL, width)
        position = (left, TITLE + panel_height + 4)
        draw.text(position, caption, QUIET, ImageFont.load_default(SMALL))
        left += width + GAP
    return strip
