"""Write the pictures of inspected slides as one sheet: an HTML page or a PNG image."""

import base64
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from parfocal.explain.inspection.batch import InspectedSlide
from parfocal.explain.inspection.strip import draw_lines
from parfocal.explain.report.template import render
from parfocal.files import PNG_MARK, write_whole

SHEET_SUFFIXES = (".html", ".png")
MIN_PNG_WIDTH = 640
MAX_PNG_SLIDES = 60  # so that viewers open the image; a page has no limit


def check_sheet(path: Path, num_slides: int) -> None:
    """Check the name of a sheet before any slide is inspected.

    Args:
        path: the file to write.
        num_slides: number of slides on it.

    Raises:
        ValueError: the file is neither HTML nor PNG, or there are too many slides for a PNG image.
    """
    if path.suffix.lower() not in SHEET_SUFFIXES:
        raise ValueError(f"--picture {path}: the sheet is an .html or a .png file; name it so.")
    if path.suffix.lower() == ".png" and num_slides > MAX_PNG_SLIDES:
        raise ValueError(
            f"--picture {path}: a PNG image has room for {MAX_PNG_SLIDES} slides, and there are "
            f"{num_slides}; write an .html file, which shows any number."
        )


def write_sheet(path: Path, slides: Sequence[InspectedSlide]) -> None:
    """Write a sheet of inspected slides, doubtful ones first; completely or not at all.

    Args:
        path: the .html or .png file to write.
        slides: the slides, inspected with pictures.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(slides, key=lambda slide: not _problems(slide))  # stable
    content = _png(ordered) if path.suffix.lower() == ".png" else _page(ordered)
    write_whole(path, content)


def _problems(slide: InspectedSlide) -> list[str]:
    """Return why a slide deserves a look."""
    if slide.report is None:
        return [str(slide.reason)]
    report = slide.report
    problems = [report.tissue_warning, report.patches_problem, *report.notes]
    if report.patches is not None and not report.patches.min_tissue_met:
        problems.append("no patch has enough tissue, so all with any are kept")
    return [problem for problem in problems if problem]


def _texts(slide: InspectedSlide) -> list[str]:
    """Return the lines below the picture of a slide in a PNG image."""
    if slide.report is None:
        return [f"{slide.path.name}: failed", *_problems(slide)]
    ladder = slide.report.patches
    reach = [] if ladder is None else [ladder.reach, *filter(None, [ladder.nothing_to_skip])]
    return [*_problems(slide), *reach]


def _page(slides: Sequence[InspectedSlide]) -> bytes:
    rows = [
        {
            "path": slide.path,
            "report": slide.report,
            "problems": _problems(slide),
            "picture": slide.picture and base64.b64encode(slide.picture).decode(),
        }
        for slide in slides
    ]
    return render(
        "slides.html",
        rows=rows,
        failed=sum(slide.report is None for slide in slides),
        doubtful=sum(slide.report is not None and bool(_problems(slide)) for slide in slides),
        written=datetime.now(tz=UTC).date(),
    ).encode()


def _png(slides: Sequence[InspectedSlide]) -> bytes:
    pictures = [
        Image.open(io.BytesIO(slide.picture)) if slide.picture else None for slide in slides
    ]
    width = max([MIN_PNG_WIDTH, *(picture.width for picture in pictures if picture)])
    strips = []
    for slide, picture in zip(slides, pictures, strict=True):
        strips += [*([picture] if picture else []), draw_lines(_texts(slide), width)]
    sheet = Image.new("RGB", (width, max(1, sum(strip.height for strip in strips))), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    encoded = io.BytesIO()
    mark = PngInfo()
    mark.add_text(*PNG_MARK)  # so that the sheet can be replaced by the next one
    sheet.save(encoded, "PNG", pnginfo=mark)
    return encoded.getvalue()
