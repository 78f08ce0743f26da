import re
from collections import Counter
from pathlib import Path

import pytest

from parfocal.dataset import (
    Cohort,
    CohortError,
    CohortSlide,
    fold_cohort,
    read_split,
    split_cohort,
    split_to_csv,
)


def slide(number: int, label: str, patient: str | None = None, **given: object) -> CohortSlide:
    name = f"{number:03d}"
    return CohortSlide(name, Path(name), label, patient or name, number + 2, **given)


def cohort_of(*slides: CohortSlide) -> Cohort:
    return Cohort(Path("cohort.csv"), slides, tuple(sorted({slide.label for slide in slides})))


def crowd(patients: int, slides_each: int = 3) -> Cohort:
    """Return a cohort in which every fourth patient is ill; a patient has one label."""
    return cohort_of(
        *(
            slide(
                patient * slides_each + number,
                "ill" if patient % 4 == 0 else "well",
                f"P{patient}",
                stratum="east" if patient % 2 else "west",
            )
            for patient in range(patients)
            for number in range(slides_each)
        )
    )


def patients_of(slides: tuple[CohortSlide, ...]) -> set[str]:
    return {slide.patient_id for slide in slides}


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_is_never_in_two_parts(seed):
    split = split_cohort(crowd(40), seed=seed)
    parts = [patients_of(split.train), patients_of(split.val), patients_of(split.test)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 40


def test_every_class_has_its_share_of_every_part():
    split = split_cohort(crowd(40, slides_each=1), val_fraction=0.2, test_fraction=0.2)
    assert Counter(slide.label for slide in split.test) == {"ill": 2, "well": 6}
    assert Counter(slide.label for slide in split.val) == {"ill": 2, "well": 5}
    assert Counter(slide.label for slide in split.train) == {"ill": 6, "well": 19}


def test_a_stratum_has_its_share_of_the_test_part():
    split = split_cohort(crowd(60, slides_each=1), test_fraction=0.2)
    well = [slide.stratum for slide in split.test if slide.label == "well"]
    assert Counter(well) == {"east": 6, "west": 3}  # as 30 to 15


def test_the_seed_decides_the_split():
    assert split_cohort(crowd(40), seed=0) == split_cohort(crowd(40), seed=0)
    assert split_cohort(crowd(40), seed=0) != split_cohort(crowd(40), seed=1)


def test_the_csv_decides_where_it_names_the_parts():
    parts = ("train", "train", "val", "test")
    cohort = cohort_of(*(slide(n, "ab"[n % 2], split=part) for n, part in enumerate(parts)))
    split = split_cohort(cohort)
    assert [slide.slide_id for slide in split.train] == ["000", "001"]
    assert [slide.slide_id for slide in split.val] == ["002"]
    assert [slide.slide_id for slide in split.test] == ["003"]


def test_validation_is_cut_from_train_by_patient_where_the_csv_has_none():
    train = [slide(n, "ab"[n // 2 % 2], f"P{n // 2}", split="train") for n in range(40)]
    split = split_cohort(cohort_of(*train, slide(90, "a", split="test")), val_fraction=0.2)
    assert len(split.val) == 8
    assert not patients_of(split.train) & patients_of(split.val)
    assert [slide.slide_id for slide in split.test] == ["090"]


def test_no_test_part_is_cut_where_none_is_wanted():
    split = split_cohort(crowd(8), test_fraction=0)
    assert split.test == ()
    assert len(split.train) + len(split.val) == 24


def test_every_slide_is_tested_in_exactly_one_fold():
    splits = fold_cohort(crowd(40), 5)
    tested = Counter(slide.slide_id for split in splits for slide in split.test)
    assert len(tested) == 120
    assert set(tested.values()) == {1}
    for split in splits:
        assert not patients_of(split.test) & (patients_of(split.train) | patients_of(split.val))
        assert not patients_of(split.train) & patients_of(split.val)
        assert {slide.label for slide in split.test} == {"ill", "well"}


def test_the_csv_decides_the_folds_where_it_names_them():
    cohort = cohort_of(*(slide(n, "ab"[n % 2], fold=n // 4) for n in range(12)))
    first, _, third = fold_cohort(cohort)
    assert [slide.slide_id for slide in first.test] == ["000", "001", "002", "003"]
    assert [slide.slide_id for slide in third.test] == ["008", "009", "010", "011"]
    with pytest.raises(CohortError, match="fold column has 3 folds, expected 5"):
        fold_cohort(cohort, 5)


def test_too_few_patients_for_a_part_each_is_an_error():
    pair = cohort_of(*(slide(n, "ab"[n // 8]) for n in range(10)))
    with pytest.raises(CohortError, match="class 'b' has 2 patients, and train, val and"):
        split_cohort(pair)
    with pytest.raises(CohortError, match="class 'b' has 2 patients, and 3 folds need"):
        fold_cohort(pair, 3)
    one = cohort_of(*(slide(n, "ab"[n // 9], split="train") for n in range(10)))
    with pytest.raises(CohortError, match="class 'b' has 1 patient, and train and val"):
        split_cohort(one)
    with pytest.raises(CohortError, match="1 folds; use 2 or more"):
        fold_cohort(pair, 1)


def test_patients_with_slides_of_several_classes_count_once():
    pairs = [slide(2 * n + k, label, f"P{n}") for n in range(4) for k, label in enumerate("ab")]
    cohort = cohort_of(*pairs, slide(90, "b"))
    message = "class 'b' has 1 patient (5 have slides of it, but each counts once: in the class of"
    with pytest.raises(CohortError, match=re.escape(message)):
        split_cohort(cohort)


def test_a_given_split_that_leaks_a_patient_is_refused():
    cohort = cohort_of(
        slide(0, "a", "P", split="train"),
        slide(1, "b", split="train"),
        slide(2, "a", split="val"),
        slide(3, "a", "P", split="test"),
    )
    with pytest.raises(CohortError, match="row 5: patient 'P' is in both train and test"):
        split_cohort(cohort)


def test_a_class_without_train_slides_is_refused():
    cohort = cohort_of(slide(0, "a", split="train"), slide(1, "b", split="val"))
    with pytest.raises(CohortError, match="no training slide of class 'b'"):
        split_cohort(cohort)
    with pytest.raises(CohortError, match="no row has split train"):
        split_cohort(cohort_of(slide(0, "a", split="test"), slide(1, "b", split="val")))


def test_a_split_is_read_as_it_was_written(tmp_path):
    split = split_cohort(crowd(40))
    (tmp_path / "split.csv").write_text(split_to_csv(split))
    rows = read_split(tmp_path / "split.csv")
    assert Counter(row.split for row in rows) == {
        "train": len(split.train),
        "val": len(split.val),
        "test": len(split.test),
    }
    assert rows[0].slide_id == split.train[0].slide_id
    assert rows[0].patient_id == split.train[0].patient_id


def test_a_file_that_is_no_split_is_refused(tmp_path):
    (tmp_path / "split.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CohortError, match=r"not the split\.csv of a run"):
        read_split(tmp_path / "split.csv")


def test_the_split_of_a_seed_never_changes():
    """A changed split would silently mix training and test slides of earlier runs."""
    cohort = cohort_of(
        *(
            slide(n, "ab"[n % 3 == 0], f"p{n // 2:02}", stratum=("east", "west")[n // 2 % 2])
            for n in range(36)
        )
    )
    split = split_cohort(cohort, seed=7)
    assert ids(split.val) == [4, 5, 26, 27]
    assert ids(split.test) == [6, 7, 18, 19, 32, 33]
    first, *_ = fold_cohort(cohort, 3, seed=7)
    assert ids(first.val) == [24, 25, 26, 27]
    assert ids(first.test) == [12, 13, 32, 33, 8, 9, 18, 19, 34, 35, 6, 7]


def ids(slides: tuple[CohortSlide, ...]) -> list[int]:
    return [int(each.slide_id) for each in slides]


def given_folds(*parts: tuple[str | None, ...]) -> Cohort:
    """Return a cohort of two classes in turns, with the parts of each slide in each fold."""
    return cohort_of(
        *(
            slide(number, "ba"[number % 2], f"P{number}", fold_parts=each)
            for number, each in enumerate(parts)
        )
    )


def test_the_parts_of_each_fold_are_used_as_they_are_given():
    cohort = given_folds(
        *[("train", "test")] * 2, *[("val", "train")] * 2, *[("test", "val")] * 2, (None, "test")
    )
    first, second = fold_cohort(cohort)
    assert [ids(part) for part in (first.train, first.val, first.test)] == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert ids(second.test) == [0, 1, 6]


def test_validation_slides_are_drawn_where_a_fold_has_none():
    cohort = given_folds(*[("train",)] * 8, *[("test",)] * 2)
    (split,) = fold_cohort(cohort)
    assert ids(split.test) == [8, 9]
    assert Counter(each.label for each in split.val) == {"a": 1, "b": 1}
    assert sorted(ids(split.train) + ids(split.val)) == [*range(8)]


def test_wrong_parts_of_a_fold_are_refused():
    with pytest.raises(CohortError, match="the parts of 1 fold, expected 5; omit --folds"):
        fold_cohort(given_folds(("train",), ("test",)), 5)
    with pytest.raises(CohortError, match=r"fold 1 of cohort\.csv: no slide is in train"):
        fold_cohort(given_folds(*[("train", "test")] * 6))
    rows = [
        slide(n, "ab"[n % 2], "P", fold_parts=(part,)) for n, part in enumerate(("train", "test"))
    ]
    with pytest.raises(CohortError, match="patient 'P' is in both train and test"):
        fold_cohort(cohort_of(*rows, *(slide(n, "ab"[n % 2], fold_parts=("val",)) for n in (2, 3))))


def test_a_class_that_only_the_test_slides_have_is_refused():
    cohort = cohort_of(
        *(slide(n, "ab"[n % 2], split="train" if n < 4 else "val") for n in range(6)),
        *(slide(n, "c", split="test") for n in (6, 7)),
    )
    message = r"no training slide of class 'c' \(2 in test\); move some of its patients to train"
    with pytest.raises(CohortError, match=message):
        split_cohort(cohort)
