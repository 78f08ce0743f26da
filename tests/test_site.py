"""The documentation site is built without a warning, and needs nothing of other hosts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).with_name("zensical")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site from a copy of the documentation."""
    if not PROGRAM.exists():
        pytest.skip("zensical is not installed (extra docs)")
    place = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", place / "docs")
    shutil.copy(ROOT / "mkdocs.yml", place)
    (place / "src").symlink_to(ROOT / "src")
    command = [str(PROGRAM), "build", "--strict"]
    built = subprocess.run(
        command, cwd=place, capture_output=True, text=True, check=False, timeout=300
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return place / "site"


def test_each_page_is_in_the_site(site: Path):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {path.name for path in site.iterdir() if (path / "index.html").exists()} >= pages


def test_the_reference_shows_signatures_and_docstrings(site: Path):
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="parfocal.slide.slide.open_slide"' in page
    assert "microns per pixel" in page or "µm per" in page


def test_no_script_style_or_font_comes_from_another_host(site: Path):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=[\"']?(https?:[^\"' >]+)", text)
        kinds = "stylesheet|preload|preconnect"
        loaded += re.findall(
            rf"<link[^>]+rel=[\"']?(?:{kinds})[^>]+href=[\"']?(https?:[^\"' >]+)", text
        )
        assert not loaded, page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:|//)[^\"')]+", text), sheet


def test_the_site_has_the_colors_of_the_viewer_and_the_reports(site: Path):
    page = (site / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r"stylesheets/(design|site)\.css", page)
    assert loaded == ["design", "site"]
    design = (site / "stylesheets" / "design.css").read_text(encoding="utf-8")
    theme = (site / "stylesheets" / "site.css").read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--\w+)\)", theme))
    assert used
    assert used <= set(re.findall(r"^ +(--\w+):", design, re.M))
    assert not re.search(r"#[0-9a-f]{3,6}\b", theme)  # no colors of its own


DRAWINGS = [
    ROOT / "docs" / "images" / f"{name}.svg" for name in ("grid", "bag", "zoom", "accuracy")
]
CHARACTER_PX = 8.2  # width of a character of the widest usual font


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_is_readable_on_light_and_dark_pages_and_no_text_is_cut(drawing: Path):
    text = drawing.read_text(encoding="utf-8")
    assert 'class="ground"/>' in text
    dark = text.partition("@media (prefers-color-scheme: dark)")[2].partition("</style>")[0]
    classes = set(re.findall(r"\.(\w+) \{ fill: #", text.partition("@media")[0]))
    assert {name for name in classes if f".{name}" not in dark} == set()
    width = float(re.search(r'width="(\d+)"', text)[1])
    for x, kind, line in re.findall(
        r'<text x="([\d.]+)" y="[\d.]+" class="([\w ]+)">(.*)</text>', text
    ):
        if "end" not in kind and "middle" not in kind:
            assert float(x) + CHARACTER_PX * len(line) <= width, line


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"(\w[\w-]*\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}
