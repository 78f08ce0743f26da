"""The record of a prediction for a patient: the answer, and the records of its slides.

docs/formats.md describes its JSON, `<patient>.patient.json`. The regions are in the records of the
slides, which lie in the same folder, so that maps, exports and the viewer show them as any others.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from parfocal.cost import Cost
from parfocal.explain.read_record import RecordError, read_json, read_prediction
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import ModelFacts
from parfocal.printable import counted

FORMAT = "parfocal patient"
FORMAT_VERSION = 1
SUFFIX = ".patient.json"


@dataclass(frozen=True)
class PatientRecord:
    """A model's prediction for one patient.

    Args:
        id: the patient.
        model: the model.
        probabilities: probability of each class, by label.
        stop_reason: why the model visited no more patches.
        cost: measured cost of all slides; `cost.exhaustive` is that of all slides.
        slides: records of the slides; their probabilities are those of the patient, and over all
            slides the scores of a step sum to 1.
        fusion: how the predictions for the slides were joined; None for one bag of all slides.
        covariates: clinical values as they were given, by column.
        left_out: reason of each slide that could not be read, by slide id.
    """

    id: str
    model: ModelFacts
    probabilities: dict[str, float]
    stop_reason: str
    cost: Cost
    slides: tuple[PredictionRecord, ...]
    fusion: str | None = None
    covariates: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.slides[0].label

    @property
    def summary(self) -> str:
        """The patient, the answer and the bill, in one line."""
        count = len(self.slides)
        whole = replace(
            self.slides[0],
            slide=replace(self.slides[0].slide, id=f"{self.id} ({counted(count, 'slide')})"),
            regions=tuple(region for slide in self.slides for region in slide.regions),
            cost=self.cost,
            reach=None,
        )
        left_out = f"; without {', '.join(self.left_out)}" if self.left_out else ""
        return f"{whole.summary}{left_out}"

    def share_of(self, slide: PredictionRecord, step: int = 0) -> float:
        """Return which part of the patient's attention at a step lies on a slide.

        Args:
            slide: record of one of the slides.
            step: index of the magnification, 0 for the lowest.
        """
        total = sum(region.score for each in self.slides for region in each.regions_at(step))
        own = sum(region.score for region in slide.regions_at(step))
        return own / total if total else 0.0

    @property
    def _members(self) -> dict[str, object]:
        """The predictions of several models, such as the folds, and their standard deviation."""
        first = self.slides[0]
        if not first.members:
            return {}
        answers = [
            {
                "name": each.name,
                "weights_sha256": each.weights_sha256,
                "probabilities": each.probabilities,
                "outputs": each.outputs,
            }
            for each in first.members
        ]
        return {"members": answers, "spread": first.spread}

    def to_json(self) -> str:
        """Return the text of the JSON file."""
        steps = range(len(self.slides[0].mpps))
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "patient": {"id": self.id, "covariates": self.covariates},
            "model": asdict(self.model),
            "fusion": self.fusion,
            "prediction": {
                "label": self.label,
                "probabilities": self.probabilities,
                "outputs": self.slides[0].outputs,
            },
            "stop_reason": self.stop_reason,
            "slides": [
                {
                    "slide_id": each.slide.id,
                    "file": f"{each.slide.id}.json",
                    "fingerprint": each.slide.fingerprint,
                    "patches": [len(each.regions_at(step)) for step in steps],
                    "share_of_attention": [self.share_of(each, step) for step in steps],
                }
                for each in self.slides
            ],
            "left_out": self.left_out,
            **self._members,
            "cost": asdict(self.cost)
            | {
                "share_patches": self.cost.share_patches,
                "share_pixels": self.cost.share_pixels,
                "share_macs": self.cost.share_macs,
            },
        }
        return json.dumps(content, indent=1) + "\n"


@dataclass(frozen=True)
class _Patient:
    id: str
    covariates: dict[str, str]


@dataclass(frozen=True)
class _Answer:
    probabilities: dict[str, float]


@dataclass(frozen=True)
class _Slide:
    slide_id: str
    file: str
    fingerprint: str


@dataclass(frozen=True)
class _Content:
    """The keys that are read."""

    patient: _Patient
    model: ModelFacts
    fusion: str | None
    prediction: _Answer
    stop_reason: str
    slides: tuple[_Slide, ...]
    left_out: dict[str, str]
    cost: Cost


_CONTENT = TypeAdapter(_Content)


def looks_like_patient(content: Mapping[str, object]) -> bool:
    """Return whether JSON content is the prediction for a patient."""
    return content.get("format") == FORMAT


def read_patient(path: Path) -> PatientRecord:
    """Read the prediction for a patient, and those of its slides, which lie beside it.

    Args:
        path: a file that `parfocal predict --patients` wrote, `<patient>.patient.json`.

    Raises:
        RecordError: a file is missing, damaged, of a newer version, or of another prediction.
    """
    content = read_json(path)
    if not looks_like_patient(content):
        raise RecordError(
            f"{path}: not the prediction of a patient; give a file named *{SUFFIX}, which "
            "`parfocal predict --patients` writes."
        )
    if content.get("format_version") != FORMAT_VERSION:
        raise RecordError(
            f"{path}: format version {content.get('format_version')!r} is not supported (this "
            f"parfocal reads {FORMAT_VERSION}); predict the patient again."
        )
    try:
        read = _CONTENT.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f"{path}: incomplete prediction ({key}: {first['msg'].lower()}); predict the patient "
            "again."
        ) from None
    if not read.slides:
        raise RecordError(f"{path}: the patient has no slides; predict the patient again.")
    return PatientRecord(
        read.patient.id,
        read.model,
        read.prediction.probabilities,
        read.stop_reason,
        read.cost,
        tuple(_read_slide(path, read.patient.id, each) for each in read.slides),
        read.fusion,
        read.patient.covariates,
        read.left_out,
    )


def _read_slide(path: Path, patient_id: str, slide: _Slide) -> PredictionRecord:
    """Read the record of a slide, and check that it is of this prediction."""
    file = path.parent / Path(slide.file).name
    record = read_prediction(file)
    of_patient = record.patient is not None and record.patient.id == patient_id
    if not of_patient or record.slide.fingerprint != slide.fingerprint:
        raise RecordError(
            f"{file}: this is not the slide of patient {patient_id} that {path.name} names; "
            "predict the patient again."
        )
    return record
