"""Draw the pictures of docs/concepts.md: the grid, the bag and the zoom; run by `make docs`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

IMAGES = Path(__file__).with_name("images")
WIDTH = 860
# On a background of their own, so that they are readable on pages of either color.
STYLE = """<style>
  :root { color-scheme: light dark; }
  .ground { fill: #fff; } .ink { fill: #1d1f24; } .quiet { fill: #5c6068; }
  .tissue { fill: #e7b7cd; } .patch { fill: none; stroke: #5c6068; }
  .line { stroke: #5c6068; stroke-width: 1.5; fill: none; } .tip { fill: #5c6068; }
  .zoomed { fill: #d55e00; fill-opacity: 0.25; stroke: #d55e00; stroke-width: 2.5; }
  .found { fill: none; stroke: #0072b2; stroke-width: 2; }
  .absent { fill: none; stroke: #5c6068; stroke-dasharray: 3 3; }
  .box { fill: #eef0f4; stroke: #d9dbe0; }
  text { font: 14px system-ui, sans-serif; } .head { font-weight: 600; font-size: 15px; }
  .code { font-family: ui-monospace, monospace; font-size: 13px; } .middle { text-anchor: middle; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #1f2227; } .ink { fill: #e8e9ec; } .quiet { fill: #a3a8b1; }
    .tissue { fill: #7c4a66; } .patch, .absent, .line { stroke: #a3a8b1; } .tip { fill: #a3a8b1; }
    .zoomed { stroke: #ff9a5c; fill: #ff9a5c; } .found { stroke: #56b4e9; }
    .box { fill: #2a2e35; stroke: #363a42; }
  }
</style>"""

# The slide of the drawings: 16 x 16 patches at 10x, 4 x 4 at 2.5x, 2 x 2 at 1.25x. The tissue
# consists of ellipses: center, half width and half height, in patches of 10x.
TISSUE = ((5.0, 5.5, 4.2, 3.6), (9.2, 8.2, 3.4, 2.4), (12.6, 12.4, 1.1, 1.3))
SIDE, SLIDE_PX = 16, 240  # of the slide, in patches of 10x and in pixels of the drawing
PATCH = {"1.25x": 8, "2.5x": 4, "10x": 1}  # side in patches of 10x
MIN_TISSUE, SAMPLES = 0.1, 20  # of a patch; points per side at which its tissue is counted

Cell = tuple[int, int]


def pages() -> dict[Path, str]:
    """Return the text of each drawing by its file."""
    drawings = {"grid": grid(), "bag": bag(), "zoom": zoom()}
    return {IMAGES / f"{name}.svg": text for name, text in drawings.items()}


def grid() -> str:
    """Draw which patches exist at each magnification."""
    parts = []
    for number, (name, side) in enumerate(PATCH.items()):
        left = 30 + number * 280
        cells = existing(side)
        parts += [text(left, 34, f"{name}: {len(cells)} patches", "head ink")]
        parts += slide(left, 50)
        parts += [square((left, 50), cell, side, "patch") for cell in cells]
    parts += [
        text(30, 322, "At 10x, a patch exists if at least 10% of it is tissue (pink)."),
        text(30, 344, "At lower magnifications, it exists if one of its descendants at 10x does,"),
        text(30, 366, "so zooming reaches exactly the patches that exhaustive processing encodes."),
    ]
    return drawing(384, parts, "Patches that exist at 1.25x, 2.5x and 10x over one slide")


def bag() -> str:
    """Draw the rows of two bags: patches at 2.5x, and the children of one of them."""
    parts = [
        text(30, 34, "bag at 2.5x", "head ink"),
        text(30, 54, "one row of features per patch", "quiet"),
        *rows(30, 70, [(f"row {n}", n != 2, n == 1) for n in range(4)]),
        text(30, 236, "A dashed row is a patch that does not exist:"),
        text(30, 256, "valid is False, its features are 0 and are never read."),
        text(350, 128, "bag.zoom(select)", "code ink middle"),
        *arrow((285, 140), (415, 140)),
        text(350, 160, "the children of row 1", "quiet middle"),
        text(440, 34, "bag at 10x, after zooming into row 1", "head ink"),
        text(440, 54, "rows 16 to 31 of the magnification, nested", "quiet"),
        *rows(440, 70, [("row 16", True, False), ("row 17", False, False)]),
        text(560, 172, "⋮", "ink middle"),
        *rows(440, 190, [("row 31", True, False)]),
        text(440, 256, "Features are read or computed only when the model"),
        text(440, 276, "asks for them: bag.features()", "quiet"),
    ]
    return drawing(296, parts, "A bag at 2.5x, and the bag of the children of one of its rows")


def zoom() -> str:
    """Draw the path from the whole slide to a prediction, with the number of patches visited."""
    chosen = {"1.25x": ((0, 0),), "2.5x": ((1, 1),), "10x": ((5, 6),)}
    parts, seen = [], 0
    for number, (name, side) in enumerate(PATCH.items()):
        left = 30 + number * 280
        above = None if not number else list(chosen.values())[number - 1][0]
        outer = side if above is None else list(PATCH.values())[number - 1]
        cells = [
            cell
            for cell in existing(side)
            if above is None or (cell[0] * side // outer, cell[1] * side // outer) == above
        ]
        seen += len(cells)
        last = number == len(PATCH) - 1
        action = "classify" if last else "attend, zoom into the top patch"
        parts += [
            text(left, 34, f"{name}: visit {len(cells)} patches", "head ink"),
            text(left, 54, action, "quiet"),
        ]
        parts += slide(left, 68)
        parts += [square((left, 68), cell, side, "found" if last else "patch") for cell in cells]
        if not last:
            parts += [square((left, 68), cell, side, "zoomed") for cell in chosen[name]]
            parts += arrow((left + 246, 188), (left + 274, 188))
    total = len(existing(PATCH["10x"]))
    parts += [
        text(
            30, 340, f"The bill: {seen} patches visited at all magnifications, of {total} at 10x."
        ),
        text(30, 362, "Patches that are not visited are neither read nor encoded."),
        text(30, 384, "What is seen at every magnification is pooled into the prediction."),
    ]
    return drawing(402, parts, "Zooming from 1.25x into one patch at 2.5x and its children at 10x")


def existing(side: int) -> list[Cell]:
    """Return the (column, row) of the patches that exist at a magnification."""
    smallest = [
        (column, row)
        for row in range(SIDE)
        for column in range(SIDE)
        if tissue_share(column, row) >= MIN_TISSUE
    ]
    return sorted({(column // side, row // side) for column, row in smallest})


def tissue_share(column: int, row: int) -> float:
    """Return the share of tissue in a patch of 10x."""
    offsets = [(n + 0.5) / SAMPLES for n in range(SAMPLES)]
    inside = sum(
        any(((column + u - x) / a) ** 2 + ((row + v - y) / b) ** 2 < 1 for x, y, a, b in TISSUE)
        for u in offsets
        for v in offsets
    )
    return inside / SAMPLES**2


def slide(left: float, top: float) -> Iterator[str]:
    """Draw the slide with its tissue."""
    yield f'<rect x="{left:g}" y="{top:g}" width="{SLIDE_PX}" height="{SLIDE_PX}" class="box"/>'
    unit = SLIDE_PX / SIDE
    for x, y, a, b in TISSUE:
        place = f'cx="{left + x * unit:g}" cy="{top + y * unit:g}"'
        yield f'<ellipse {place} rx="{a * unit:g}" ry="{b * unit:g}" class="tissue"/>'


def square(corner: tuple[float, float], cell: Cell, side: int, kind: str) -> str:
    """Draw a patch, a little smaller than it is, so that neighbors can be distinguished."""
    unit, gap = SLIDE_PX * side / SIDE, 1.5
    x, y = corner[0] + cell[0] * unit + gap, corner[1] + cell[1] * unit + gap
    width = unit - 2 * gap
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{width:g}" class="{kind}"/>'


def rows(left: float, top: float, cells: Iterable[tuple[str, bool, bool]]) -> Iterator[str]:
    """Draw rows of features: each with a name, whether it exists, and whether it is selected."""
    for number, (name, exists, selected) in enumerate(cells):
        y = top + number * 36
        yield text(left, y + 19, name, "code ink")
        kind = "zoomed" if selected else "patch" if exists else "absent"
        shape = f'width="{170:g}" height="28"'
        yield f'<rect x="{left + 70:g}" y="{y:g}" {shape} class="{kind}"/>'
        note = "x₁ x₂ x₃ … x_d" if exists else "0 0 0 … 0"
        yield text(left + 155, y + 19, note, "code quiet middle")


def arrow(start: tuple[float, float], end: tuple[float, float]) -> Iterator[str]:
    """Draw a horizontal arrow."""
    (x1, y), (x2, _) = start, end
    yield f'<path d="M{x1:g} {y:g} H{x2 - 8:g}" class="line"/>'
    yield f'<path d="M{x2:g} {y:g} l-10 -5 v10 z" class="tip"/>'


def text(x: float, y: float, content: str, kind: str = "ink") -> str:
    """Draw a line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{content}</text>'


def drawing(height: int, parts: Iterable[str], title: str) -> str:
    """Return a whole SVG file."""
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">'
    ground = f'<rect width="{WIDTH}" height="{height}" rx="8" class="ground"/>'
    return "\n".join([head, STYLE, ground, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    for path, content in pages().items():
        path.write_text(content, encoding="utf-8")
