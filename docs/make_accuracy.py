"""Draw images/accuracy.svg, accuracy against share of patches, from a table of benchmarks.md.

The table is that of the section "Exhaustive baselines on the same slides"; run by `make docs`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mode

DOCS = Path(__file__).parent
PAGE = DOCS / "images" / "accuracy.svg"
SECTION = "Exhaustive baselines on the same slides"
WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 620, 60, 360  # edges of the plot
LOWEST, HIGHEST = 0.3, 1.0  # AUROC
TICKS = (5, 10, 20, 50, 100)  # percent of the patches
NAMES_FROM = 13  # percent: left edge of the names of the models that encode fewer patches
LINE, LEAD = 21, 32  # between names, and from a point to its name
ALL = 99  # percent: models that encode more are exhaustive
# On a ground of its own, so that it is readable on pages of either color.
STYLE = """<style>
  :root { color-scheme: light dark; }
  .ground { fill: #fff; } .ink { fill: #1d1f24; } .quiet { fill: #5c6068; }
  .rule { stroke: #d9dbe0; } .zooming { fill: #d55e00; } .exhaustive { fill: #0072b2; }
  .bar { stroke-width: 1.5; } .bar.zooming { stroke: #d55e00; } .bar.exhaustive { stroke: #0072b2; }
  .lead { stroke: #5c6068; stroke-width: 0.7; fill: none; }
  text { font: 14px system-ui, sans-serif; } .head { font-size: 17px; font-weight: 600; }
  .name { paint-order: stroke; stroke: #fff; stroke-width: 4; }
  .best { font-weight: 600; } .end { text-anchor: end; } .middle { text-anchor: middle; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #1f2227; } .ink { fill: #e8e9ec; } .quiet { fill: #a3a8b1; }
    .rule { stroke: #363a42; } .zooming { fill: #ff9a5c; } .exhaustive { fill: #56b4e9; }
    .bar.zooming { stroke: #ff9a5c; } .bar.exhaustive { stroke: #56b4e9; }
    .lead { stroke: #a3a8b1; } .name { stroke: #1f2227; }
  }
</style>"""


@dataclass(frozen=True)
class Row:
    """A model in the table.

    Args:
        model: its name.
        auroc: mean AUROC of the training runs.
        low: lower end of the 95% interval.
        high: upper end.
        patches: patches visited per slide.
    """

    model: str
    auroc: float
    low: float
    high: float
    patches: float


def page() -> str:
    """Return the whole SVG."""
    table = read_rows((DOCS / "benchmarks.md").read_text(encoding="utf-8"))
    all_patches = mode(row.patches for row in table)  # of the exhaustive models at 10x
    shares = {row.model: 100 * row.patches / all_patches for row in table}
    # Mean RGB, and models that encode all patches at several magnifications, are in the table only.
    rows = [row for row in table if TICKS[0] <= shares[row.model] <= TICKS[-1]]
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    title = "AUROC against the share of the patches that a model encodes"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">',
        STYLE,
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" class="ground"/>',
        _text(LEFT, 32, f"{title} (95% intervals)", "head ink"),
        *_axes(),
    ]
    for row in rows:
        parts += _point(row, shares[row.model])
    few = [row for row in rows if shares[row.model] < NAMES_FROM]
    some = [row for row in rows if NAMES_FROM <= shares[row.model] < ALL]
    parts += _names(few, shares, _x(NAMES_FROM))
    for row in some:
        parts += _names([row], shares, _x(shares[row.model]) + LEAD)
    parts += _names([row for row in rows if shares[row.model] >= ALL], shares, RIGHT + LEAD)
    return "\n".join([*parts, "</svg>"]) + "\n"


def read_rows(text: str) -> list[Row]:
    """Return the models of the table, best first."""
    section = text.partition(f"{SECTION}\n")[2].partition("\n## ")[0]
    rows = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        score = re.fullmatch(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", cells[2] if cells[2:] else "")
        if score:
            auroc, low, high = map(float, score.groups())
            rows.append(Row(cells[0], auroc, low, high, float(cells[5].replace(",", ""))))
    return sorted(rows, key=lambda row: -row.auroc)


def _axes() -> Iterator[str]:
    """Draw the rules, their values and the names of the axes."""
    for tenth in range(round(10 * LOWEST), 11):
        y = _y(tenth / 10)
        yield f'<path d="M{LEFT} {y:.1f} H{RIGHT}" class="rule"/>'
        yield _text(LEFT - 10, y + 5, f"{tenth / 10:.1f}", "quiet end")
    for tick in TICKS:
        yield _text(_x(tick), BOTTOM + 24, f"{tick}%", "quiet middle")
    middle = (LEFT + RIGHT) / 2
    yield _text(middle, BOTTOM + 48, "patches encoded, of those at 10x", "quiet middle")


def _point(row: Row, share: float) -> Iterator[str]:
    """Draw a model with its interval."""
    x, kind = _x(share), "exhaustive" if share >= ALL else "zooming"
    yield f'<path d="M{x:.1f} {_y(row.low):.1f} V{_y(row.high):.1f}" class="bar {kind}"/>'
    yield f'<circle cx="{x:.1f}" cy="{_y(row.auroc):.1f}" r="6" class="{kind}"/>'


def _names(rows: list[Row], shares: dict[str, float], left: float) -> Iterator[str]:
    """Name models in a column, far enough from each other, with a line from each to its point."""
    below = TOP - LINE
    for row in rows:
        y = max(_y(row.auroc), below + LINE)
        below, start = y, _x(shares[row.model]) + 9
        yield f'<path d="M{start:.1f} {_y(row.auroc):.1f} L{left - 6:.1f} {y:.1f}" class="lead"/>'
        name = re.sub(r"(, [\d.]+x)+", "", row.model)
        is_best_zooming = row.auroc > 0.99 and shares[row.model] < ALL
        share = f" at {shares[row.model]:.0f}%" if is_best_zooming else ""
        kind = "name ink best" if is_best_zooming else "name ink"
        yield _text(left, y + 5, f"{name}: {row.auroc:.3f}{share}", kind)


def _x(share: float) -> float:
    """Return the position of a share in percent, on a logarithmic scale."""
    low, high = math.log(TICKS[0]), math.log(TICKS[-1])
    return LEFT + (RIGHT - LEFT) * (math.log(share) - low) / (high - low)


def _y(auroc: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * (auroc - LOWEST) / (HIGHEST - LOWEST)


def _text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{content}</text>'


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
