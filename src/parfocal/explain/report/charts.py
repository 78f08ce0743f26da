"""Charts as inline SVG: small, printable, and told apart without color."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 320, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 8, 40
# Told apart by the color-blind, and by dashes in gray.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#7b4fa3", "#b8860b", "#555555")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")
STEPS = 6  # between ticks, at most


@dataclass(frozen=True)
class Line:
    """A curve, or points that are not joined."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Axis:
    """An axis: what it is of, from where to where, and how far its ticks are apart."""

    name: str
    low: float = 0.0
    high: float = 1.0
    step: float = 0.25

    @classmethod
    def over(cls, name: str, values: Sequence[float], *, whole: bool = False) -> "Axis":
        """Give an axis from 0 to the first tick that holds all values; of a count, whole ones."""
        most = max(values, default=1.0) or 1.0
        least = max(most / STEPS, 1.0 if whole else 0.0)
        power = 10.0 ** math.floor(math.log10(least))
        # A sum that is a share of everything may be a rounding error over it.
        step = power * next(step for step in (1, 2, 5, 10) if least <= step * power * (1 + 1e-9))
        return cls(name, 0.0, step * math.ceil(most / step * (1 - 1e-9)), step)

    @property
    def ticks(self) -> list[float]:
        """Where ticks are, both ends among them."""
        return [self.low + n * self.step for n in range(1 + round(self.high / self.step))]


def line_chart(
    lines: Sequence[Line], x: Axis, y: Axis, *, diagonal: bool = False, joined: bool = True
) -> Markup:
    """Draw curves over a pair of axes, with a key below.

    Args:
        lines: in the order of the key.
        x: the axis across.
        y: the axis up.
        diagonal: draw also where both are equal.
        joined: draw curves; else points.
    """
    plot = _Plot(x, y)
    parts = plot.axes()
    if diagonal:
        parts.append(plot.curve(((x.low, y.low), (x.high, y.high)), "#aaaaaa", "2 2"))
    for place, line in enumerate(lines):
        color, dash = _pen(place)
        points = tuple(zip(line.x, line.y, strict=True))
        if joined:
            parts.append(plot.curve(points, color, dash))
        if not (joined and _is_curve(line)):
            parts += [plot.dot(point, color, line.name) for point in points]
    told = f"{y.name} against {x.name}: {', '.join(line.name for line in lines)}"
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, told, Markup().join(parts)
    )
    return Markup("<figure>{}{}</figure>").format(svg, _key(lines, joined=joined))


@dataclass(frozen=True)
class _Plot:
    x: Axis
    y: Axis

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - self.x.low) / (self.x.high - self.x.low)
        up = (point[1] - self.y.low) / (self.y.high - self.y.low)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    def axes(self) -> list[Markup]:
        parts = []
        for x in self.x.ticks:
            px, _ = self.at((x, self.y.low))
            parts.append(_rule(px, TOP, px, HEIGHT - BOTTOM))
            parts.append(_text(px, HEIGHT - BOTTOM + 14, f"{x:g}", "middle"))
        for y in self.y.ticks:
            _, py = self.at((self.x.low, y))
            parts.append(_rule(LEFT, py, WIDTH - RIGHT, py))
            parts.append(_text(LEFT - 5, py + 4, f"{y:g}", "end"))
        parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 6, self.x.name, "middle"))
        turned = Markup('<text x="11" y="{0}" transform="rotate(-90 11 {0})" {1}>{2}</text>')
        parts.append(turned.format((HEIGHT - BOTTOM) / 2, _ANCHORED["middle"], self.y.name))
        return parts

    def curve(self, points: Sequence[tuple[float, float]], color: str, dash: str) -> Markup:
        told = " ".join(f"{x:g},{y:g}" for x, y in map(self.at, points))
        return Markup(
            '<polyline class="curve" points="{}" stroke="{}" stroke-dasharray="{}"/>'
        ).format(told, color, dash)

    def dot(self, point: tuple[float, float], color: str, name: str) -> Markup:
        x, y = self.at(point)
        return Markup('<circle cx="{}" cy="{}" r="4" fill="{}"><title>{}</title></circle>').format(
            x, y, color, name
        )


_ANCHORED = {name: Markup('text-anchor="{}"').format(name) for name in ("start", "middle", "end")}


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:g}" y="{:g}" {}>{}</text>').format(x, y, _ANCHORED[anchor], text)


def _rule(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="rule" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"/>').format(
        x1, y1, x2, y2
    )


def _pen(place: int) -> tuple[str, str]:
    """Give a color and dashes, of which no two lines have both the same."""
    turns, color = divmod(place, len(COLORS))
    return COLORS[color], DASHES[(color + turns) % len(DASHES)]


def _is_curve(line: Line) -> bool:
    return len(line.x) > 1


def _key(lines: Sequence[Line], *, joined: bool) -> Markup:
    """Name the lines, each by a sample of how it is drawn."""
    sample = Markup('<span class="key"><svg viewBox="0 0 24 8">{}</svg>{}</span>')
    dot = Markup('<circle cx="12" cy="4" r="4" fill="{}"/>')
    stroke = Markup(
        '<line x1="0" y1="4" x2="24" y2="4" stroke="{}" stroke-width="2" stroke-dasharray="{}"/>'
    )
    shown = []
    for place, line in enumerate(lines):
        color, dash = _pen(place)
        curve = joined and _is_curve(line)
        drawn = stroke.format(color, dash) if curve else dot.format(color)
        shown.append(sample.format(drawn, escape(line.name)))
    return Markup("<figcaption>{}</figcaption>").format(Markup(" ").join(shown))
