"""Show a prediction in a notebook: its summary, the slide with the patches, and a data frame."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from markupsafe import Markup

from parfocal.explain.inline_images import jpeg_url, patch_overlay
from parfocal.explain.record import PredictionRecord
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Box, open_slide

if TYPE_CHECKING:
    import pandas as pd

PICTURE_PX = 480  # longer side


def to_html(record: PredictionRecord) -> str:
    """Return HTML with the summary and a picture of the slide with the patches outlined."""
    summary = Markup("<p>{}</p>").format(record.summary)
    try:
        return str(Markup("<div>{}{}</div>").format(summary, _picture(record)))
    except SlideError as error:
        return str(Markup("<div>{}<p>No picture: {}</p></div>").format(summary, str(error)))


def to_frame(record: PredictionRecord) -> "pd.DataFrame":
    """Return the regions as a data frame, one row per region, in the order of visits.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415  # optional dependency
    except ImportError as error:
        raise ImportError("a data frame needs pandas: pip install 'parfocal[notebook]'") from error
    table = pd.DataFrame([asdict(region) for region in record.regions]).set_index("id")
    return table.sort_values("order")


def _picture(record: PredictionRecord) -> Markup:
    """Return an image of the whole slide with the patches outlined."""
    path, mpp_given = record.slide.path, record.slide.mpp_source == "given"
    if path is None:
        raise SlideError(f"{record.slide.id} was not read from a file")
    mpp = record.slide.mpp if mpp_given else None
    with open_slide(path, mpp=mpp, missing_tiles="background") as slide:
        if slide.fingerprint != record.slide.fingerprint:
            raise SlideError(f"{path} has changed since the prediction")
        width, height = slide.size
        scale = max(1.0, max(width, height) / PICTURE_PX)
        pixels = slide.read(Box(0, 0, width, height), slide.mpp * scale)
    return Markup(
        '<div style="position:relative;display:inline-block"><img src="{}" alt="">{}</div>'
    ).format(jpeg_url(pixels, PICTURE_PX), patch_overlay(record))
