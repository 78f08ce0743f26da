"""Images inside HTML: pixels as a data URL, and the patches of a prediction as an SVG overlay."""

import base64
import io

from jaxtyping import UInt8
from markupsafe import Markup
from numpy import ndarray
from PIL import Image

from parfocal.explain.record import PredictionRecord

QUALITY = 80
TOP_PATCHES = 3  # marked as those that counted most
# Color and line width.
VISITED_STYLE, ZOOMED_STYLE, TOP_STYLE = ("#1e1e28", 0.7), ("#d55e00", 2), ("#0072b2", 2.5)

SQUARE = Markup(
    '<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" stroke="{}" stroke-width="{}" '
    'vector-effect="non-scaling-stroke"/>'
)


def jpeg_url(pixels: UInt8[ndarray, "h w 3"], longest: int) -> str:
    """Encode pixels as a JPEG data URL, shrunk so that the longer side is at most `longest`."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def patch_overlay(record: PredictionRecord) -> Markup:
    """Return an SVG overlay of the patches of a prediction, in level-0 pixels.

    It outlines the visited patches of the lowest magnification, the patches that were zoomed into
    and those that counted most. It covers a picture of the slide in the same HTML element.
    """
    visited = [region for region in record.regions if region.visited]
    squares = [
        SQUARE.format(region.x, region.y, region.width, region.height, *style)
        for style, regions in (
            (VISITED_STYLE, [region for region in visited if region.step == 0]),
            (ZOOMED_STYLE, [region for region in visited if region.selected]),
            (TOP_STYLE, record.top_regions(TOP_PATCHES)),
        )
        for region in regions
    ]
    width, height = record.slide.size
    overlay = Markup(
        '<svg viewBox="0 0 {} {}" fill="none" '
        'style="position:absolute;inset:0;width:100%;height:100%">{}</svg>'
    )
    return overlay.format(width, height, Markup().join(squares))
