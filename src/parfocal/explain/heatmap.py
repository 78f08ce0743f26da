"""Draw a prediction as a map over the slide: one PNG, one panel per magnification.

A map is drawn from a prediction's record and a thumbnail, so it can be drawn again from a saved
JSON. Lightness falls evenly along the color scale, so the map reads the same in gray and for the
color-blind. Scores are shown raw, on one scale per magnification; sampling probabilities, which
sum to 1 over all magnifications, share one scale.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from parfocal.explain import map_layout
from parfocal.explain.map_layout import GAP, HEADER, INK, Color, Layout
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import Region
from parfocal.explain.whole_slide import whole_slide_panel
from parfocal.files import whole_file
from parfocal.slide.slide import Box

SELECTED: Color = (213, 94, 0)  # vermilion: unlike every color of the scale and of H&E
STEP_COLORS: tuple[Color, ...] = ((110, 110, 110), (0, 114, 178), (213, 94, 0), (0, 0, 0))
SCALE_MULTIPLE = 4  # the scale reaches at least this multiple of uniform attention
DETAIL_PX = 200
RANK_SIZE = 16  # font size of a rank
MIN_LABELED_PX = 18  # narrower patches have their rank beside them
MARGIN_SHARE = 0.05  # of the longer side, around the regions
SCORE_NAMES = {
    "attention": "attention",
    "uniform": "attention",
    "sampling_probability": "probability",
    "class_probability": "probability",
}

Pixels = UInt8[np.ndarray, "h w 3"]


def draw_map(
    record: PredictionRecord,
    thumbnail: UInt8[np.ndarray, "h w 3"],
    path: Path,
    *,
    whole: UInt8[np.ndarray, "_ _ 3"] | None = None,
    details: Mapping[str, UInt8[np.ndarray, "_ _ 3"]] | None = None,
) -> None:
    """Draw the visited patches and their scores over a slide, as a PNG.

    The first panel shows the whole slide, with the tissue that was not visited or is out of reach.
    The second shows the part with patches, with outlines around the visited areas. Each further
    panel shows the scores at one magnification, with the patches that were zoomed into outlined.

    Args:
        record: a prediction.
        thumbnail: pixels of `visible_box(record)`, of any size.
        path: the PNG to write; written completely or not at all.
        whole: pixels of the whole slide, of any size; None to leave the first panel out.
        details: pixels of regions by id, drawn below the panels with their rank.

    Raises:
        ValueError: the record has no regions.
    """
    if not record.regions:
        raise ValueError(
            f"{record.slide.id}: the record has no regions to draw; predict the slide again."
        )
    steps = range(len(record.mpps))
    layout = Layout.fitting(visible_box(record), len(steps) + (1 if whole is None else 2))
    slide = Image.fromarray(thumbnail).resize(layout.panel, Image.Resampling.LANCZOS)
    panels = [] if whole is None else [whole_slide_panel(record, layout, whole)]
    panels += [_overview(record, layout, slide)]
    panels += [_score_panel(record, layout, slide, step) for step in steps]
    pixels, capacity = details or {}, (layout.width + GAP) // (DETAIL_PX + GAP)
    top = record.top_regions(len(record.regions))
    ranked = [region for region in top if region.id in pixels][:capacity]
    _draw_ranks(panels[-1], layout, ranked)
    strip = [
        _detail(rank, region, pixels[region.id]) for rank, region in enumerate(ranked, start=1)
    ]
    picture = map_layout.compose(layout, _title(record, layout), record.bill, panels, strip)
    with whole_file(path) as part:
        picture.save(part, format="PNG", compress_level=6)


def visible_box(record: PredictionRecord) -> Box:
    """Return the part of the slide that a map shows: all regions, with a margin around them."""
    lows = np.array([(region.x, region.y) for region in record.regions])
    sides = np.array([(region.width, region.height) for region in record.regions])
    low, high = lows.min(axis=0), (lows + sides).max(axis=0)
    margin = MARGIN_SHARE * (high - low).max()
    left, top = np.maximum(0, low - margin)
    right, bottom = np.minimum(record.slide.size, high + margin)
    return Box(float(left), float(top), float(right - left), float(bottom - top))


def _title(record: PredictionRecord, layout: Layout) -> str:
    """Return the slide and the prediction in one line; a long slide name is shortened."""
    prediction = f":  {record.label}"
    if record.probabilities:
        prediction += f", probability {record.probabilities[record.label]:.3g}"
    width = layout.width - ImageFont.load_default(map_layout.TITLE).getlength(prediction)
    return map_layout.shorten(record.slide.id, map_layout.TITLE, width) + prediction


def _pixel_slices(layout: Layout, region: Region) -> tuple[slice, slice]:
    return layout.pixel_slices(region.x, region.y, region.width, region.height)


def _overview(record: PredictionRecord, layout: Layout, slide: Image.Image) -> Image.Image:
    """Draw the slide, with an outline around the area visited at each magnification."""
    pixels = np.array(slide)
    for step in range(len(record.mpps)):
        visited = np.zeros(pixels.shape[:2], dtype=bool)
        for region in record.regions_at(step):
            if region.visited:
                visited[_pixel_slices(layout, region)] = True
        pixels[_rim(visited)] = STEP_COLORS[step % len(STEP_COLORS)]
    panel, draw = map_layout.titled_panel(layout, pixels, "visited areas, outlined")
    position = map_layout.scale_bar(draw, layout, record.slide.mpp)
    for step, mpp in enumerate(record.mpps):
        color = STEP_COLORS[step % len(STEP_COLORS)]
        position = map_layout.key(draw, position, color, f"{record.magnification_at(mpp):g}x")
    return panel


def _score_panel(
    record: PredictionRecord, layout: Layout, slide: Image.Image, step: int
) -> Image.Image:
    """Draw the scores of one magnification over the slide in gray."""
    regions = record.regions_at(step)
    scores = np.array([region.score for region in regions], dtype=float)
    normalized = _scores_of_sum_1(record, step)
    low, high = _scale_limits(normalized)
    pixels = _painted(layout, slide, regions, (scores - low) / (high - low))
    selected = [region for region in regions if region.selected]
    for region in selected:
        _frame(pixels, *_pixel_slices(layout, region))
    panel, draw = map_layout.titled_panel(layout, pixels, _step_title(record, step))
    name = SCORE_NAMES[regions[0].score_kind] if regions else "attention"
    note = _score_range(scores, len(normalized))
    position = map_layout.color_bar(draw, layout, (low, high), name, note)
    if selected:
        sampled = selected[0].score_kind == "sampling_probability"
        map_layout.key(draw, position, SELECTED, "visited" if sampled else "zoomed into")
    return panel


def _painted(
    layout: Layout, slide: Image.Image, regions: Sequence[Region], shares: Float[np.ndarray, " n"]
) -> Pixels:
    """Paint regions over the slide in gray, in the colors of `shares` of the scale."""
    gray = np.array(slide.convert("L"), dtype=float)[..., None] / 255
    pixels = np.repeat(255 * (0.55 + 0.45 * gray), 3, axis=2)
    shade = 0.75 + 0.25 * gray  # 1 on glass; tissue stays visible as a slight shade
    colors = map_layout.scale_colors(shares)
    for index in np.argsort(shares, kind="stable"):  # the highest on top
        slices = _pixel_slices(layout, regions[index])
        pixels[slices] = colors[index] * shade[slices]
    return np.rint(pixels).astype(np.uint8)


def _scores_of_sum_1(record: PredictionRecord, step: int) -> Float[np.ndarray, " n"]:
    """Return the scores that sum to 1 with those of a step: of this step, or of all steps."""
    scores = [
        region.score
        for region in record.regions
        if region.step == step or region.score_kind == "sampling_probability"
    ]
    return np.array(scores, dtype=float)


def _scale_limits(scores: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the scores of the palest and the darkest color.

    The scale runs from 0 to the highest score, but at least to SCALE_MULTIPLE times uniform
    attention, so that patches with nearly equal scores look alike.
    """
    if not len(scores):
        return 0.0, 1.0
    least, most = float(scores.min()), float(scores.max())
    return min(0.0, least), max(most, min(1.0, SCALE_MULTIPLE / len(scores)))


def _score_range(scores: Float[np.ndarray, " n"], count: int) -> str:
    if not len(scores):
        return "no patch was visited"
    return f"{scores.min():.2g} to {scores.max():.2g}; uniform would be {1 / count:.2g}"


def _step_title(record: PredictionRecord, step: int) -> str:
    mpp, visited = record.mpps[step], sum(region.visited for region in record.regions_at(step))
    patches = f"{visited:,} patch{'es' * (visited != 1)}"
    return f"{record.magnification_at(mpp):g}x, {mpp:.2f} um/px, {patches}"


def _frame(pixels: Pixels, rows: slice, columns: slice) -> None:
    """Outline a square inside its edge; a tiny one outside, so that its color stays visible."""
    width = 1 if rows.stop - rows.start < 14 else 2
    grow = width if rows.stop - rows.start < 8 else 0
    top, bottom = max(0, rows.start - grow), rows.stop + grow
    left, right = max(0, columns.start - grow), columns.stop + grow
    pixels[top : top + width, left:right] = SELECTED
    pixels[bottom - width : bottom, left:right] = SELECTED
    pixels[top:bottom, left : left + width] = SELECTED
    pixels[top:bottom, right - width : right] = SELECTED


def _rim(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of an area that lie within two pixels of its edge."""
    inside = mask.copy()
    for _ in range(2):
        padded = np.pad(inside, 1)
        inside &= padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rim: Bool[np.ndarray, "h w"] = mask & ~inside
    return rim


def _detail(rank: int, region: Region, pixels: Pixels) -> Image.Image:
    """Draw a patch below its rank and score."""
    tile = Image.new("RGB", (DETAIL_PX, DETAIL_PX + HEADER), "white")
    draw = ImageDraw.Draw(tile)
    text = f"#{rank}   {SCORE_NAMES[region.score_kind]} {region.score:.2g}"
    draw.text((0, 8), text, INK, ImageFont.load_default(RANK_SIZE))
    patch = Image.fromarray(pixels).resize((DETAIL_PX, DETAIL_PX), Image.Resampling.LANCZOS)
    tile.paste(patch, (0, HEADER))
    draw.rectangle((0, HEADER, DETAIL_PX - 1, HEADER + DETAIL_PX - 1), outline=map_layout.FAINT)
    return tile


def _draw_ranks(panel: Image.Image, layout: Layout, ranked: Sequence[Region]) -> None:
    """Write ranks on patches; beside a small patch, with a line that leads to it."""
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(RANK_SIZE)
    occupied: list[tuple[float, float, float, float]] = []
    for rank, region in enumerate(ranked, start=1):
        rows, columns = _pixel_slices(layout, region)
        center = (columns.start + columns.stop) / 2, HEADER + (rows.start + rows.stop) / 2
        small = columns.stop - columns.start < MIN_LABELED_PX
        at = (columns.stop + 2 * RANK_SIZE, center[1] - RANK_SIZE) if small else center
        box = draw.textbbox(at, str(rank), font, anchor="mm", stroke_width=2)
        if any(_overlap(box, other) for other in occupied):
            continue
        occupied.append(box)
        if small:
            draw.line((center, at), INK)
        draw.text(at, str(rank), INK, font, anchor="mm", stroke_width=2, stroke_fill="white")


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
