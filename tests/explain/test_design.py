"""The viewer, the reports and the site have the same colors, for light and for dark pages."""

import re
from pathlib import Path

import pytest

from parfocal.explain.inline_images import TOP_STYLE, ZOOMED_STYLE
from parfocal.explain.patients.pictures import VISITED
from parfocal.explain.report.template import render

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "src" / "parfocal" / "explain" / "static"
DESIGN = (STATIC / "design.css").read_text(encoding="utf-8")
PAIR = re.compile(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)")
PAIRS = {name: (light, dark) for name, light, dark in PAIR.findall(DESIGN)}
SHEETS = [
    *(STATIC / name for name in ("style.css", "list.css", "slide.css")),
    *sorted((ROOT / "src" / "parfocal" / "explain" / "report").glob("*.css")),
]


def luminance(color: str) -> float:
    """Return the relative luminance of WCAG 2."""
    channels = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "quiet", "accent", "wrong"])
def test_text_is_readable_on_both_grounds(text: str, page: int):
    for ground in ("ground", "raised"):
        assert contrast(PAIRS[text][page], PAIRS[ground][page]) >= 4.5


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.name)
def test_a_style_sheet_defines_no_color_variables_of_its_own(sheet: Path):
    text = sheet.read_text(encoding="utf-8")
    assert not re.search(r"--\w+:\s*#", text)
    assert "prefers-color-scheme" not in text


@pytest.mark.parametrize("name", ["report.html", "comparison.html", "patient.html", "slides.html"])
def test_every_report_has_the_design(name: str):
    text = (ROOT / "src" / "parfocal" / "explain" / "report" / name).read_text(encoding="utf-8")
    assert text.index('{% include "design.css" %}') < text.index('.css" %}', text.index("design"))


def test_the_viewer_loads_the_design_first():
    for name in ("list.html", "slide.html"):
        sheets = re.findall(r'static/(\w+\.css)"', (STATIC / name).read_text(encoding="utf-8"))
        assert sheets[0] == "design.css"


def test_pictures_have_the_colors_of_the_design():
    zoomed, visited = (
        re.search(rf"--{name}: (#\w{{6}})", DESIGN)[1] for name in ("zoomed", "visited")
    )
    assert (ZOOMED_STYLE[0], TOP_STYLE[0]) == (zoomed, visited)
    assert "#{:02x}{:02x}{:02x}".format(*VISITED) == visited
    script = (STATIC / "overlay.js").read_text(encoding="utf-8")
    assert f'ZOOMED = "{zoomed}"' in script
    assert f'MARKED = "{visited}"' in script


def test_the_comparison_page_is_styled():
    page = render(
        "comparison.html",
        failed=[],
        unreadable={},
        models=[],
    )
    assert "light-dark(" in page
