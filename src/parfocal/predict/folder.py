"""Predict many slides into a folder: a JSON and pictures per slide, and one table of all slides."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from parfocal.dataset.lesions import Lesions
from parfocal.dataset.outlines_file import OutlinesFile
from parfocal.encoders.device import choose_device
from parfocal.encoders.encoder import Encoder
from parfocal.explain.export import Exports, export
from parfocal.explain.pictures import draw_pictures, picture_files
from parfocal.explain.read_record import RecordError, read_prediction
from parfocal.explain.record import ModelFacts, PredictionRecord
from parfocal.features.slide_input import BagInput
from parfocal.files import refuse_slide_folder, write_whole
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import SquareReader
from parfocal.predict import table
from parfocal.predict.conflicts import refuse_other_slides
from parfocal.predict.facts import model_facts
from parfocal.predict.slide import classify, classify_stored
from parfocal.progress import Progress
from parfocal.slide.failure import catch_failure
from parfocal.slide.given_tissue import tissue_fingerprint
from parfocal.slide.identity import file_fingerprint, slide_id
from parfocal.slide.listing import list_slides, may_be_slide
from parfocal.slide.resolution import check_mpp
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.sources.url import SlidePath, recorded_path, slide_key


@runtime_checkable
class StoredBags(Protocol):
    """Opens the stored features of slides."""

    def open(self, slide: Slide, mpp: float | None) -> AbstractContextManager[BagInput]:
        """Open the features of a slide for the duration of a `with` block."""


@dataclass(frozen=True)
class FailedSlide:
    """A slide that could not be predicted.

    Args:
        path: the slide file or URL.
        reason: why it failed, in at most 500 characters.
    """

    path: SlidePath
    reason: str


def predict_slides(
    paths: Sequence[SlidePath],
    trained: Checkpoint,
    out: Path,
    *,
    mpp: float | None = None,
    device: str = "auto",
    outlines: Mapping[SlidePath, OutlinesFile] | None = None,
    tissue: Mapping[SlidePath, Path] | None = None,
    exports: Exports | None = None,
    again: bool = False,
    replace: bool = False,
    features: Path | Mapping[float, Path] | None = None,
) -> Iterator[PredictionRecord | FailedSlide]:
    """Predict slides one after the other, and write the results to a folder.

    Each slide gets `<id>.json` and `<id>.png`, and a model whose squares form a tree also gets
    `<id>-leaves.png` and `<id>-filter.png`. Whatever goes wrong with a slide, it is yielded as a
    `FailedSlide`, and the next one follows. At the end, also after an interruption,
    `predictions.csv` lists all slides; it keeps the rows that earlier calls wrote for other slides.

    A slide that an earlier call predicted with the same model and settings is not predicted again
    while its file is unchanged.

    Args:
        paths: slide files, folders of slides, and URLs; one that is listed twice, as the files of a
            DICOM series are, is predicted once.
        trained: the trained model.
        out: folder to write to.
        mpp: µm per level-0 pixel of every slide, for files that do not record it.
        device: where the encoder and the model run, such as "cpu" or "cuda"; "auto" chooses.
        outlines: files of lesion outlines by slide file, drawn on the leaves.
        tissue: files of the tissue by slide file; the tissue of the other slides is found.
        exports: which files for other viewers to write, too; None for none.
        again: whether to predict slides again that an earlier call has predicted.
        replace: whether predictions in `out` of other slides with the same names may be replaced.
        features: folder of features by parfocal or by another tool, or folders by magnification;
            None to encode the slides. With stored features, slide files are read for pictures only.

    Yields:
        The record of each slide, or the reason why it failed.

    Raises:
        ValueError: two slides have the same name, outlines are given for a model without leaves,
            or `out` holds predictions of other classes.
        CohortError: an outlines file cannot be read.
        OutputError: `out` holds the slides, or the prediction of another slide with the same name.
        OSError: `out` cannot be written to, or the disk is full.
    """
    paths = list_slides(paths)
    by_name = _by_name(paths)
    if mpp is not None:
        check_mpp(mpp)
    if outlines is not None and not trained.traits.has_leaves:
        raise ValueError(
            f"model {trained.model_name} has no leaves to draw outlines on; leave the outlines out."
        )
    asked = {slide_key(path) for path in paths}
    files = {slide_key(slide): file for slide, file in (outlines or {}).items()}
    lesions = Lesions({slide: file for slide, file in files.items() if slide in asked})
    refuse_slide_folder(out, paths)
    table.read_rows(out / table.TABLE_FILE, trained.labels)  # raises for other classes
    refuse_other_slides(tuple(by_name.values()), out, replace=replace)
    out.mkdir(parents=True, exist_ok=True)
    predictor = _FolderPredictor(
        *(trained, out, mpp, device, lesions, dict(tissue or {}), exports or Exports(), again),
        None if features is None else _stored_inputs(features, trained, device, paths, mpp),
    )
    rows: dict[str, list[str]] = {}
    progress = Progress("predicting", len(paths))
    try:
        for path in paths:
            result = predictor.result(path, progress)
            if by_name[slide_id(path)] == path:
                rows[slide_id(path)] = _row(result, trained.labels)
            yield result
    finally:
        table.update(out, trained.labels, rows)


@dataclass(frozen=True)
class _FolderPredictor:
    """Predicts slides into a folder; see `predict_slides` for the arguments."""

    trained: Checkpoint
    out: Path
    mpp: float | None
    device: str
    lesions: Lesions
    tissue: Mapping[SlidePath, Path]
    exports: Exports
    again: bool
    stored: StoredBags | None

    def result(self, path: SlidePath, progress: Progress) -> PredictionRecord | FailedSlide:
        """Predict one slide unless that is done, and write its files; its JSON comes last."""
        with catch_failure(path.name) as attempt:
            record = self._finished_record(path)
            if record is not None:
                export(record, self.out, self.exports)
                progress.advance(path.name, note="predicted already", skipped=True)
                return record
        if attempt.reason is None:
            encoders = self._encoders  # an encoder that cannot be loaded is not the slide's failure
            with catch_failure(path.name) as attempt:
                record = self._predict(path, encoders)
                export(record, self.out, self.exports)
                write_whole(self._json(path), record.to_json().encode())
                progress.advance(path.name)
                return record
        progress.fail(path.name)
        return FailedSlide(path, str(attempt.reason))

    def _predict(self, path: SlidePath, encoders: Sequence[Encoder]) -> PredictionRecord:
        model = self.trained.model
        gray_spread = model.gray_spread if isinstance(model, SquareReader) else 0
        with open_slide(
            path,
            mpp=self.mpp,
            tissue=self.tissue.get(path),
            missing_tiles=self.trained.slide.missing_tiles,
        ) as slide:
            outlines = self.lesions.on_scan(slide_key(path), path, slide.size)
            lesions = [] if outlines is None else [each.outer for each in outlines.polygons]
            record = self._classify(slide, encoders)
            # The cost of the prediction does not include the pictures.
            draw_pictures(record, slide, self.out, gray_spread=gray_spread, lesions=lesions)
        return record

    def _classify(self, slide: Slide, encoders: Sequence[Encoder]) -> PredictionRecord:
        """Predict an open slide from its pixels, or from stored features."""
        if self.stored is None:
            return classify(slide, self.trained, encoders)
        with self.stored.open(slide, self.mpp) as opened:
            return classify_stored(slide, self.trained, opened)

    def _finished_record(self, path: SlidePath) -> PredictionRecord | None:
        """Return the prediction of an earlier call; None if it has to be made again."""
        file = self._json(path)
        if self.again or self.lesions.has(slide_key(path)) or not file.is_file():
            return None
        try:
            record = read_prediction(file)
        except RecordError:
            return None
        slide = record.slide
        same_mpp = (slide.mpp_source == "given") == (self.mpp is not None) and (
            self.mpp in (None, slide.mpp)
        )
        if not same_mpp or record.model != self._model_facts:
            return None
        if not all(picture.exists() for picture in picture_files(record, self.out)):
            return None
        excluded = self.trained.slide.exclude_classes
        tissue = tissue_fingerprint(self.tissue.get(path), excluded)
        if (file_fingerprint(path), tissue) != (slide.fingerprint, slide.tissue_fingerprint):
            return None
        return self._with_path(record, path)

    def _with_path(self, record: PredictionRecord, path: SlidePath) -> PredictionRecord:
        """Return the record with the present path of the slide, which may have moved."""
        if record.slide.path == recorded_path(path):
            return record
        moved = dataclasses.replace(
            record, slide=dataclasses.replace(record.slide, path=recorded_path(path))
        )
        write_whole(self._json(path), moved.to_json().encode())
        return moved

    def _json(self, path: SlidePath) -> Path:
        return self.out / f"{slide_id(path)}.json"

    @cached_property
    def _model_facts(self) -> ModelFacts:
        return model_facts(self.trained)

    @cached_property
    def _encoders(self) -> tuple[Encoder, ...]:
        """The encoders, loaded for the first slide; it moves the model to the same device."""
        self.trained.model.to(choose_device(self.device))
        if self.stored is not None:
            return ()
        return self.trained.load_encoders(device=self.device)


def _stored_inputs(
    features: Path | Mapping[float, Path],
    trained: Checkpoint,
    device: str,
    paths: Sequence[SlidePath],
    mpp: float | None,
) -> StoredBags:
    from parfocal.predict.stored import StoredFeatureInputs  # noqa: PLC0415 (HDF5 takes time)

    return StoredFeatureInputs(features, trained, device, paths, mpp)


def _row(result: PredictionRecord | FailedSlide, labels: Sequence[str]) -> list[str]:
    if isinstance(result, FailedSlide):
        return table.failed_row(result.path, result.reason, labels)
    return table.row(result, labels)


def _by_name(paths: Sequence[SlidePath]) -> dict[str, SlidePath]:
    """Return the slides by name, under which their files are written.

    Other files that `slides/*` names, such as tables, may be called like a slide.

    Raises:
        ValueError: two slides have the same name.
    """
    groups: dict[str, list[SlidePath]] = {}
    for path in paths:
        groups.setdefault(slide_id(path), []).append(path)
    by_name: dict[str, SlidePath] = {}
    for name, group in groups.items():
        slides = group if len(group) == 1 else [path for path in group if may_be_slide(path)]
        if len(slides) > 1:
            raise ValueError(
                f"{slides[0]} and {slides[1]} would both be written as {name!r}; predict them into "
                "different folders."
            )
        by_name[name] = (slides or group)[0]
    return by_name
