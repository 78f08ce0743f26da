"""Open the patients of a cohort for a model, slide by slide through the inputs for slides."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.inputs import CountsPatches, Inputs, ReadsAhead
from parfocal.dataset.patients import slides_of
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.patient_input import PatientInput
from parfocal.features.slide_input import BagInput, NoImage, PixelInput, SlideInput
from parfocal.grid import Reach
from parfocal.slide.errors import SlideError
from parfocal.slide.failure import EndsBatch, describe_failure, is_disk_full
from parfocal.slide.sources.url import SlidePath

# Cells by column, and the name of the slide or patient -> its covariates as numbers.
Encode = Callable[[Mapping[str, str], str], Tensor]
READ_ERRORS = (SlideError, StoreError, OSError)  # any other may be an error of the model

logger = logging.getLogger(__name__)


class PatientSlideError(SlideError):
    """A slide of a patient that cannot be read.

    Args:
        patient_id: the patient.
        slide_id: the slide.
        reason: why it cannot be read.
    """

    def __init__(self, patient_id: str, slide_id: str, reason: str) -> None:
        super().__init__(patient_id, slide_id, reason)
        self.patient_id, self.slide_id, self.reason = patient_id, slide_id, reason

    def __str__(self) -> str:
        return f"patient {self.patient_id}, slide {self.slide_id}: {self.reason}"


@dataclass(frozen=True)
class PatientInputs:
    """Opens patients, and slides that stand for themselves.

    Args:
        slides: opens slides.
        fusion: how the predictions for the slides of a patient are fused; None for one bag of all
            slides.
        encode: function that returns the covariates of a slide or patient as numbers, from its
            cells by column and its name; None for a model without covariates.
    """

    slides: Inputs
    fusion: str | None = None
    encode: Encode | None = None
    _covariates: dict[str, Tensor] = field(default_factory=dict)

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """Encoder of each magnification, lowest first; empty for a model that takes pixels."""
        return self.slides.encoders

    def source_files(self, slide: CohortSlide) -> tuple[SlidePath, ...]:
        """Return the paths of the files that are read for a patient, or for a slide."""
        return tuple(path for each in slides_of([slide]) for path in self.slides.source_files(each))

    def check(self, slide: CohortSlide) -> Reach | None:
        """Raise the error that `open` would raise for a slide, before a model is run.

        Returns:
            The tissue that a model cannot reach on a slide; None for a patient.
        """
        if not slide.slides:
            return self.slides.check(slide)
        for each in slide.slides:
            with _named(slide.slide_id, each.slide_id):
                self.slides.check(each)
        return None

    @contextmanager
    def open(self, slide: CohortSlide) -> Iterator[SlideInput]:
        """Open a patient, or a slide, for the duration of a `with` block.

        Raises:
            PatientSlideError: a slide of the patient cannot be read; also inside the block.
            MixedFeaturesError: the features of the slides do not form one bag.
        """
        covariates = self._encode(slide)
        if not slide.slides:
            with self.slides.open(slide) as slide_input:
                yield with_covariates(slide_input, covariates)
            return
        ids = [each.slide_id for each in slide.slides]
        with ExitStack() as stack:
            opened = []
            for each in slide.slides:
                with _named(slide.slide_id, each.slide_id):
                    opened.append(stack.enter_context(self.slides.open(each)))
            if opened and isinstance(opened[0], NoImage):  # for a model of covariates alone
                yield with_covariates(opened[0], covariates)
                return
            only = ids[0] if len(ids) == 1 else None  # whose features are read without `reading`
            with _named(slide.slide_id, only) if only else nullcontext():
                patient = PatientInput.of(
                    ids,
                    opened,
                    fusion=self.fusion,
                    reading=lambda position: _named(slide.slide_id, ids[position]),
                )
                yield with_covariates(patient, covariates)

    def _encode(self, slide: CohortSlide) -> Float[Tensor, " v"] | None:
        """Return the covariates of a slide or patient, which are encoded once."""
        if self.encode is None:
            return None
        if slide.slide_id not in self._covariates:
            self._covariates[slide.slide_id] = self.encode(slide.values, slide.slide_id)
        return self._covariates[slide.slide_id]


@dataclass(frozen=True)
class StoredPatientInputs:
    """Opens patients whose features are stored, which can be counted and read ahead.

    Args:
        patients: opens the patients.
    """

    patients: PatientInputs

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """Encoder of each magnification, lowest first."""
        return self.patients.encoders

    def source_files(self, slide: CohortSlide) -> tuple[SlidePath, ...]:
        """Return the paths of the files that are read; see `PatientInputs`."""
        return self.patients.source_files(slide)

    def check(self, slide: CohortSlide) -> Reach | None:
        """Check that the features can be read; see `PatientInputs`."""
        return self.patients.check(slide)

    def open(self, slide: CohortSlide) -> AbstractContextManager[SlideInput]:
        """Open a patient, or a slide; see `PatientInputs`."""
        return self.patients.open(slide)

    def read_ahead(self, slides: Sequence[CohortSlide], *, whole: bool = False) -> None:
        """Start to read what a model is likely to need of patients; see `ReadsAhead`."""
        assert isinstance(self.patients.slides, ReadsAhead)
        self.patients.slides.read_ahead(slides_of(slides), whole=whole)

    def count_patches(self, slide: CohortSlide) -> tuple[int, ...]:
        """Return the number of patches of all slides at each magnification, lowest first.

        Raises:
            StoreError: the features of a slide cannot be read.
        """
        inner = self.patients.slides
        assert isinstance(inner, CountsPatches)
        counts = [inner.count_patches(each) for each in slides_of([slide])]
        if self.patients.fusion is not None and not self.patients.fusion.startswith("attention"):
            return max(counts)  # the model is trained on one slide at a time
        return tuple(map(sum, zip(*counts, strict=True)))


def patient_inputs(
    slides: Inputs, *, fusion: str | None = None, encode: Encode | None = None
) -> PatientInputs | StoredPatientInputs:
    """Return what opens patients, and slides with covariates.

    Args:
        slides: opens slides.
        fusion: how the predictions for the slides of a patient are fused; None for one bag of all
            slides.
        encode: function that returns the covariates of a slide or patient as numbers; None for a
            model without covariates.
    """
    patients = PatientInputs(slides, fusion, encode)
    stored = isinstance(slides, ReadsAhead) and isinstance(slides, CountsPatches)
    return StoredPatientInputs(patients) if stored else patients


def with_covariates(slide_input: SlideInput, covariates: Float[Tensor, " v"] | None) -> SlideInput:
    """Return an input with covariates; the input itself for None."""
    if covariates is None:
        return slide_input
    assert isinstance(slide_input, BagInput | PixelInput | PatientInput | NoImage)
    return replace(slide_input, covariates=covariates)


@contextmanager
def _named(patient_id: str, slide_id: str) -> Iterator[None]:
    """Raise an error of reading a slide as one that names the patient and the slide."""
    try:
        yield
    except (PatientSlideError, MixedFeaturesError, EndsBatch):
        raise
    except READ_ERRORS as error:
        if is_disk_full(error):
            raise
        raise PatientSlideError(patient_id, slide_id, describe_failure(error)) from error
