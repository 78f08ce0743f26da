"""Draw charts as inline SVG: small, printable, and readable without color.

Drawn with matplotlib, which takes a second to import; predict does not import this module.
"""

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT, LEGEND_ROW = 3.4, 2.6, 0.18  # inches; HEIGHT is without the legend
SHORT_NAME = 18  # characters; the legend has two columns if no name is longer
MAX_TICKS = 6
# Distinct with color blindness; dashes and markers distinguish the lines in gray print.
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#882255"),
    *("#999933", "#555555", "#117733", "#aa4499", "#88ccee", "#bb9900"),
)
DASHES = ("-", (0, (6, 3)), (0, (2, 3)), (0, (8, 3, 2, 3)), (0, (1, 2)), (0, (10, 4)))
MARKERS = "osD^vP*X<>p"
INK, PALE = "#333333", "#dddddd"
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Line:
    """The points of a curve.

    Args:
        name: entry in the legend.
        x: coordinates along the horizontal axis.
        y: coordinates along the vertical axis.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Axis:
    """An axis.

    Args:
        name: label of the axis.
        high: end of the axis; None to fit the data.
        integer: whether ticks are at whole numbers only.
        low: start of the axis; None to fit the data.
    """

    name: str
    high: float | None = 1.0
    integer: bool = False
    low: float | None = 0.0


def line_chart(
    lines: Sequence[Line], x: Axis, y: Axis, *, diagonal: bool = False, joined: bool = True
) -> Markup:
    """Draw lines over a pair of axes, with a legend below.

    Args:
        lines: the lines, in the order of the legend.
        x: the horizontal axis.
        y: the vertical axis.
        diagonal: whether to draw the line of equal x and y.
        joined: whether to connect the points; if False, markers are drawn.

    Returns:
        An HTML figure with an SVG that loads nothing and is the same for the same arguments.
    """
    with _chart_style(), warnings.catch_warnings():
        # The browser has glyphs that the font used for measuring text lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        columns = 2 if all(len(line.name) <= SHORT_NAME for line in lines) else 1
        height = HEIGHT + -(-len(lines) // columns) * LEGEND_ROW
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        if diagonal:
            dots = (0, (2, 2))
            axes.plot((0, 1), (0, 1), color="#aaaaaa", linestyle=dots, linewidth=1, clip_on=False)
        handles = [_draw_line(axes, i, line, joined=joined) for i, line in enumerate(lines)]
        _set_up_axes(axes, x, y)
        _add_legend(figure, handles, lines, columns)
        description = f"{y.name} against {x.name}: {', '.join(line.name for line in lines)}"
        return Markup('<figure class="chart">{}</figure>').format(_to_svg(figure, description))


def _chart_style() -> AbstractContextManager[None]:
    return rc_context(
        {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
            "font.size": 8,
            "svg.fonttype": "none",  # text stays text, and no font is embedded
            "svg.hashsalt": "parfocal",  # the same chart gets the same ids
            "text.parse_math": False,  # names may contain "$"
        }
    )


def _draw_line(axes: Axes, index: int, line: Line, *, joined: bool) -> Line2D:
    """Draw a line; as markers if it is not joined or has a single point."""
    turns, color = divmod(index, len(COLORS))
    connected = joined and len(line.x) > 1
    (drawn,) = axes.plot(
        line.x,
        line.y,
        color=COLORS[color],
        linestyle=DASHES[(color + turns) % len(DASHES)] if connected else "",
        marker="" if connected else MARKERS[index % len(MARKERS)],
        linewidth=1.5,
        markersize=6,
        clip_on=False,
    )
    return drawn


def _set_up_axes(axes: Axes, x: Axis, y: Axis) -> None:
    axes.set_xlim(x.low, x.high)
    axes.set_ylim(y.low, y.high)
    axes.set_xlabel(x.name, color=INK)
    axes.set_ylabel(y.name, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=x.integer))
    axes.yaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=y.integer))
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(visible=True, color=PALE, linewidth=0.7, clip_on=False)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _add_legend(
    figure: Figure, handles: Sequence[Line2D], lines: Sequence[Line], columns: int
) -> None:
    # matplotlib leaves out names that begin with "_", so they get an invisible space before it.
    names = [f"\u200b{line.name}" if line.name.startswith("_") else line.name for line in lines]
    figure.legend(
        handles,
        names,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        handlelength=3,
    )


def _to_svg(figure: Figure, description: str) -> Markup:
    """Return a figure as an SVG element for HTML."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would apply to the whole page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # would occur several times in the page
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace(" xlink:href=", " href=")  # HTML needs no namespace
    (view_box,) = re.findall(r'viewBox="[^"]*"', svg)[:1]
    body = svg[svg.index(">") + 1 :]
    opening = Markup('<svg {} role="img" aria-label="{}" stroke-linejoin="round">')
    return opening.format(Markup(view_box), description) + Markup(re.sub(r"\n\s*", "\n", body))
