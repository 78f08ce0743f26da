"""The commands say what a run per patient needs, and predict patients with their table."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from explain.demo_folder import running
from parfocal.explain.library import load_library
from parfocal.explain.patient_record import read_patient
from parfocal.models.covariates import fit_covariates
from parfocal.models.unit import Unit


@pytest.fixture
def slides(tmp_path: Path, write_slide) -> list[Path]:
    return [write_slide(tmp_path / f"s{n}.tif", seed=n) for n in range(2)]


@pytest.fixture
def run(tmp_path: Path, untrained):
    """Return a function that saves a run with a unit."""

    def save(unit: Unit) -> Path:
        folder = tmp_path / "run"
        trained = replace(untrained, unit=unit, model=deepcopy(untrained.model))
        unit.attach(trained.model, 2)
        trained.save(folder)
        return folder

    return save


def test_patients_are_predicted_and_shown_side_by_side(slides, run, parfocal, tmp_path):
    table, out = tmp_path / "patients.csv", tmp_path / "out"
    table.write_text("patient,slide\na,s0\na,s1\n")
    arguments = ["predict", run(Unit("patient")), *slides, "--out", out]
    refused = parfocal(*arguments)
    assert refused.code == 1
    assert "predicts per patient; give --patients TABLE with the columns patient and" in refused.err
    done = parfocal(*arguments, "--patients", table)
    assert done.code == 0, done.err
    assert done.out.startswith("a (2 slides): ")
    assert "patients.csv, .patient.json per patient" in done.err
    assert read_patient(out / "a.patient.json").id == "a"
    library = load_library([out])
    assert library.problems == []
    with running(library) as server:
        first, second = server.json("/api/slides")["slides"]
        assert [each["predictions"][0]["patient"] for each in (first, second)] == ["a", "a"]
        (sibling,) = server.json(f"/api/slides/{first['key']}")["siblings"]
        assert (sibling["slide"], sibling["id"]) == (second["key"], second["id"])
        assert sibling["of"] == first["predictions"][0]["key"]
        shown = server.json(f"/api/slides/{sibling['slide']}/predictions/{sibling['key']}")
    assert shown["patient"]["slides"] == ["s0", "s1"]


@pytest.mark.slow
def test_what_a_table_of_patients_is_for_is_said(slides, run, parfocal, tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("patient,slide\na,s0\na,s1\n")
    plain = run(Unit())
    arguments = [*slides, "--out", tmp_path / "out", "--patients", table]
    assert (
        "the model predicts per slide; leave the table out"
        in parfocal("predict", plain, *arguments).err
    )
    assert (
        "for patients, add --fusion mean (or max)"
        in parfocal("predict", plain, *arguments, "--per", "patient").err
    )
    fused = parfocal("predict", plain, *arguments, "--fusion", "mean")
    assert fused.code == 0, fused.err
    of_age = run(Unit(covariates=fit_covariates(("age",), [{"age": "5"}])))
    message = "also predicts from age; give --patients TABLE with the columns slide, age"
    assert message in parfocal("predict", of_age, *slides, "--out", tmp_path / "out").err
    table.write_text("slide,age\ns0,5\ns1,\n")
    assert parfocal("predict", of_age, *arguments, "--replace", "--again").code == 0
