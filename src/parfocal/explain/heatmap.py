"""Attention -> a map over the slide: one PNG, each magnification by itself.

Drawn from a prediction's record and a thumbnail, so that a map can be drawn again from the
saved JSON. Colors run from pale to dark evenly, so they read the same to the color-blind and
in gray. The scale, in raw attention, is of what sums to 1: one magnification, or all of them for
probabilities; it is said under each panel with the range met.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from parfocal.explain import map_layout
from parfocal.explain.map_layout import GAP, HEADER, INK, Color, Layout
from parfocal.files import whole_file
from parfocal.slide.slide import Box

CHOSEN: Color = (213, 94, 0)  # vermilion: apart from every color of the scale and of H&E
STEP_COLORS: tuple[Color, ...] = ((110, 110, 110), (0, 114, 178), (213, 94, 0), (0, 0, 0))
STANDS_OUT = 4
DETAIL_PX = 200
RANK, ROOMY = 16, 18  # size of type, and of a patch that holds it
MARGIN_SHARE = 0.05  # of the longer side, around what was looked at

Pixels = UInt8[np.ndarray, "h w 3"]


class Step(TypedDict):
    """One magnification of a record."""

    mpp: float
    magnification: float
    patches: int


class Region(TypedDict):
    """One patch looked at, in level-0 pixels."""

    id: str | int
    step: int
    x: float
    y: float
    width: float
    height: float
    score: float
    selected: bool
    order: NotRequired[int | None]
    score_kind: NotRequired[str]


class SlideFacts(TypedDict):
    """The slide of a record; size is width and height in level-0 pixels."""

    id: str
    size: Sequence[int]
    mpp: float


class Answer(TypedDict):
    """What a model said."""

    label: str
    probabilities: Mapping[str, float]


class Record(TypedDict):
    """The parts of a prediction's JSON that a map shows; the rest is ignored."""

    slide: SlideFacts
    prediction: Answer
    steps: Sequence[Step]
    regions: Sequence[Region]


def draw_map(
    record: Record,
    thumbnail: UInt8[np.ndarray, "h w 3"],
    path: Path,
    *,
    caption: str = "",
    details: Mapping[str | int, UInt8[np.ndarray, "_ _ 3"]] | None = None,
) -> None:
    """Draw where a model looked on a slide, and how much each place counted, as a PNG.

    Panels side by side (or below each other, where that is larger): the slide with what was
    visited, then the attention of each magnification, the patches zoomed into outlined.

    Args:
        record: a prediction.
        thumbnail: the part of the slide that `part_shown` tells, of any size.
        path: of the PNG; written whole or not at all.
        caption: a line below the title, as the bill.
        details: pixels of regions by their id, shown below with their rank.

    Raises:
        ValueError: the record has no regions, or one without its place.
    """
    _check(record)
    steps = range(len(record["steps"]))
    layout = Layout.of(part_shown(record), len(steps) + 1)
    slide = Image.fromarray(thumbnail).resize(layout.panel, Image.Resampling.LANCZOS)
    panels = [_overview(record, layout, slide)]
    panels += [_attention_panel(record, layout, slide, step) for step in steps]
    shown, room = details or {}, (layout.width + GAP) // (DETAIL_PX + GAP)
    attended = most_attended(record, len(record["regions"]))
    ranked = [region for region in attended if region["id"] in shown][:room]
    _number(panels[-1], layout, ranked)
    strip = [
        _detail(rank, region["score"], shown[region["id"]])
        for rank, region in enumerate(ranked, start=1)
    ]
    picture = map_layout.compose(layout, _title(record, layout), caption, panels, strip)
    with whole_file(path) as part:
        picture.save(part, format="PNG", compress_level=6)


def part_shown(record: Record) -> Box:
    """Give the part of the slide on which patches lie, and a margin; the rest is mostly glass."""
    lows = np.array([(each["x"], each["y"]) for each in record["regions"]])
    sides = np.array([(each["width"], each["height"]) for each in record["regions"]])
    low, high = lows.min(axis=0), (lows + sides).max(axis=0)
    margin = MARGIN_SHARE * (high - low).max()
    left, top = np.maximum(0, low - margin)
    right, bottom = np.minimum(record["slide"]["size"], high + margin)
    return Box(float(left), float(top), float(right - left), float(bottom - top))


def most_attended(record: Record, count: int) -> list[Region]:
    """List the regions of the sharpest magnification that counted most, highest first."""
    last = len(record["steps"]) - 1
    sharp = [each for each in record["regions"] if each["step"] == last and _looked_at(each)]
    return sorted(sharp, key=lambda region: -region["score"])[:count]


def _check(record: Record) -> None:
    """Refuse to invent places: a map of the wrong ones misleads."""
    name = record["slide"]["id"]
    if not record["regions"]:
        raise ValueError(f"{name}: the record has no regions to draw; predict the slide again.")
    for region in record["regions"]:
        missing = sorted(Region.__required_keys__ - region.keys())
        if missing:
            raise ValueError(
                f"{name}: a region of the record has no {', '.join(missing)}, so its place or "
                "weight is unknown; predict the slide again."
            )


def _title(record: Record, layout: Layout) -> str:
    """Say slide and answer in a line; a long name is shortened, the answer never."""
    answer = record["prediction"]
    said = f":  {answer['label']}, probability {answer['probabilities'][answer['label']]:.3g}"
    room = layout.width - ImageFont.load_default(map_layout.TITLE).getlength(said)
    return map_layout.fit(record["slide"]["id"], map_layout.TITLE, room) + said


def _square(layout: Layout, region: Region) -> tuple[slice, slice]:
    return layout.square(region["x"], region["y"], region["width"], region["height"])


def _overview(record: Record, layout: Layout, slide: Image.Image) -> Image.Image:
    """Draw the slide as it is, with the outline of what was visited at each magnification."""
    pixels = np.array(slide)
    for step in range(len(record["steps"])):
        visited = np.zeros(pixels.shape[:2], dtype=bool)
        for region in filter(_looked_at, _of_step(record, step)):
            visited[_square(layout, region)] = True
        pixels[_rim(visited)] = STEP_COLORS[step % len(STEP_COLORS)]
    panel, draw = map_layout.cell(layout, pixels, "slide, and what was looked at")
    place = map_layout.scale_bar(draw, layout, record["slide"]["mpp"])
    for index, looked in enumerate(record["steps"]):
        color = STEP_COLORS[index % len(STEP_COLORS)]
        place = map_layout.key(draw, place, color, f"{looked['magnification']:g}x")
    return panel


def _attention_panel(record: Record, layout: Layout, slide: Image.Image, step: int) -> Image.Image:
    """Draw the attention of one magnification over the slide in gray."""
    regions = _of_step(record, step)
    scores = np.array([region["score"] for region in regions], dtype=float)
    together = _together(record, step)
    low, high = _scale(together)
    gray = np.array(slide.convert("L"), dtype=float)[..., None] / 255
    pixels = np.repeat(255 * (0.55 + 0.45 * gray), 3, axis=2)
    # On white the color is the scale's own; tissue shows through as a slight shade.
    shade = 0.75 + 0.25 * gray
    shown = map_layout.colors((scores - low) / (high - low))
    for place in np.argsort(scores, kind="stable"):  # the highest on top
        square = _square(layout, regions[place])
        pixels[square] = shown[place] * shade[square]
    painted = np.rint(pixels).astype(np.uint8)
    chosen = [region for region in regions if region["selected"]]
    for region in chosen:
        _frame(painted, *_square(layout, region))
    panel, draw = map_layout.cell(layout, painted, _step_title(record["steps"][step]))
    beside = map_layout.color_bar(draw, layout, low, high, _range(scores, len(together)))
    if chosen:
        drawn = chosen[0].get("score_kind") == "probability"
        map_layout.key(draw, beside, CHOSEN, "looked at" if drawn else "zoomed into")
    return panel


def _together(record: Record, step: int) -> Float[np.ndarray, " n"]:
    """Give the scores that sum to 1 with those of a step: of the step, or of all magnifications."""
    alike = [
        region["score"]
        for region in record["regions"]
        if region["step"] == step or region.get("score_kind") == "probability"
    ]
    return np.array(alike, dtype=float)


def _scale(scores: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Give the scores of the palest and the darkest color.

    Pale is 0. Dark is the highest, but no less than STANDS_OUT times even attention, so that
    patches that count nearly alike look alike.
    """
    if not len(scores):
        return 0.0, 1.0
    return min(0.0, float(scores.min())), max(
        float(scores.max()), min(1.0, STANDS_OUT / len(scores))
    )


def _range(scores: Float[np.ndarray, " n"], among: int) -> str:
    if not len(scores):
        return "nothing was looked at"
    return f"{scores.min():.2g} to {scores.max():.2g}; evenly {1 / among:.2g}"


def _of_step(record: Record, step: int) -> list[Region]:
    return [region for region in record["regions"] if region["step"] == step]


def _looked_at(region: Region) -> bool:
    """Tell whether a region was read, and not only weighed by a thumbnail."""
    return region.get("order", 0) is not None


def _step_title(step: Step) -> str:
    patches = f"{step['patches']:,} patch{'es' * (step['patches'] != 1)}"
    return f"{step['magnification']:g}x, {step['mpp']:.2f} um/px, {patches}"


def _frame(pixels: Pixels, rows: slice, columns: slice) -> None:
    """Outline a square on its inside; a tiny one on its outside, so that its color stays."""
    width = 1 if rows.stop - rows.start < 14 else 2
    grow = width if rows.stop - rows.start < 8 else 0
    top, bottom = max(0, rows.start - grow), rows.stop + grow
    left, right = max(0, columns.start - grow), columns.stop + grow
    pixels[top : top + width, left:right] = CHOSEN
    pixels[bottom - width : bottom, left:right] = CHOSEN
    pixels[top:bottom, left : left + width] = CHOSEN
    pixels[top:bottom, right - width : right] = CHOSEN


def _rim(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Give the rim of an area, two pixels wide, on its inside."""
    inside = mask.copy()
    for _ in range(2):
        around = np.pad(inside, 1)
        inside &= around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    rim: Bool[np.ndarray, "h w"] = mask & ~inside
    return rim


def _detail(rank: int, score: float, pixels: Pixels) -> Image.Image:
    """Draw a patch under its rank and attention."""
    tile = Image.new("RGB", (DETAIL_PX, DETAIL_PX + HEADER), "white")
    draw = ImageDraw.Draw(tile)
    draw.text((0, 8), f"#{rank}   attention {score:.2g}", INK, ImageFont.load_default(RANK))
    shown = Image.fromarray(pixels).resize((DETAIL_PX, DETAIL_PX), Image.Resampling.LANCZOS)
    tile.paste(shown, (0, HEADER))
    draw.rectangle((0, HEADER, DETAIL_PX - 1, HEADER + DETAIL_PX - 1), outline=map_layout.FAINT)
    return tile


def _number(panel: Image.Image, layout: Layout, ranked: Sequence[Region]) -> None:
    """Write the rank of shown patches on their place, or where a line leads from a small one."""
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(RANK)
    taken: list[tuple[float, float, float, float]] = []
    for rank, region in enumerate(ranked, start=1):
        rows, columns = _square(layout, region)
        center = (columns.start + columns.stop) / 2, HEADER + (rows.start + rows.stop) / 2
        small = columns.stop - columns.start < ROOMY
        at = (columns.stop + 2 * RANK, center[1] - RANK) if small else center
        box = draw.textbbox(at, str(rank), font, anchor="mm", stroke_width=2)
        if any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        if small:
            draw.line((center, at), INK)
        draw.text(at, str(rank), INK, font, anchor="mm", stroke_width=2, stroke_fill="white")


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
