"""Predict many slides into a folder: a JSON and pictures per slide, and one table of all slides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.outlines import Outlines, read_outlines
from parfocal.encoders.device import choose_device
from parfocal.encoders.encoder import Encoder
from parfocal.explain.pictures import draw_pictures
from parfocal.explain.record import PredictionRecord
from parfocal.files import write_whole
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import SquareReader
from parfocal.predict import table
from parfocal.predict.slide import classify
from parfocal.progress import Progress
from parfocal.slide.errors import SlideError
from parfocal.slide.identity import slide_id
from parfocal.slide.slide import open_slide


@dataclass(frozen=True)
class FailedSlide:
    """A slide that could not be predicted.

    Args:
        path: the slide file.
        reason: why it failed.
    """

    path: Path
    reason: str


def predict_slides(
    paths: Sequence[Path],
    trained: Checkpoint,
    out: Path,
    *,
    mpp: float | None = None,
    device: str = "auto",
    outlines: Mapping[Path, Path] | None = None,
) -> Iterator[PredictionRecord | FailedSlide]:
    """Predict slides one after the other, and write the results to a folder.

    Each slide gets `<id>.json` and `<id>.png`, and a model whose squares form a tree also gets
    `<id>-leaves.png` and `<id>-filter.png`. A slide that fails is yielded as a `FailedSlide`, and
    the next one follows. At the end, also after an interruption, `predictions.csv` lists all
    slides; it keeps the rows that earlier calls wrote for other slides.

    Args:
        paths: slide files.
        trained: the trained model.
        out: folder to write to. Files that an earlier call wrote for the same slides are replaced.
        mpp: µm per level-0 pixel of every slide, for files that do not record it.
        device: where the encoder and the model run, such as "cpu" or "cuda"; "auto" chooses.
        outlines: files of lesion outlines by slide file, drawn on the leaves.

    Yields:
        The record of each slide, or the reason why it failed.

    Raises:
        ValueError: two slides have the same name, outlines are given for a model without leaves,
            or `out` holds predictions of other classes.
        CohortError: an outlines file cannot be read.
        OSError: `out` cannot be written to.
    """
    _refuse_duplicates(paths)
    if outlines is not None and not trained.traits.has_leaves:
        raise ValueError(
            f"model {trained.model_name} has no leaves to draw outlines on; leave the outlines out."
        )
    files = {slide.resolve(): file for slide, file in (outlines or {}).items()}
    lesions = {p: read_outlines(files[p.resolve()]) for p in paths if p.resolve() in files}
    predictions = out / "predictions.csv"
    earlier = table.read_rows(predictions, trained.labels)
    out.mkdir(parents=True, exist_ok=True)
    encoder = trained.load_encoder(device=device)
    trained.model.to(choose_device(device))
    rows: dict[str, list[str]] = {}
    progress = Progress("predicting", len(paths))
    try:
        for path in paths:
            outlined = lesions.get(path)
            result = _predict_into(out, path, trained, encoder, mpp=mpp, outlines=outlined)
            rows[slide_id(path)] = _row(result, trained.labels)
            if isinstance(result, FailedSlide):
                progress.fail(path.name)
            else:
                progress.advance(path.name)
            yield result
    finally:
        table.write_rows(predictions, trained.labels, (earlier | rows).values())


def _predict_into(
    out: Path,
    path: Path,
    trained: Checkpoint,
    encoder: Encoder | None,
    *,
    mpp: float | None,
    outlines: Outlines | None,
) -> PredictionRecord | FailedSlide:
    """Predict one slide and write its JSON and pictures."""
    model = trained.model
    gray_spread = model.gray_spread if isinstance(model, SquareReader) else 0
    lesions = () if outlines is None else [polygon.outer for polygon in outlines.polygons]
    try:
        with open_slide(path, mpp=mpp) as slide:
            record = classify(slide, trained, encoder)  # its cost does not include the pictures
            draw_pictures(record, slide, out, gray_spread=gray_spread, lesions=lesions)
    except SlideError as error:
        return FailedSlide(path, str(error))
    write_whole(out / f"{record.slide.id}.json", record.to_json().encode())
    return record


def _row(result: PredictionRecord | FailedSlide, labels: Sequence[str]) -> list[str]:
    if isinstance(result, FailedSlide):
        return table.failed_row(result.path, result.reason, labels)
    return table.row(result, labels)


def _refuse_duplicates(paths: Sequence[Path]) -> None:
    """Refuse slides whose files would be written under the same name."""
    by_id: dict[str, Path] = {}
    for path in paths:
        name = slide_id(path)
        if by_id.get(name) == path:
            raise ValueError(f"{path}: the slide is listed twice; list it once.")
        if name in by_id:
            raise ValueError(
                f"{by_id[name]} and {path} would both be written as {name!r}; predict them into "
                "different folders."
            )
        by_id[name] = path
