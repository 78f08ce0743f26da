"""Predict many slides into a folder: a JSON and pictures per slide, and one table of all slides."""

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from parfocal.dataset.lesions import Lesions
from parfocal.dataset.outlines_file import OutlinesFile
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution, WorkList
from parfocal.encoders.device import choose_device
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.queue import queue_encoders
from parfocal.explain.export import Exports, export
from parfocal.explain.pictures import draw_pictures, picture_files
from parfocal.explain.read_record import RecordError, read_prediction
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import ModelFacts
from parfocal.features.slide_input import BagInput
from parfocal.files import (
    name_key,
    part_path,
    read_only_reason,
    refuse_slide_folder,
    write_whole,
)
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import SquareReader
from parfocal.predict import table
from parfocal.predict.conflicts import refuse_other_slides, warn_of_other_models
from parfocal.predict.facts import model_facts
from parfocal.predict.slide import classify, classify_stored
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
    distribution: Distribution = EVERYTHING_HERE,
) -> Iterator[PredictionRecord | FailedSlide]:
    """Predict slides, and write the results to a folder.

    Each slide gets `<id>.json` and `<id>.png`, and a model whose squares form a tree also gets
    `<id>-leaves.png` and `<id>-filter.png`. Whatever goes wrong with a slide, it is yielded as a
    `FailedSlide`, and the next one follows. At the end, also after an interruption,
    `predictions.csv` lists all slides; it keeps the rows that earlier calls wrote for other slides.

    Calls that predict into the same folder at the same time share the slides. A slide that an
    earlier call predicted with the same model and settings is not predicted again while its file
    is unchanged.

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
        distribution: how the slides are divided among commands and workers.

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
    columns = table.columns_of(trained)
    table.read_rows(out / table.TABLE_FILE, columns)  # raises for other classes
    refuse_other_slides(tuple(by_name.values()), out, replace=replace)
    warn_of_other_models(by_name, out, model_facts(trained))
    out.mkdir(parents=True, exist_ok=True)
    work = PredictionWork(
        *(_item_names(paths), trained, out, mpp, device, lesions, dict(tissue or {})),
        *(exports or Exports(), features, _time_on(out)),
    )
    if features is not None:
        work.stored  # noqa: B018 (refuses features that cannot be used)
    work_list = WorkList(
        *(out, "predicting", work),
        distribution=distribution,
        again=again,
        found_note="predicted already",
    )
    rows: dict[str, list[str]] = {}
    try:
        for ended in work_list.run():
            path = work.paths[ended.item]
            result = ended.result or FailedSlide(path, str(ended.reason))
            if by_name.get(slide_id(path)) == path:
                rows[slide_id(path)] = _row(result, columns)
            yield result
    finally:
        if read_only_reason(out) is None:
            table.update(out, columns, {name: rows[name] for name in by_name if name in rows})


@dataclass(frozen=True)
class PredictionWork:
    """Predicts slides into a folder; see `predict_slides` for the arguments, and `Work`.

    Args:
        paths: slide file by item.
        trained: the trained model.
        out: folder to write to.
        mpp: µm per level-0 pixel of every slide; None for that of the files.
        device: where the encoder and the model run.
        lesions: lesion outlines, drawn on the leaves.
        tissue: tissue files by slide file.
        exports: which files for other viewers to write, too.
        features: features to read instead of the slides; None to encode the slides.
        started: when the command began, by the clock of `out`.
    """

    paths: Mapping[str, SlidePath]
    trained: Checkpoint
    out: Path
    mpp: float | None
    device: str
    lesions: Lesions
    tissue: Mapping[SlidePath, Path]
    exports: Exports
    features: Path | Mapping[float, Path] | None
    started: float
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        """Leave out what each process loads for itself."""
        names = [each.name for each in dataclasses.fields(self) if each.name != "_lock"]
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore the work in another process."""
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def items(self) -> tuple[str, ...]:
        """Names of the slides."""
        return tuple(self.paths)

    def slide_files(self, item: str) -> tuple[SlidePath, ...]:
        """Return the slide of an item; none if its features are stored."""
        return () if self.features is not None else (self.paths[item],)

    def prepare(self) -> None:
        """Load the encoders, and move the model to their device."""
        with self._lock:
            self.encoders  # noqa: B018

    def find(self, item: str) -> PredictionRecord | None:
        """Return the prediction of an earlier call, with its exports."""
        path = self.paths[item]
        record = self._finished_record(path)
        if record is not None:
            export(record, self.out, self.exports)
        return record

    def process(self, item: str) -> PredictionRecord:
        """Predict one slide, and write its files; its JSON comes last."""
        path = self.paths[item]
        record = self._predict(path, self.encoders)
        export(record, self.out, self.exports)
        write_whole(self._json(path), record.to_json().encode())
        return record

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
        if not file.is_file() or self._may_lack_lesions(path, file):
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

    def _may_lack_lesions(self, path: SlidePath, file: Path) -> bool:
        """Return whether the pictures of a prediction may have been drawn without its outlines."""
        return self.lesions.has(slide_key(path)) and file.stat().st_mtime < self.started

    def _with_path(self, record: PredictionRecord, path: SlidePath) -> PredictionRecord:
        """Return the record with the present path of the slide, which may have moved."""
        if record.slide.path == recorded_path(path):
            return record
        moved = dataclasses.replace(
            record, slide=dataclasses.replace(record.slide, path=recorded_path(path))
        )
        if read_only_reason(self.out) is None:
            write_whole(self._json(path), moved.to_json().encode())
        return moved

    def _json(self, path: SlidePath) -> Path:
        return self.out / f"{slide_id(path)}.json"

    @cached_property
    def _model_facts(self) -> ModelFacts:
        return model_facts(self.trained)

    @cached_property
    def encoders(self) -> tuple[Encoder, ...]:
        """The encoders, loaded for the first slide; it moves the model to the same device."""
        self.trained.model.to(choose_device(self.device))
        if self.features is not None:
            return ()
        return queue_encoders(self.trained.load_encoders(device=self.device))

    @cached_property
    def stored(self) -> StoredBags | None:
        """The stored features; None to encode the slides."""
        if self.features is None:
            return None
        from parfocal.predict.stored import StoredFeatureInputs  # noqa: PLC0415 (HDF5 takes time)

        paths = tuple(self.paths.values())
        return StoredFeatureInputs(self.features, self.trained, self.device, paths, self.mpp)


def _row(result: PredictionRecord | FailedSlide, columns: Sequence[str]) -> list[str]:
    if isinstance(result, FailedSlide):
        return table.failed_row(result.path, result.reason, columns)
    return table.row(result, columns)


def _item_names(paths: Sequence[SlidePath]) -> dict[str, SlidePath]:
    """Return the slides by file name; one whose name is not the only one, by its whole path."""
    counts = Counter(name_key(path.name) for path in paths)
    return {
        path.name if counts[name_key(path.name)] == 1 and path.name else str(path): path
        for path in paths
    }


def _time_on(folder: Path) -> float:
    """Return the time by the clock of a file system; by that of this machine if it is read-only."""
    if read_only_reason(folder) is not None:
        return time.time()
    probe = part_path(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _by_name(paths: Sequence[SlidePath]) -> dict[str, SlidePath]:
    """Return the slides by name, under which their files are written.

    Other files that `slides/*` names, such as tables, may be called like a slide.

    Raises:
        ValueError: two slides have the same name, or names that differ only in case.
    """
    groups: dict[str, list[SlidePath]] = {}
    for path in paths:
        groups.setdefault(name_key(slide_id(path)), []).append(path)
    by_name: dict[str, SlidePath] = {}
    for group in groups.values():
        slides = group if len(group) == 1 else [path for path in group if may_be_slide(path)]
        if len(slides) > 1:
            one, other = map(slide_id, slides[:2])
            case = "" if one == other else f" (or {other!r}, on a disk that ignores case)"
            raise ValueError(
                f"{slides[0]} and {slides[1]} would both be written as {one!r}{case}; predict them "
                "into different folders."
            )
        chosen = (slides or group)[0]
        by_name[slide_id(chosen)] = chosen
    return by_name
