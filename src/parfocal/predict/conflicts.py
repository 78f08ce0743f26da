"""Refuse to replace the prediction of another slide; warn of predictions by another model."""

import logging
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path

from parfocal.explain.read_record import RecordError, read_prediction
from parfocal.explain.record_parts import ModelFacts
from parfocal.files import OutputError
from parfocal.printable import counted
from parfocal.slide.errors import SlideError
from parfocal.slide.identity import file_fingerprint, slide_id
from parfocal.slide.sources.url import SlidePath, recorded_path

logger = logging.getLogger(__name__)


def refuse_other_slides(paths: Sequence[SlidePath], out: Path, *, replace: bool = False) -> None:
    """Refuse slides whose results would replace those of other slides in a folder.

    Args:
        paths: slides to predict.
        out: folder of predictions.
        replace: whether results of other slides may be replaced.

    Raises:
        OutputError: `out` has the prediction of another slide under the name of one of the slides.
    """
    if replace:
        return
    for path in paths:
        try:
            stored = out / f"{slide_id(path)}.json"
            if not stored.exists():
                continue
            slide = read_prediction(stored).slide
        except (RecordError, SlideError, OSError, RuntimeError, ValueError):
            continue  # nothing is lost, or the slide has an impossible name and fails by itself
        if not _is_same(path, slide.path, slide.fingerprint):
            raise OutputError(
                f"{stored}: this is the prediction of another slide, {slide.path}, which {path} "
                "would replace. Choose another --out, or replace it with --replace."
            )


def warn_of_other_models(names: Container[str], out: Path, model: ModelFacts) -> None:
    """Warn if a folder has predictions by another model or with other settings.

    Args:
        names: ids of the slides to predict.
        out: folder of predictions.
        model: the model.
    """
    others: dict[bool, list[str]] = {True: [], False: []}
    for stored in sorted(out.glob("*.json")):
        with suppress(RecordError, OSError):
            if read_prediction(stored).model != model:
                others[stored.stem in names].append(stored.name)
    for are_replaced, found in others.items():
        if found:
            logger.warning(
                "%s has %s by another model, with other settings or by another version of "
                "parfocal, such as %s; %s",
                *(out, counted(len(found), "prediction"), found[0]),
                "predictions are replaced if their slides can be predicted"
                if are_replaced
                else "predictions.csv keeps their rows; use another --out to separate models",
            )


def _is_same(path: SlidePath, recorded: str | None, fingerprint: str) -> bool:
    """Return whether a file is a recorded slide: still in its place, or with the same content."""
    if recorded is not None and recorded == recorded_path(path):
        return True
    try:
        return file_fingerprint(path) == fingerprint
    except (SlideError, OSError, RuntimeError, ValueError):
        return True  # the slide fails by itself, and replaces nothing
