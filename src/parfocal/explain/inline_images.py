"""Pictures inside HTML: pixels as a URL, and a prediction's squares to lay over a slide."""

import base64
import io

from jaxtyping import UInt8
from markupsafe import Markup
from numpy import ndarray
from PIL import Image

from parfocal.explain.record import PredictionRecord

QUALITY = 80
MARKED = 3  # sharp patches that counted most
SEEN, ZOOMED, BEST = ("#1e1e28", 0.7), ("#d55e00", 2), ("#0072b2", 2.5)  # color, width

SQUARE = Markup(
    '<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" stroke="{}" stroke-width="{}" '
    'vector-effect="non-scaling-stroke"/>'
)


def jpeg_url(pixels: UInt8[ndarray, "h w 3"], longest: int) -> str:
    """Encode a picture, its longer side shrunk to `longest`, as a URL that holds it."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def squares_of(record: PredictionRecord) -> Markup:
    """Draw what was looked at first, what was zoomed into, and the sharp patches that counted most.

    An SVG in level-0 pixels, which lays itself over a picture of the slide in the same element.
    """
    looked = [region for region in record.regions if region.order is not None]
    drawn = [
        SQUARE.format(region.x, region.y, region.width, region.height, *style)
        for style, chosen in (
            (SEEN, [region for region in looked if region.step == 0]),
            (ZOOMED, [region for region in looked if region.selected]),
            (BEST, record.counted_most(MARKED)),
        )
        for region in chosen
    ]
    width, height = record.slide.size
    laid = Markup(
        '<svg viewBox="0 0 {} {}" fill="none" '
        'style="position:absolute;inset:0;width:100%;height:100%">{}</svg>'
    )
    return laid.format(width, height, Markup().join(drawn))
