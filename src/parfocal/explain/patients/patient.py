"""Group the predictions of slides by patient and model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from parfocal.explain.library import Library, ListedSlide, PredictionSummary, list_problem
from parfocal.explain.patient_record import SUFFIX, PatientRecord, read_patient
from parfocal.explain.read_record import read_prediction
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import MemberFacts, ThresholdFacts
from parfocal.explain.truths import Truth


@dataclass(frozen=True)
class PatientSlide:
    """A slide of a patient with its prediction.

    Args:
        listed: the slide.
        record: the prediction.
    """

    listed: ListedSlide
    record: PredictionRecord

    @property
    def text(self) -> str:
        """What was predicted for the slide, or its part of the attention, in a few words."""
        if self.record.patient is not None:
            return f"{self.record.patient.share:.0%} of the attention"
        return self.record.answer


@dataclass(frozen=True)
class Value:
    """A number that was predicted for a patient.

    Args:
        name: class label, or name of the number.
        value: the number.
        is_probability: whether it is the probability of a class.
        of_slides: the number for each slide, where each was predicted by itself.
        of_models: the number by each of several models, such as those of the folds.
    """

    name: str
    value: float
    is_probability: bool
    of_slides: tuple[float, ...] = ()
    of_models: dict[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The number as text, with its standard deviation over several models."""
        text = self.format(self.value)
        if len(self.of_models) < 2:
            return text
        return f"{text} ± {self.format(stdev(self.of_models.values()))}"

    def format(self, number: float) -> str:
        """Return a number as text, with as many digits as the value."""
        return f"{number:.3f}" if self.is_probability else f"{number:.4g}"


@dataclass(frozen=True)
class Patient:
    """A patient, or a slide whose patient is not known, with the predictions of one model.

    Args:
        id: the patient, or the slide.
        is_known: whether the patient is known.
        folder: folder of the predictions.
        slides: slides with their predictions, in the order of their ids.
        failed: reason of each slide of the patient that could not be predicted, by id.
        whole: the prediction for the patient; None if each slide was predicted by itself.
    """

    id: str
    is_known: bool
    folder: Path
    slides: tuple[PatientSlide, ...]
    failed: dict[str, str] = field(default_factory=dict)
    whole: PatientRecord | None = None

    @property
    def first(self) -> PredictionRecord:
        """Prediction for the first slide."""
        return self.slides[0].record

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights of the model."""
        return self.first.model.weights_sha256

    @property
    def is_mean(self) -> bool:
        """Whether the answer is the mean of those of several slides."""
        return len(self.slides) > 1 and self.first.patient is None

    @property
    def values(self) -> tuple[Value, ...]:
        """What was predicted: the most probable class first, or the numbers in their order."""
        records = [slide.record for slide in self.slides] if self.is_mean else [self.first]
        numbers = [{**record.probabilities, **record.outputs} for record in records]
        members = [_member_numbers(record.members) for record in records]
        values = [
            Value(
                name,
                fmean(each[name] for each in numbers),
                name in self.first.probabilities,
                tuple(each[name] for each in numbers) if self.is_mean else (),
                {m: fmean(each[m][name] for each in members) for m in members[0]},
            )
            for name in numbers[0]
        ]
        return tuple(sorted(values, key=lambda v: -v.value if v.is_probability else 0.0))

    @property
    def threshold(self) -> ThresholdFacts | None:
        """The threshold that decides the class; None for the most probable one."""
        return self.first.threshold

    @property
    def rule(self) -> str:
        """How the answer follows from several slides; empty for one slide."""
        count = len(self.slides)
        if self.is_mean:
            return f"The mean over {count} slides, each predicted by itself."
        if count == 1:
            return ""
        fusion = None if self.whole is None else self.whole.fusion
        joined = "read as one" if fusion is None else f"joined by {fusion}"
        return f"One prediction for {count} slides, {joined}."

    @property
    def true_label(self) -> str | None:
        """Label of the patient in a table; None if unknown or if the slides have several."""
        labels = {slide.listed.truth.label for slide in self.slides}
        return labels.pop() if len(labels) == 1 else None

    @property
    def seconds(self) -> float:
        """Seconds of all predictions."""
        if self.whole is not None:
            return self.whole.cost.seconds["total"]
        return sum(slide.record.cost.seconds["total"] for slide in self.slides)

    @property
    def patches(self) -> int:
        """Number of visited patches."""
        if self.whole is not None:
            return sum(self.whole.cost.patches)
        return sum(sum(slide.record.cost.patches) for slide in self.slides)

    @property
    def all_patches(self) -> int:
        """Number of patches that exhaustive processing would encode."""
        if self.whole is not None and self.whole.cost.exhaustive is not None:
            return self.whole.cost.exhaustive.patches
        costs = [slide.record.cost.exhaustive for slide in self.slides]
        return sum(cost.patches for cost in costs if cost is not None)

    @property
    def unreachable(self) -> float | None:
        """Largest share of the tissue of a slide that the model cannot reach; None if unknown."""
        reaches = [slide.record.reach for slide in self.slides]
        known = [reach.unreachable for reach in reaches if reach is not None]
        return max(known) if len(known) == len(reaches) else None


@dataclass(frozen=True)
class PatientKey:
    """What the predictions on one page have in common.

    Args:
        id: the patient, or the slide.
        is_known: whether the patient is known.
        weights_sha256: hash of the weights of the model.
        folder: folder of the predictions.
    """

    id: str
    is_known: bool
    weights_sha256: str
    folder: Path


def patients_of(library: Library, truths: Mapping[str, Truth]) -> list[Patient]:
    """Return the patients of a library, each once for every model, in the order of their ids.

    Predictions that cannot be read are added to the problems of the library.

    Args:
        library: slides with their predictions.
        truths: labels and patients of slides, by slide id.
    """
    groups: dict[PatientKey, list[PatientSlide]] = {}
    for listed in library.slides.values():
        for prediction in listed.predictions:
            with list_problem(prediction.path, library.problems):
                record = read_prediction(prediction.path)
                key = _key(listed, prediction, record)
                groups.setdefault(key, []).append(PatientSlide(listed, record))
    failed: dict[tuple[str, str], dict[str, str]] = {}
    for each in library.failed:
        name = truths.get(each.id, Truth()).patient or each.id
        failed.setdefault((name, each.folder), {})[each.id] = each.reason
    patients = []
    for key, slides in groups.items():
        reasons = failed.get((key.id, key.folder.resolve().name), {})
        patients.append(_patient(key, slides, reasons, library.problems))
    return sorted(patients, key=lambda each: (each.id, str(each.folder)))


def _key(
    listed: ListedSlide, prediction: PredictionSummary, record: PredictionRecord
) -> PatientKey:
    patient = listed.truth.patient if record.patient is None else record.patient.id
    folder = prediction.path.parent
    return PatientKey(
        patient or listed.id, patient is not None, record.model.weights_sha256, folder
    )


def _patient(
    key: PatientKey,
    slides: Sequence[PatientSlide],
    failed: Mapping[str, str],
    problems: list[str],
) -> Patient:
    """Return a patient, with the prediction for it if there is one beside those of its slides."""
    whole = None
    file = key.folder / f"{key.id}{SUFFIX}"
    if slides[0].record.patient is not None and file.is_file():
        with list_problem(file, problems):
            whole = read_patient(file)
    left_out = {} if whole is None else whole.left_out
    ordered = tuple(sorted(slides, key=lambda slide: slide.listed.id))
    return Patient(key.id, key.is_known, key.folder, ordered, {**failed, **left_out}, whole)


def _member_numbers(members: Sequence[MemberFacts]) -> dict[str, dict[str, float]]:
    """Return what each of several models predicted, by the name of the model."""
    return {each.name: {**each.probabilities, **each.outputs} for each in members}
