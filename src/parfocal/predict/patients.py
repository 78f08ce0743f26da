"""Predict patients into a folder: a record per patient, and a JSON and pictures per slide.

Like `parfocal.predict.folder`, with all slides of a patient asked together.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution, WorkList
from parfocal.encoders.device import choose_device
from parfocal.encoders.encoder import Encoder
from parfocal.explain.export import Exports, export
from parfocal.explain.patient_record import SUFFIX, PatientRecord, read_patient
from parfocal.explain.pictures import draw_pictures, picture_files
from parfocal.explain.read_record import RecordError
from parfocal.features.slide_input import SlideInput
from parfocal.files import read_only_reason, refuse_slide_folder, write_whole
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import SquareReader
from parfocal.predict.conflicts import refuse_other_slides
from parfocal.predict.facts import model_facts
from parfocal.predict.folder import StoredBags
from parfocal.predict.patient import (
    OpenSlide,
    Reading,
    UnreadableSlideError,
    classify_patient,
)
from parfocal.predict.patient_rows import read_table, update_table
from parfocal.predict.patient_table import PatientSlides
from parfocal.predict.table import columns_of
from parfocal.slide.errors import SlideError
from parfocal.slide.given_tissue import tissue_fingerprint
from parfocal.slide.identity import file_fingerprint, slide_id
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.sources.url import SlidePath

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedPatient:
    """A patient that could not be predicted.

    Args:
        id: the patient.
        reason: why it failed, in at most 500 characters.
    """

    id: str
    reason: str


def predict_patients(
    patients: Sequence[PatientSlides],
    trained: Checkpoint,
    out: Path,
    *,
    mpp: float | None = None,
    device: str = "auto",
    tissue: Mapping[SlidePath, Path] | None = None,
    exports: Exports | None = None,
    again: bool = False,
    replace_others: bool = False,
    skip_unreadable: bool = False,
    features: Path | Mapping[float, Path] | None = None,
    distribution: Distribution = EVERYTHING_HERE,
) -> Iterator[PatientRecord | FailedPatient]:
    """Predict patients one after the other, and write the results to a folder.

    Each patient gets `<patient>.patient.json`, and each slide the files that `predict_slides`
    writes, with the answer for the patient. `patients.csv` lists all patients. A patient that an
    earlier call predicted with the same model, slides and covariates is not predicted again.

    Args:
        patients: the patients with their slides.
        trained: the trained model, whose unit is a patient.
        out: folder to write to.
        mpp: µm per level-0 pixel of every slide, for files that do not record it.
        device: where the encoder and the model run, such as "cpu" or "cuda"; "auto" chooses.
        tissue: files of the tissue by slide file; the tissue of the other slides is found.
        exports: which files for other viewers to write, too; None for none.
        again: whether to predict patients again that an earlier call has predicted.
        replace_others: whether predictions in `out` of other slides with the same names may be
            replaced.
        skip_unreadable: whether a patient goes on with the other slides if one cannot be read or is
            not given; if False, the patient has failed.
        features: folder of features, or folders by magnification; None to encode the slides.
        distribution: how the patients are divided among commands and workers.

    Yields:
        The record of each patient, or the reason why it failed.

    Raises:
        OutputError: `out` holds the slides, or the prediction of another slide with the same name.
        OSError: `out` cannot be written to, or the disk is full.
    """
    paths = [path for patient in patients for path in patient.paths]
    refuse_slide_folder(out, paths)
    refuse_other_slides(paths, out, replace=replace_others)
    columns = columns_of(trained)
    read_table(out, columns)  # raises for other classes
    out.mkdir(parents=True, exist_ok=True)
    work = PatientWork(
        *({each.id: each for each in patients}, trained, out, mpp, device, dict(tissue or {})),
        *(exports or Exports(), skip_unreadable, features),
    )
    if features is not None:
        work.stored  # noqa: B018 (refuses features that cannot be used)
    work_list = WorkList(
        *(out, "predicting", work),
        unit="patients",
        distribution=distribution,
        again=again,
        found_note="predicted already",
        made_by=trained.weights_hash,
    )
    records: list[PatientRecord] = []
    failed: dict[str, str] = {}
    try:
        for ended in work_list.run():
            if ended.result is None:
                failed[ended.item] = str(ended.reason)
                yield FailedPatient(ended.item, str(ended.reason))
            else:
                records.append(ended.result)
                yield ended.result
    finally:
        if read_only_reason(out) is None:
            update_table(out, columns, records, failed)


@dataclass(frozen=True)
class PatientWork:
    """Predicts patients into a folder; see `predict_patients` for the arguments, and `Work`.

    Args:
        patients: the patients by id.
        trained: the trained model.
        out: folder to write to.
        mpp: µm per level-0 pixel of every slide; None for that of the files.
        device: where the encoder and the model run.
        tissue: tissue files by slide file.
        exports: which files for other viewers to write, too.
        skip_unreadable: whether a patient goes on without a slide that cannot be read.
        features: features to read instead of the slides; None to encode the slides.
    """

    patients: Mapping[str, PatientSlides]
    trained: Checkpoint
    out: Path
    mpp: float | None
    device: str
    tissue: Mapping[SlidePath, Path]
    exports: Exports
    skip_unreadable: bool
    features: Path | Mapping[float, Path] | None

    def __getstate__(self) -> dict[str, object]:
        """Leave out what each process loads for itself."""
        return {each.name: self.__dict__[each.name] for each in fields(self)}

    @property
    def items(self) -> tuple[str, ...]:
        """Ids of the patients."""
        return tuple(self.patients)

    def slide_files(self, item: str) -> tuple[SlidePath, ...]:
        """Return the slides of a patient; none if their features are stored."""
        return () if self.features is not None else tuple(self.patients[item].paths)

    def prepare(self) -> None:
        """Load the encoders, and move the model to their device."""
        self.encoders  # noqa: B018

    def find(self, item: str) -> PatientRecord | None:
        """Return the prediction of an earlier call."""
        return self._finished(self.patients[item])

    def process(self, item: str) -> PatientRecord:
        """Predict one patient, and write the files; the JSON of the patient comes last."""
        patient = self.patients[item]
        record = self._predict(patient, self.encoders)
        for slide in record.slides:
            export(slide, self.out, self.exports)
            write_whole(self.out / f"{slide.slide.id}.json", slide.to_json().encode())
        write_whole(self._json(patient), record.to_json().encode())
        return record

    def _predict(self, patient: PatientSlides, encoders: Sequence[Encoder]) -> PatientRecord:
        """Predict a patient, without the slides that cannot be read if they may be skipped."""
        left_out: dict[str, str] = {}
        if patient.missing:
            names = ", ".join(patient.missing)
            if not self.skip_unreadable:
                raise SlideError(
                    f"patient {patient.id}: slide {names} is in the table but not among the given "
                    "slides; add it, or continue without it with --skip-unreadable."
                )
            left_out = dict.fromkeys(patient.missing, "not among the slides given")
        paths = list(patient.paths)
        while True:
            try:
                return self._predict_slides(patient, paths, encoders, left_out)
            except UnreadableSlideError as error:
                problem = f"patient {patient.id}, slide {error.path.name}: {error.reason}"
                if not self.skip_unreadable or len(paths) == 1:
                    raise SlideError(problem) from error
                logger.warning("%s The patient is predicted from the other slides.", problem)
                left_out[slide_id(error.path)] = error.reason
                paths.remove(error.path)

    def _predict_slides(
        self,
        patient: PatientSlides,
        paths: Sequence[SlidePath],
        encoders: Sequence[Encoder],
        left_out: Mapping[str, str],
    ) -> PatientRecord:
        model = self.trained.model
        gray_spread = model.gray_spread if isinstance(model, SquareReader) else 0
        with ExitStack() as stack:
            opened = []
            for path in paths:
                with Reading(path, self.trained):
                    slide = stack.enter_context(self._open(path))
                    slide_input = stack.enter_context(self._open_input(slide, encoders))
                    opened.append(OpenSlide(path, slide, slide_input))
            record = classify_patient(
                patient,
                opened,
                self.trained,
                encoders,
                stored=self.features is not None,
                device=choose_device(self.device),
            )
            for given, each in zip(opened, record.slides, strict=True):
                with Reading(given.path, self.trained):
                    draw_pictures(each, given.slide, self.out, gray_spread=gray_spread, lesions=[])
        return replace(record, left_out=dict(left_out))

    def _open(self, path: SlidePath) -> Slide:
        return open_slide(
            path,
            mpp=self.mpp,
            tissue=self.tissue.get(path),
            missing_tiles=self.trained.slide.missing_tiles,
        )

    def _open_input(
        self, slide: Slide, encoders: Sequence[Encoder]
    ) -> AbstractContextManager[SlideInput]:
        if self.stored is not None:
            return self.stored.open(slide, self.mpp)
        return self.trained.open(slide, encoder=encoders)

    def _finished(self, patient: PatientSlides) -> PatientRecord | None:
        """Return the prediction of an earlier call; None if it has to be made again."""
        file = self._json(patient)
        if not file.is_file():
            return None
        try:
            record = read_patient(file)
        except RecordError:
            return None
        same = (
            record.model == model_facts(self.trained) and record.fusion == self.trained.unit.fusion
        )
        if not same or record.left_out or record.covariates != dict(patient.covariates or {}):
            return None
        excluded = self.trained.slide.exclude_classes
        expected = {
            slide_id(path): (
                file_fingerprint(path),
                tissue_fingerprint(self.tissue.get(path), excluded),
            )
            for path in patient.paths
        }
        found = {
            each.slide.id: (each.slide.fingerprint, each.slide.tissue_fingerprint)
            for each in record.slides
        }
        pictures = [picture for each in record.slides for picture in picture_files(each, self.out)]
        if expected != found or not all(picture.exists() for picture in pictures):
            return None
        return record

    def _json(self, patient: PatientSlides) -> Path:
        return self.out / f"{patient.id}{SUFFIX}"

    @cached_property
    def encoders(self) -> tuple[Encoder, ...]:
        """The encoders, loaded for the first patient; it moves the model to the same device."""
        self.trained.model.to(choose_device(self.device))
        if self.features is not None:
            return ()
        return self.trained.load_encoders(device=self.device)

    @cached_property
    def stored(self) -> StoredBags | None:
        """The stored features; None to encode the slides."""
        if self.features is None:
            return None
        from parfocal.predict.stored import StoredFeatureInputs  # noqa: PLC0415 (HDF5 takes time)

        paths = [path for patient in self.patients.values() for path in patient.paths]
        return StoredFeatureInputs(self.features, self.trained, self.device, paths, self.mpp)
