"""A picture of the patches of a grid, for notebooks."""

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from parfocal.grid.patches import PatchGrid

PANEL_PX = 320  # longer side of the slide in a panel
MIN_PANEL_PX = 230  # width, so that the title fits
HEADER, GAP, TEXT = 24, 16, 14
INK, SLIDE, PATCH, EDGE = (38, 38, 38), (245, 245, 245), (200, 110, 160), (110, 40, 90)
MIN_EDGED_PX = 6  # narrower patches are drawn without an edge


def grid_png(grid: "PatchGrid") -> bytes:
    """Return a PNG with a panel for each magnification, which shows the patches that exist."""
    panels = [_panel(grid, step) for step in range(len(grid.mpps))]
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, panels[0].height), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + GAP
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    return encoded.getvalue()


def _panel(grid: "PatchGrid", step: int) -> Image.Image:
    """Draw the patches of one magnification over the outline of the slide."""
    scale = PANEL_PX / max(grid.slide_size)
    width, height = (max(1, round(side * scale)) for side in grid.slide_size)
    panel = Image.new("RGB", (max(width, MIN_PANEL_PX), height + HEADER), "white")
    draw = ImageDraw.Draw(panel)
    rows = np.flatnonzero(grid.valid(step))
    title = f"{grid.mpps[step]:.3g} um/px: {len(rows):,} patches"
    draw.text((0, 2), title, INK, ImageFont.load_default(TEXT))
    draw.rectangle((0, HEADER, width - 1, HEADER + height - 1), SLIDE)
    for box in grid.boxes(step, rows):
        left, top = box.x * scale, HEADER + box.y * scale
        # Patches at the edge may reach beyond the scan.
        right = min(left + box.width * scale, width) - 1
        bottom = min(top + box.height * scale, HEADER + height) - 1
        edge = EDGE if box.width * scale >= MIN_EDGED_PX else PATCH
        draw.rectangle((left, top, max(left, right), max(top, bottom)), PATCH, edge)
    return panel
