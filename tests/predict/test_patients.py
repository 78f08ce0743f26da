"""Predicting patients, from slide files, with what each of their slides has."""

import csv
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.dataset.errors import CohortError
from parfocal.distribute.shards import Shard
from parfocal.distribute.worklist import Distribution
from parfocal.explain.patient_record import read_patient
from parfocal.explain.read_record import RecordError
from parfocal.features.header import SlideSettings
from parfocal.models.checkpoint import build_model
from parfocal.models.covariates import fit_covariates
from parfocal.models.ensemble import as_ensemble
from parfocal.models.unit import Unit
from parfocal.predict.folder import predict_slides
from parfocal.predict.patient_table import read_patients
from parfocal.predict.patients import FailedPatient, predict_patients
from shared_work import SentEngine


@pytest.fixture(scope="module")
def slides(tmp_path_factory, write_slide) -> list[Path]:
    """Write three slides with two patches of tissue at 2.5x."""
    folder = tmp_path_factory.mktemp("slides")
    paths = []
    for number in range(3):
        pixels = np.full((512, 512, 3), 245, dtype=np.uint8)
        tissue = np.random.default_rng(number).integers(90, 200, (64, 30, 3), dtype=np.uint8)
        pixels[:, :240] = tissue.repeat(8, axis=0).repeat(8, axis=1)
        paths.append(write_slide(folder / f"s{number}.tif", pixels))
    return paths


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table of patient a with the slides s0 and s1, and patient b with s2."""
    path = tmp_path / "patients.csv"
    path.write_text("Patient,Slide,age\na,s0,61\na,slides/s1.tif,61\nb,s2.tif,\n")
    return path


def per(unit: Unit, untrained):
    trained = replace(untrained, unit=unit, model=deepcopy(untrained.model))
    unit.attach(trained.model, 2)
    return trained


@pytest.mark.slow
def test_workers_and_shards_predict_patients_as_one_process(slides, table, untrained, tmp_path):
    trained, patients = per(Unit("patient"), untrained), read_patients(table, slides)

    def predicted(name: str, *distributions: Distribution) -> dict[str, object]:
        out = tmp_path / name
        found = [
            each
            for distribution in distributions
            for each in predict_patients(
                *(patients, trained, out), device="cpu", distribution=distribution
            )
        ]
        assert set(rows_of(out / "patients.csv")) == {"a", "b"}
        return {each.id: (each.probabilities, read_patient_slides(out, each.id)) for each in found}

    alone = predicted("alone", Distribution())
    assert predicted("workers", Distribution(engine=SentEngine())) == alone
    assert predicted("shards", *(Distribution(Shard(n, 2)) for n in range(2))) == alone


def read_patient_slides(out: Path, name: str) -> list[object]:
    return [each.regions for each in read_patient(out / f"{name}.patient.json").slides]


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["patient_id"]: row for row in csv.DictReader(file)}


def test_a_patient_has_one_answer_and_each_slide_its_part(slides, table, untrained, tmp_path):
    trained, out = per(Unit("patient"), untrained), tmp_path / "out"
    patients = read_patients(table, slides)
    a, b = predict_patients(patients, trained, out, device="cpu")
    assert [each.slide.id for each in a.slides] == ["s0", "s1"]
    assert a.probabilities == a.slides[0].probabilities == a.slides[1].probabilities
    for step in (0, 1):
        scores = [region.score for each in a.slides for region in each.regions_at(step)]
        assert sum(scores) == pytest.approx(1, abs=1e-4)
    # One budget: the two slides share k = 2 zooms.
    assert sum(region.selected for each in a.slides for region in each.regions) == 2
    for each in a.slides:
        ids = {region.id for region in each.regions_at(0)}
        assert {region.parent for region in each.regions_at(1)} <= ids
        assert each.patient is not None
        assert each.patient.slides == ("s0", "s1")
    assert sum(each.patient.share for each in a.slides) == pytest.approx(1)
    assert sum(a.cost.patches) == sum(sum(each.cost.patches) for each in a.slides)
    assert a.cost.exhaustive.patches == sum(each.cost.exhaustive.patches for each in a.slides)
    assert rows_of(out / "patients.csv")["a"]["slides"] == "s0 s1"
    # A patient with one slide is the slide.
    (alone,) = predict_slides([slides[2]], untrained, tmp_path / "alone", device="cpu")
    assert b.probabilities == alone.probabilities
    assert [replace(r) for r in b.slides[0].regions] == list(alone.regions)
    assert (out / "s0.png").exists()
    assert a.summary.startswith("a (2 slides): ")
    read = read_patient(out / "a.patient.json")
    assert read == a
    # The same call again predicts nothing.
    stamp = (out / "a.patient.json").stat().st_mtime_ns
    assert [each.id for each in predict_patients(patients, trained, out, device="cpu")] == [
        "a",
        "b",
    ]
    assert (out / "a.patient.json").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_fusion_asks_a_model_of_slides(slides, table, untrained, tmp_path):
    trained = per(Unit("patient", "mean"), untrained)
    a, _ = predict_patients(read_patients(table, slides), trained, tmp_path / "a", device="cpu")
    alone = list(predict_slides(slides[:2], untrained, tmp_path / "s", device="cpu"))
    for label, probability in a.probabilities.items():
        mean = sum(each.probabilities[label] for each in alone) / 2
        assert probability == pytest.approx(mean, abs=1e-6)
    assert [sum(r.score for r in each.regions_at(0)) for each in a.slides] == pytest.approx(
        [0.5] * 2
    )


def test_an_unreadable_slide_fails_its_patient_unless_it_may_be_skipped(
    slides, table, untrained, tmp_path
):
    damaged = tmp_path / "s1.tif"
    damaged.write_bytes(b"no slide")
    trained, given = per(Unit("patient"), untrained), [slides[0], damaged, slides[2]]
    patients = read_patients(table, given)
    a, _ = predict_patients(patients, trained, tmp_path / "out", device="cpu")
    assert isinstance(a, FailedPatient)
    assert a.reason.startswith("patient a, slide s1.tif: ")
    assert rows_of(tmp_path / "out" / "patients.csv")["a"]["failed"] == a.reason
    a, _ = predict_patients(patients, trained, tmp_path / "out", device="cpu", skip_unreadable=True)
    assert list(a.left_out) == ["s1"]
    assert rows_of(tmp_path / "out" / "patients.csv")["a"]["left_out"] == "s1"


def test_a_slide_that_is_not_given_fails_its_patient_unless_it_may_be_skipped(
    slides, table, untrained, tmp_path
):
    patients = read_patients(table, slides[:1])
    assert [each.id for each in patients] == ["a"]
    trained = per(Unit("patient"), untrained)
    (a,) = predict_patients(patients, trained, tmp_path / "out", device="cpu")
    assert a.reason.startswith("patient a: slide s1.tif is in the table but not among the given")
    (a,) = predict_patients(patients, trained, tmp_path / "out", device="cpu", skip_unreadable=True)
    assert a.left_out == {"s1.tif": "not among the slides given"}


@pytest.mark.slow
def test_covariates_come_from_the_table(slides, table, untrained, tmp_path):
    covariates = fit_covariates(("age",), [{"age": "50"}, {"age": "70"}])
    trained = per(Unit("patient", covariates=covariates), untrained)
    head = trained.model.covariate_head
    torch.nn.init.constant_(head.weight[0], 1.0)  # of the first class
    plain = per(Unit("patient"), untrained)
    patients = read_patients(table, slides, ("age",))
    a, b = predict_patients(patients, trained, tmp_path / "a", device="cpu")
    a0, b0 = predict_patients(patients, plain, tmp_path / "b", device="cpu")

    def odds(record) -> float:
        first, second = record.probabilities.values()
        return float(torch.tensor(first / second).log())

    assert odds(a) - odds(a0) == pytest.approx((61 - 60) / 10, abs=1e-3)
    assert odds(b) - odds(b0) == pytest.approx(1, abs=1e-3)  # the indicator of a missing value
    assert a.covariates == {"age": "61"}
    changed = table.read_text().replace("61", "62")
    table.write_text(changed)
    again = predict_patients(
        read_patients(table, slides, ("age",)), trained, tmp_path / "a", device="cpu"
    )
    assert next(iter(again)).covariates == {"age": "62"}  # not the result of before


def test_the_models_of_folds_answer_for_a_patient(slides, table, untrained, tmp_path):
    members = {}
    for number, mean in enumerate((50, 60)):
        ages = [{"age": str(mean - 10)}, {"age": str(mean + 10)}]
        members[f"fold-{number}"] = per(
            Unit("patient", None, fit_covariates(("age",), ages)), untrained
        )
        head = members[f"fold-{number}"].model.covariate_head
        torch.nn.init.constant_(head.weight[0], 1.0 + number)
    patients = read_patients(table, slides, ("age",))
    whole = as_ensemble(tmp_path, members)
    a, b = predict_patients(patients, whole, tmp_path / "all", device="cpu")
    alone = [
        next(iter(predict_patients(patients, each, tmp_path / name, device="cpu")))
        for name, each in members.items()
    ]
    for label, probability in a.probabilities.items():
        pair = [each.probabilities[label] for each in alone]
        assert probability == pytest.approx(sum(pair) / 2)
    # Both visit the same patches, which are read and encoded once.
    assert a.cost.patches == alone[0].cost.patches
    for record, own in zip(a.slides, alone[0].slides, strict=True):
        assert [each.name for each in record.members] == ["fold-0", "fold-1"]
        assert record.members[1].added.patches == (0,) * len(record.cost.patches)
        assert {region.id for region in record.regions} == {region.id for region in own.regions}
    scores = [region.score for each in a.slides for region in each.regions_at(1)]
    assert sum(scores) == pytest.approx(1, abs=1e-4)
    assert "over 2 models" in a.summary
    assert read_patient(tmp_path / "all" / "a.patient.json") == a
    content = json.loads((tmp_path / "all" / "a.patient.json").read_text())
    assert [each["name"] for each in content["members"]] == ["fold-0", "fold-1"]
    assert content["spread"] == a.slides[0].spread
    assert b.slides[0].spread["normal"] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,file\na,s0\n", r"no column slide \(found: patient, file\)"),
        ("patient,slide\na,s0\n", r"no row for 2 of 3 slides \(.*s1\.tif, .*s2\.tif\)"),
        (
            "patient,slide\na,s0\nb,s0.tif\na,s1\na,s2\n",
            r"row 3: slide 's0' is also in row 2 \(patients 'a' and 'b'\)",
        ),
        ("patient,slide\na,s0\na,s1\na,s2\n", r"no column age, which the model predicts from"),
        (
            "patient,slide,age\na,s0,1\na,s1,2\na,s2,1\n",
            r"row 3: patient 'a' has age '2', but '1' in row 2; correct one of the rows",
        ),
        ("patient,slide,age\na,,1\n", r"row 2: slide is empty"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(slides, tmp_path, text, message):
    path = tmp_path / "patients.csv"
    path.write_text(text)
    columns = ("age",) if "age" in message or "age" in text else ()
    with pytest.raises(CohortError, match=message):
        read_patients(path, slides, columns)


def test_a_table_of_patients_without_covariates_is_refused(slides, tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("patient,slide\na,s0\na,s1\na,s2\n")
    with pytest.raises(CohortError, match=r"no columns age, stage, which .*; add them, with an"):
        read_patients(path, slides, ("age", "stage"))


def test_a_record_whose_slide_was_replaced_is_refused(slides, table, untrained, tmp_path):
    out, trained = tmp_path / "out", per(Unit("patient"), untrained)
    list(predict_patients(read_patients(table, slides), trained, out, device="cpu"))
    content = json.loads((out / "s1.json").read_text())
    del content["patient"]
    (out / "s1.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"s1\.json: this is not the slide of patient a that"):
        read_patient(out / "a.patient.json")


@pytest.mark.slow
def test_a_model_that_takes_pixels_is_fused(slides, table, untrained, tmp_path):
    settings = {"num_classes": 2, "thumbnail_px": 32}
    torch.manual_seed(0)
    trained = replace(
        untrained,
        model=build_model("meanrgb", settings).eval(),
        model_name="meanrgb",
        model_settings=settings,
        encoders=(),
        slide=SlideSettings((10.0,), 64),
    )
    alone = list(predict_slides(slides[:2], trained, tmp_path / "s", device="cpu"))
    fused = replace(trained, unit=Unit("patient", "mean"))
    a, _ = predict_patients(read_patients(table, slides), fused, tmp_path / "out", device="cpu")
    for label, probability in a.probabilities.items():
        mean = sum(each.probabilities[label] for each in alone) / 2
        assert probability == pytest.approx(mean, abs=1e-6)
    assert [len(each.regions) for each in a.slides] == [1, 1]
