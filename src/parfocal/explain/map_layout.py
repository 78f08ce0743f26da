"""Layout of a map: positions of the panels, titles, scale bars and color keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from parfocal.slide.slide import Box

Color = tuple[int, int, int]

INK: Color = (38, 38, 38)
QUIET: Color = (110, 110, 110)
FAINT: Color = (215, 215, 215)
# Lightness falls evenly, so that the scale reads the same in gray and for the color-blind.
SCALE = np.array([(255, 247, 188), (161, 214, 171), (44, 150, 170), (38, 82, 150), (44, 32, 104)])

PANELS_PX = (2000, 1000)  # width and height available for all panels
MARGIN, GAP, HEADER, FOOTER = 32, 28, 34, 70
MIN_CELL_WIDTH = 320  # so that the title of a panel fits
MIN_WIDTH = 900  # of the whole map, so that its title and caption fit
MIN_PATCH_PX = 3  # so that a small patch stays visible
TITLE, TEXT, SMALL = 28, 18, 15  # font sizes
LINE = 24  # height of a line of the caption


@dataclass(frozen=True)
class Layout:
    """Sizes and positions on a map, in its pixels.

    Args:
        panel: width and height of the picture in a panel.
        corner: (x, y) of the top-left corner of the part shown, in level-0 pixels.
        scale: map pixels per level-0 pixel, horizontally and vertically.
        columns: number of panels per row.
    """

    panel: tuple[int, int]
    corner: tuple[float, float]
    scale: tuple[float, float]
    columns: int

    @classmethod
    def fitting(cls, part: Box, panels: int) -> "Layout":
        """Choose the number of columns for which a part of the slide is shown largest."""
        width, height = part.width, part.height
        best, columns = 0.0, 1
        for across in range(1, panels + 1):
            down = -(-panels // across)
            scale = min(PANELS_PX[0] / across / width, PANELS_PX[1] / down / height)
            if scale > best:
                best, columns = scale, across
        panel = max(1, round(width * best)), max(1, round(height * best))
        return cls(panel, (part.x, part.y), (panel[0] / width, panel[1] / height), columns)

    @property
    def cell(self) -> tuple[int, int]:
        """Width and height of a panel including its title and scale."""
        return max(self.panel[0], MIN_CELL_WIDTH), self.panel[1] + HEADER + FOOTER

    @property
    def width(self) -> int:
        """Width of the map without its margins."""
        return max(self.columns * (self.cell[0] + GAP) - GAP, MIN_WIDTH)

    def pixel_slices(self, x: float, y: float, width: float, height: float) -> tuple[slice, slice]:
        """Return the rows and columns of a panel that a box covers, at least MIN_PATCH_PX each."""
        (left, top), (across, down) = self.corner, self.scale
        return (
            _span((y - top) * down, height * down, self.panel[1]),
            _span((x - left) * across, width * across, self.panel[0]),
        )


def _span(start: float, length: float, end: int) -> slice:
    """Round a span to whole pixels within 0..end."""
    grow = max(0.0, MIN_PATCH_PX - length) / 2
    low, high = round(start - grow), round(start + length + grow)
    return slice(min(max(0, low), end - 1), min(max(1, high), end))


def scale_colors(values: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """Return the RGB colors of values between 0 (pale) and 1 (dark)."""
    positions = np.linspace(0, 1, len(SCALE))
    channels = [np.interp(values, positions, SCALE[:, channel]) for channel in range(3)]
    colors: UInt8[np.ndarray, "n 3"] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return colors


def titled_panel(
    layout: Layout, pixels: UInt8[np.ndarray, "h w 3"], title: str
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a panel with its title, and a drawing context for its footer."""
    cell = Image.new("RGB", layout.cell, "white")
    draw = ImageDraw.Draw(cell)
    draw.text((0, 4), shorten(title, TEXT, layout.cell[0]), INK, ImageFont.load_default(TEXT))
    cell.paste(Image.fromarray(pixels), (0, HEADER))
    height, width = pixels.shape[:2]
    draw.rectangle((0, HEADER, width - 1, HEADER + height - 1), outline=FAINT)
    return cell, draw


def color_bar(
    draw: ImageDraw.ImageDraw, layout: Layout, limits: tuple[float, float], name: str, note: str
) -> tuple[float, float]:
    """Draw the color scale and a note below a panel; return the position for a key."""
    font, top, width = ImageFont.load_default(SMALL), layout.cell[1] - FOOTER + 10, 200
    for x, color in enumerate(scale_colors(np.linspace(0, 1, width))):
        draw.line((x, top, x, top + 11), tuple(color.tolist()))
    draw.text((0, top + 15), f"{limits[0]:.2g}", QUIET, font)
    draw.text((width / 2, top + 15), name, QUIET, font, anchor="ma")
    draw.text((width, top + 15), f"{limits[1]:.2g}", QUIET, font, anchor="ra")
    draw.text((0, top + 36), note, QUIET, font)
    return width + 20, top


def scale_bar(draw: ImageDraw.ImageDraw, layout: Layout, mpp: float) -> tuple[float, float]:
    """Draw a scale bar of a round length below a panel; return the position for a key."""
    um_per_px = mpp / layout.scale[0]
    longest, top = um_per_px * layout.cell[0] / 3, layout.cell[1] - FOOTER + 10
    power = 10 ** np.floor(np.log10(longest))
    length = power * max(factor for factor in (1, 2, 5) if factor * power <= longest)
    draw.rectangle((0, top + 4, length / um_per_px, top + 6), INK)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} um"
    draw.text((0, top + 15), label, QUIET, ImageFont.load_default(SMALL))
    return layout.cell[0] / 3 + 20, top


def key(
    draw: ImageDraw.ImageDraw, position: tuple[float, float], color: Color, meaning: str
) -> tuple[float, float]:
    """Draw the meaning of an outline color; return the position for the next key."""
    left, top = position
    font = ImageFont.load_default(SMALL)
    draw.rectangle((left, top, left + 11, top + 11), outline=color, width=2)
    draw.text((left + 17, top - 3), meaning, QUIET, font)
    return left + 31 + font.getlength(meaning), top


def shorten(text: str, size: int, width: float) -> str:
    """Replace the middle of a text with "…" if it is wider than `width` pixels."""
    font, kept = ImageFont.load_default(size), len(text)
    shortened = text
    while kept > 2 and font.getlength(shortened) > width:
        kept -= 1
        shortened = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return shortened


def wrap(text: str, size: int, width: float) -> list[str]:
    """Break a text at spaces into lines of at most `width` pixels; a longer word is shortened."""
    font = ImageFont.load_default(size)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(word, size, width))
    return lines


def compose(
    layout: Layout,
    title: str,
    caption: str,
    panels: Sequence[Image.Image],
    strip: Sequence[Image.Image],
) -> Image.Image:
    """Compose a title, a caption, a grid of panels and a row of tiles into one picture."""
    down = -(-len(panels) // layout.columns)
    lines = wrap(caption, TEXT, layout.width)
    top = MARGIN + 54 + (6 if lines else 0) + LINE * len(lines)
    below = top + down * (layout.cell[1] + GAP) - GAP
    height = below + (GAP + strip[0].height if strip else 0) + MARGIN
    sheet = Image.new("RGB", (layout.width + 2 * MARGIN, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), title, INK, ImageFont.load_default(TITLE))
    for number, line in enumerate(lines):
        place = (MARGIN, MARGIN + 36 + LINE * number)
        draw.text(place, line, QUIET, ImageFont.load_default(TEXT))
    for index, panel in enumerate(panels):
        row, column = divmod(index, layout.columns)
        position = MARGIN + column * (layout.cell[0] + GAP), top + row * (layout.cell[1] + GAP)
        sheet.paste(panel, position)
    for index, tile in enumerate(strip):
        sheet.paste(tile, (MARGIN + index * (tile.width + GAP), below + GAP))
    return sheet
