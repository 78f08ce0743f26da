"""A slide file -> a prediction: the whole path on one page.

`predict` answers for one slide, `predict_slides` for many, any of which may be damaged.
"""

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from parfocal.bag import Prediction, run_model
from parfocal.cost import ExhaustiveCost, count_macs
from parfocal.dataset.outlines import Outlines, read_outlines
from parfocal.encoders.allocator import keep_freed_memory
from parfocal.encoders.encoder import Encoder, choose_device
from parfocal.explain import descent, heatmap
from parfocal.explain.record import (
    ModelFacts,
    PredictionRecord,
    SlideFacts,
    mpps_of,
    regions_of,
    with_running_probabilities,
)
from parfocal.features.slide_input import SlideInput, opened
from parfocal.features.timing import WaitTimer, clocked
from parfocal.files import write_whole
from parfocal.grid import GridError, UnfitError
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.magnet import MagNet
from parfocal.slide.errors import SlideError
from parfocal.slide.resolution import magnification_asked
from parfocal.slide.slide import Box, Slide, open_slide, slide_id

THUMBNAIL_PX = 1024  # longest side
DETAILS = 6  # sharp patches shown below a map

Pixels = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True)
class FailedSlide:
    """A slide without a prediction, and why."""

    path: Path
    reason: str


def predict(
    path: Path, trained: Checkpoint, *, mpp: float | None = None, encoder: Encoder | None = None
) -> PredictionRecord:
    """Classify one slide file, reading sharp pixels only where the model zooms in.

    Args:
        path: the slide file.
        trained: what classifies.
        mpp: microns per level-0 pixel, for a file that does not say.
        encoder: that of `trained`, where it is loaded already.

    Raises:
        SlideError: the slide cannot be read as the model needs it.
    """
    encoder = encoder or trained.load_encoder()
    with open_slide(path, mpp=mpp) as slide:
        return classify(slide, trained, encoder)


def classify(slide: Slide, trained: Checkpoint, encoder: Encoder | None) -> PredictionRecord:
    """Classify an open slide; see `predict`."""
    try:
        with opened(
            slide,
            trained.slide,
            encoder,
            skip_unavailable_magnifications=trained.skip_unavailable_magnifications,
        ) as given:
            answer = _ask(trained.model, given)
    except UnfitError as error:
        raise SlideError(f"{slide.name}: {error.for_model(trained.magnifications)}") from error
    except GridError as error:
        raise SlideError(f"{slide.name}: {error}") from error
    looks = given.locate(answer.looks)
    running = () if answer.running is None else answer.running
    between = [_by_label(trained.labels, each) for each in running]
    return PredictionRecord(
        slide=_slide_facts(slide),
        model=_model_facts(trained),
        probabilities=_by_label(trained.labels, answer.logits.softmax(dim=0)),
        stop_reason=answer.stop_reason,
        mpps=mpps_of(looks),
        regions=tuple(with_running_probabilities(tuple(regions_of(looks)), between)),
        cost=slide.bill.close(_everything(slide, given, trained, encoder)),
    )


def predict_slides(
    paths: Sequence[Path],
    trained: Checkpoint,
    out: Path,
    *,
    mpp: float | None = None,
    device: str = "auto",
    outlines: Mapping[Path, Path] | None = None,
) -> Iterator[PredictionRecord | FailedSlide]:
    """Classify slides one after the other, and write what is found of each.

    A slide that cannot be read is given as a `FailedSlide`, and the next one follows. Of the
    others `<id>.json` and `<id>.png` are written, whole or not at all; in the end, also upon
    an interruption, `predictions.csv` lists all that were tried, below those of earlier calls.
    Of MagNet, `<id>-leaves.png` and `<id>-filter.png`, too.

    Args:
        paths: slide files.
        trained: what classifies.
        out: folder to write to; what an earlier call wrote of the same slides is replaced.
        mpp: microns per level-0 pixel of every slide, for files that do not say.
        device: where encoder and model run.
        outlines: files of known lesions by slide file, to be drawn on MagNet's leaves.

    Raises:
        ValueError: two slides would be written under one name, the model has no leaves, or `out`
            holds predictions of other classes.
        CohortError: a file of outlines cannot be read.
        OSError: `out` cannot be written to.
    """
    _refuse_twins(paths)
    if outlines is not None and not isinstance(trained.model, MagNet):
        raise ValueError(
            f"outlines are drawn on the leaves of MagNet, and model {trained.model_name} has "
            "none; leave them out."
        )
    known = {slide.resolve(): file for slide, file in (outlines or {}).items()}
    lesions = {p: read_outlines(known[p.resolve()]) for p in paths if p.resolve() in known}
    table = out / "predictions.csv"
    earlier = _rows_there(table, trained.labels)
    out.mkdir(parents=True, exist_ok=True)
    encoder = trained.load_encoder(device=device)
    if encoder is None:  # the model encodes by itself, and has large activations
        keep_freed_memory()
    trained.model.to(choose_device(device))
    tried: list[PredictionRecord | FailedSlide] = []
    try:
        for path in paths:
            drawn = lesions.get(path)
            tried.append(_predict_into(out, path, trained, encoder, mpp=mpp, lesions=drawn))
            yield tried[-1]
    finally:
        rows = earlier | {row[0]: row for row in _rows(tried, trained.labels)}
        write_whole(table, _csv([_header(trained.labels), *rows.values()]).encode())


def _predict_into(
    out: Path,
    path: Path,
    trained: Checkpoint,
    encoder: Encoder | None,
    *,
    mpp: float | None,
    lesions: Outlines | None,
) -> PredictionRecord | FailedSlide:
    try:
        with open_slide(path, mpp=mpp) as slide:
            record = classify(slide, trained, encoder)
            # The bill is closed: what is read for the picture is not part of the answer.
            if isinstance(trained.model, MagNet):
                _draw_squares(record, slide, trained.model.gray_spread, lesions, out)
            else:
                _draw_map(record, slide, out / f"{record.slide.id}.png")
    except SlideError as error:
        return FailedSlide(path, str(error))
    write_whole(out / f"{record.slide.id}.json", record.to_json().encode())
    return record


def _draw_map(record: PredictionRecord, slide: Slide, picture: Path) -> None:
    """Draw where the model looked, and how much each place counted."""
    map_record = cast(heatmap.Record, record.to_dict())
    thumbnail, details = _pictures(slide, map_record)
    heatmap.draw_map(map_record, thumbnail, picture, caption=record.bill, details=details)


def _draw_squares(
    record: PredictionRecord, slide: Slide, gray_spread: int, lesions: Outlines | None, out: Path
) -> None:
    """Draw squares within squares, their leaves, and what the gray filter leaves."""
    name = record.slide.id
    rings = [] if lesions is None else [polygon.outer for polygon in lesions.polygons]
    descent.draw_descent(record, slide, out / f"{name}.png", gray_spread=gray_spread)
    descent.draw_leaves(record, slide, out / f"{name}-leaves.png", lesions=rings)
    descent.draw_filtered([slide], out / f"{name}-filter.png", gray_spread=gray_spread)


def _ask(model: nn.Module, given: SlideInput) -> Prediction:
    """Run a model; the seconds in which it waits for features or pixels are not its own."""
    waits, start = WaitTimer(), time.perf_counter()
    with torch.no_grad(), given.bill.counted():
        (answer,) = run_model(model, [clocked(given.given, waits)]).slides
    for step, look in enumerate(answer.looks):
        if look.score_kind == "running":  # sampled from what was read for the step before
            given.bill.add_patches(step, len(look.rows))
    given.bill.add_seconds("model", time.perf_counter() - start - waits.seconds)
    return answer


def _by_label(labels: Sequence[str], chances: Float[Tensor, " c"]) -> dict[str, float]:
    return dict(zip(labels, chances.tolist(), strict=True))


def _everything(
    slide: Slide, given: SlideInput, trained: Checkpoint, encoder: Encoder | None
) -> ExhaustiveCost:
    """Tell what looking at every patch of the sharpest magnification would have cost."""
    sharpest, side = given.sharpest, trained.patch_size
    assert sharpest is not None
    stored = slide.mpp * slide.levels[slide.level_for(sharpest.mpp)].downsample
    if encoder is None:
        assert isinstance(trained.model.encode, nn.Module)
        macs = count_macs(trained.model.encode, (1, 3, side, side))
    else:
        macs = encoder.macs_per_patch(side)
    return ExhaustiveCost(
        magnification=magnification_asked(sharpest.mpp, trained.magnifications),
        patches=sharpest.patches,
        descendants=sharpest.descendants,
        macs=sharpest.patches * macs,
        pixels=sharpest.patches * round(side * sharpest.mpp / stored) ** 2,
    )


def _slide_facts(slide: Slide) -> SlideFacts:
    return SlideFacts(
        id=slide.id,
        path=None if slide.path is None else str(slide.path.absolute()),
        fingerprint=slide.fingerprint,
        size=slide.size,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
    )


def _model_facts(trained: Checkpoint) -> ModelFacts:
    return ModelFacts(
        name=trained.model_name,
        weights_sha256=trained.weights_hash,
        encoder=None if trained.encoder is None else trained.encoder.name,
        encoder_weights_sha256=None if trained.encoder is None else trained.encoder.weights_hash,
        magnifications=trained.magnifications,
        patch_size=trained.patch_size,
        parfocal=version("parfocal"),
    )


def _pictures(slide: Slide, record: heatmap.Record) -> tuple[Pixels, dict[str | int, Pixels]]:
    """Read the part that is shown, small, and the sharpest patches that counted most."""
    part = heatmap.part_shown(record)
    shrunk = max(1.0, max(part.width, part.height) / THUMBNAIL_PX)
    thumbnail = slide.read(part, slide.mpp * shrunk)
    details = {}
    for region in heatmap.most_attended(record, DETAILS):
        box = Box(region["x"], region["y"], region["width"], region["height"])
        details[region["id"]] = slide.read(box, record["steps"][region["step"]]["mpp"])
    return thumbnail, details


def _refuse_twins(paths: Sequence[Path]) -> None:
    by_id: dict[str, Path] = {}
    for path in paths:
        name = slide_id(path)
        if by_id.get(name) == path:
            raise ValueError(f"{path}: the slide is given twice; give it once.")
        if name in by_id:
            raise ValueError(
                f"{by_id[name]} and {path} would both be written as {name!r}; predict them into "
                "different folders."
            )
        by_id[name] = path


def _header(labels: Sequence[str]) -> list[str]:
    return ["slide_id", "path", "predicted", *(f"prob_{label}" for label in labels), "failed"]


def _rows_there(table: Path, labels: Sequence[str]) -> dict[str, list[str]]:
    """Read what earlier calls told, by slide: their rows, failed ones too, are still true."""
    if not table.exists():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if header != _header(labels):
        raise ValueError(
            f"{table}: its columns are {', '.join(header)}, and this model's classes are "
            f"{', '.join(labels)}; predict into another folder."
        )
    return {row[0]: row for row in rows}


def _rows(
    tried: Sequence[PredictionRecord | FailedSlide], labels: Sequence[str]
) -> Iterator[list[str]]:
    """Give a row a slide, of which a failed one has only its reason."""
    for slide in tried:
        if isinstance(slide, FailedSlide):
            path, blank = str(slide.path.absolute()), [""] * (1 + len(labels))
            yield [slide_id(slide.path), path, *blank, slide.reason]
        else:
            chances = [f"{slide.probabilities[label]:.6f}" for label in labels]
            yield [slide.slide.id, slide.slide.path or "", slide.label, *chances, ""]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
