"""A prediction in a notebook: the answer, the slide with what was looked at, and a data frame."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from parfocal.explain.inline_images import jpeg_url, squares_of
from parfocal.explain.record import PredictionRecord
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Box, open_slide

if TYPE_CHECKING:
    import pandas as pd

SHOWN_PX = 480


def html_of(record: PredictionRecord) -> str:
    """Give the answer, the bill, and the slide with squares where the model looked."""
    said = Markup("<p>{}</p>").format(record.line)
    try:
        return str(Markup("<div>{}{}</div>").format(said, _picture(record)))
    except SlideError as error:
        return str(Markup("<div>{}<p>No picture: {}</p></div>").format(said, str(error)))


def frame_of(record: PredictionRecord) -> "pd.DataFrame":
    """Give the regions as a table, a row each, by order of looking.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd  # noqa: PLC0415  # optional
    except ImportError as error:
        raise ImportError("a data frame needs pandas: pip install pandas") from error
    table = pd.DataFrame([asdict(region) for region in record.regions]).set_index("id")
    return table.sort_values("order")


def _picture(record: PredictionRecord) -> Markup:
    path, given = record.slide.path, record.slide.mpp_source == "given"
    if path is None:
        raise SlideError(f"{record.slide.id} is no file")
    with open_slide(Path(path), mpp=record.slide.mpp if given else None) as slide:
        if slide.fingerprint != record.slide.fingerprint:
            raise SlideError(f"{path} is another file by now")
        width, height = slide.size
        scale = max(1.0, max(width, height) / SHOWN_PX)
        url = jpeg_url(slide.read(Box(0, 0, width, height), slide.mpp * scale), SHOWN_PX)
    return Markup(
        '<div style="position:relative;display:inline-block"><img src="{}" alt="">{}</div>'
    ).format(url, squares_of(record))
