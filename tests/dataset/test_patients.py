"""Patients as entries of a cohort, and their slides opened together."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.cost import CostMeter
from parfocal.dataset.cohort import Cohort, CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.dataset.patient_inputs import PatientSlideError, patient_inputs
from parfocal.dataset.patients import group_patients, keep_slides, slides_of
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.slide_input import BagInput
from parfocal.grid import PatchGrid


def slide(name: str, patient: str, *, row: int = 2, label: str = "ill", **values: str):
    return CohortSlide(name, Path(f"{name}.svs"), label, patient, row, values=values)


def cohort(*slides: CohortSlide) -> Cohort:
    return Cohort(Path("cohort.csv"), slides, ("ill", "well"))


def test_a_patient_stands_where_its_first_slide_is():
    a, b, c = slide("a", "p1", age=""), slide("b", "p2", age="7"), slide("c", "p1", age="50")
    first, second = group_patients(cohort(a, b, c)).slides
    assert (first.slide_id, first.patient_id, first.label) == ("p1", "p1", "ill")
    assert first.slides == (a, c)
    assert first.values == {"age": "50"}  # known on one slide
    assert (second.slide_id, second.slides) == ("p2", (b,))
    assert slides_of([first, second, a]) == (a, c, b, a)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"label": "well"},
            r"patient 'p1' has label 'well' on slide b and 'ill' on slide a \(row 2",
        ),
        ({"split": "test"}, r"has split 'test' on slide b and 'train' on slide a"),
        ({"values": {"age": "51"}}, r"has age '51' on slide b and '50' on slide a"),
    ],
)
def test_slides_of_a_patient_that_contradict_each_other_are_refused(other, message):
    first = replace(slide("a", "p1", age="50"), split="train")
    second = replace(first, slide_id="b", row=3, **other)
    with pytest.raises(CohortError, match=rf"cohort\.csv row 3: .*{message}"):
        group_patients(cohort(first, second))


def test_a_label_that_is_no_target_may_differ_among_the_slides_of_a_patient():
    first = replace(slide("a", "p1", area="3"), group="")
    second = replace(first, slide_id="b", label="well", row=3)
    (patient,) = group_patients(cohort(first, second)).slides
    assert (patient.label, patient.values) == ("", {"area": "3"})


@pytest.mark.parametrize(
    ("patient", "problem"), [("a/b", "contains a slash"), (".a", "begins with a dot")]
)
def test_a_patient_after_whom_no_file_can_be_named_is_refused(patient, problem):
    with pytest.raises(CohortError, match=rf"row 2: patient_id '.*' {problem}"):
        group_patients(cohort(slide("s", patient)))


def test_a_patient_can_lose_slides_but_not_all():
    (patient,) = group_patients(cohort(slide("a", "p"), slide("b", "p"))).slides
    kept = keep_slides(patient, lambda each: each.slide_id != "a")
    assert kept is not None
    assert [each.slide_id for each in kept.slides] == ["b"]
    assert keep_slides(patient, lambda each: False) is None


class SlideInputs:
    """Opens slides of one patch with features of their own; `broken` cannot be read."""

    encoders = ()

    def __init__(self, broken: str = "", *, late: bool = False, width: int = 2) -> None:
        self.broken, self.late, self.width = broken, late, width

    def source_files(self, slide: CohortSlide) -> tuple[Path, ...]:
        return (Path(f"{slide.slide_id}.h5"),)

    def check(self, slide: CohortSlide) -> None:
        if slide.slide_id == self.broken:
            raise StoreError("damaged")

    @contextmanager
    def open(self, slide: CohortSlide):
        if not self.late:
            self.check(slide)
        grid = PatchGrid((1.0,), 8, (8, 8), 1.0, np.array([[0, 0]]), 1)
        width = self.width if slide.slide_id == "b" else 2
        table = Table(self, slide, width)
        yield BagInput(StoredBag([table]), grid, (0,), CostMeter())


class Table:
    def __init__(self, inputs: SlideInputs, slide: CohortSlide, width: int) -> None:
        self.shape = torch.Size((1, width))
        self._inputs, self._slide = inputs, slide

    def __getitem__(self, rows):
        self._inputs.check(self._slide)
        return torch.ones(len(rows), self.shape[1])


PATIENT = group_patients(cohort(slide("a", "p", age="4"), slide("b", "p", age="4"))).slides[0]


def test_a_patient_is_opened_with_all_slides():
    inputs = patient_inputs(
        SlideInputs(), encode=lambda values, name: torch.tensor([float(values["age"])])
    )
    assert inputs.source_files(PATIENT) == (Path("a.h5"), Path("b.h5"))
    with inputs.open(PATIENT) as opened:
        assert opened.model_input.features().shape == (2, 2)
        assert opened.covariates.tolist() == [4]
    with inputs.open(PATIENT.slides[0]) as opened:  # late fusion trains on slides
        assert opened.model_input.features().shape == (1, 2)
        assert opened.covariates.tolist() == [4]


@pytest.mark.parametrize("late", [False, True])
def test_a_slide_that_cannot_be_read_is_named_with_its_patient(late):
    inputs = patient_inputs(SlideInputs("b", late=late))
    with (
        pytest.raises(PatientSlideError, match=r"^patient p, slide b: damaged$") as caught,
        inputs.open(PATIENT) as opened,
    ):
        opened.model_input.features()
    assert caught.value.slide_id == "b"
    with pytest.raises(PatientSlideError, match=r"slide b"):
        inputs.check(PATIENT)


def test_features_that_form_no_bag_are_refused():
    with (
        pytest.raises(
            MixedFeaturesError,
            match=r"slides 1 and 2 of the patient have different features per patch",
        ),
        patient_inputs(SlideInputs(width=3)).open(PATIENT),
    ):
        pass
