"""Training on patients: all their slides as one bag, late fusion, and clinical covariates."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.dataset.cohort import Cohort, CohortError, read_cohort
from parfocal.dataset.inputs import StoredInputs
from parfocal.dataset.split import read_split
from parfocal.features.store import feature_path
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.covariates import CovariateError
from parfocal.settings import RunSettings, load_settings
from parfocal.train import train
from parfocal.train.folder import RunError
from train_features import write_features

PATIENTS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write patients with 1 to 3 slides; the first slide of one who is ill has the lesion."""
    folder = tmp_path_factory.mktemp("patients")
    rng = np.random.default_rng(0)
    rows = ["slide_id,path,label,patient_id,age,sex"]
    for patient in range(PATIENTS):
        ill = patient % 2 == 0
        for number in range(1 + patient % 3):
            name = f"{patient:02d}-{number}"
            label = "ill" if ill else "well"
            age = "" if patient == 3 else 50 + patient
            rows.append(f"{name},{name}.svs,{label},p{patient:02d},{age},{'FM'[patient % 2]}")
            write_features(folder / "features", name, rng, 1 if ill and number == 0 else -1)
    (folder / "cohort.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def cohort(folder: Path) -> Cohort:
    return read_cohort(folder / "cohort.csv", columns=("age", "sex"))


def with_train(settings: RunSettings, **values: object) -> RunSettings:
    return replace(settings, train=replace(settings.train, **{"epochs": 2, **values}))


def check_covariates(trained: Checkpoint, run: Path) -> None:
    """Check that covariates are encoded as in the training patients, and were trained."""
    assert trained.unit.covariates is not None
    age, sex = trained.unit.covariates.columns
    ages = [50 + int(name[1:]) for name in trained.training.patients["train"] if name != "p03"]
    assert age.mean == pytest.approx(np.mean(ages))  # over patients, not over slides
    assert age.std == pytest.approx(np.std(ages))
    assert sex.categories == ("F", "M")
    weights = trained.model.get_parameter("covariate_head.weight")
    assert weights.shape == (2, 5)
    assert weights[:, :1].abs().sum() > 0
    stored = json.loads((run / "checkpoint.json").read_text())["unit"]
    assert stored["per"] == "patient"
    assert [each["name"] for each in stored["covariates"]] == ["age", "sex"]


def test_a_patient_is_trained_on_as_one_bag(cohort, folder, settings, tmp_path, monkeypatch):
    opened: list[str] = []
    open_slide = StoredInputs.open
    monkeypatch.setattr(
        StoredInputs,
        "open",
        lambda self, slide: opened.append(slide.slide_id) or open_slide(self, slide),
    )
    run = tmp_path / "run"
    changed = with_train(settings, per="patient", covariates=("age", "sex"))
    train(cohort, changed, run, features=folder / "features")
    trained = Checkpoint.load(run)
    check_covariates(trained, run)
    assert trained.unit.per == "patient"
    assert trained.unit.fusion is None
    # Two epochs draw as many patients as there are, not slides; each with all of its slides.
    rows = read_split(run / "split.csv")
    assert len(rows) == len(cohort.slides)
    patients = {row.patient_id for row in rows if row.split == "train"}
    assert set(trained.training.patients["train"]) == patients
    assert "05-2" in opened or "05-2" not in trained.training.slides["train"]
    for start in range(len(opened) - 2):
        if opened[start] == "02-0":
            assert opened[start + 1 : start + 3] == ["02-1", "02-2"]


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["mean", "attention"])
def test_fusion_is_trained_and_stored(cohort, folder, settings, tmp_path, fusion):
    run = tmp_path / "run"
    changed = with_train(settings, per="patient", fusion=fusion, epochs=1)
    train(cohort, changed, run, features=folder / "features")
    trained = Checkpoint.load(run)
    assert trained.unit.fusion == fusion
    assert hasattr(trained.model, "fusion_head") == (fusion == "attention")


def test_a_model_of_covariates_alone_opens_no_slide(cohort, tmp_path):
    settings = load_settings(
        "covariates",
        overrides=["train.covariates=[age,sex]", "train.per=patient", "train.epochs=30"],
    )
    run = tmp_path / "run"  # no slide file exists
    summary = train(cohort, settings, run)
    assert summary.patches_encoded == 0
    # The sex is the label in this cohort.
    assert summary.val_weighted_f1 == 1.0


def test_a_patient_in_two_classes_is_refused_with_both_slides(folder, settings, tmp_path):
    text = (folder / "cohort.csv").read_text().replace("01-1,01-1.svs,well", "01-1,01-1.svs,ill")
    (folder / "two.csv").write_text(text)
    with pytest.raises(
        CohortError,
        match=r"two\.csv row 4: patient 'p01' has label 'ill' on slide 01-1 and 'well' on slide "
        r"01-0 \(row 3\); a patient has one",
    ):
        train(
            read_cohort(folder / "two.csv"),
            with_train(settings, per="patient"),
            tmp_path / "run",
            features=folder / "features",
        )


def test_a_patient_with_an_unreadable_slide_is_named_and_goes_on_if_it_may(
    cohort, folder, settings, tmp_path
):
    features = tmp_path / "features"
    features.mkdir()
    for file in (folder / "features").iterdir():
        (features / file.name).write_bytes(file.read_bytes())
    feature_path(features, "02-1").write_bytes(b"damaged")
    changed = with_train(settings, per="patient", epochs=1)
    with pytest.raises(RunError, match=r"02-1 of patient p02"):
        train(cohort, changed, tmp_path / "run", features=features)
    summary = train(cohort, changed, tmp_path / "run", features=features, skip_unreadable=True)
    assert list(summary.failed) == ["02-1"]
    used = {row.slide_id for row in read_split(tmp_path / "run" / "split.csv")}
    assert {"02-0", "02-2"} <= used
    assert "02-1" not in used


def test_covariates_that_were_not_read_are_refused(folder, settings, tmp_path):
    with pytest.raises(CohortError, match=r"the covariates age were not read"):
        train(
            read_cohort(folder / "cohort.csv"),
            with_train(settings, covariates=("age",)),
            tmp_path / "run",
            features=folder / "features",
        )


@pytest.mark.slow
def test_patients_of_one_slide_give_the_model_of_slides(folder, settings, tmp_path):
    rows = (folder / "cohort.csv").read_text().splitlines()
    (folder / "single.csv").write_text("\n".join([rows[0], *(r for r in rows[1:] if "-0," in r)]))
    cohort = read_cohort(folder / "single.csv")
    weights = []
    for per in ("slide", "patient"):
        train(
            cohort,
            with_train(settings, per=per),
            tmp_path / per,
            features=folder / "features",
        )
        weights.append(Checkpoint.load(tmp_path / per).model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_covariates_are_refused_before_any_slide_is_opened(folder, tmp_path):
    text = (folder / "cohort.csv").read_text().replace(",p05,55,", ",p05,old,")
    (tmp_path / "cohort.csv").write_text(text)
    mixed = read_cohort(tmp_path / "cohort.csv", columns=("age", "sex"))
    settings = with_train(load_settings("abmil"), covariates=("age",), labels=("well", "ill"))
    with pytest.raises(CovariateError, match="covariate age: 'old' is not a number, and most"):
        train(mixed, settings, tmp_path / "run", device="cpu")  # there are no slide files
    assert not (tmp_path / "run").exists()
