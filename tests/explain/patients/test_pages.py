"""Pages of patients, from the slides and predictions of `explain/conftest.py`."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from explain.demo_folder import DARK, LESION, SIDE, write_json
from parfocal.explain.patient_record import PatientRecord
from parfocal.explain.patients import write_patients
from parfocal.explain.read_record import read_prediction
from parfocal.explain.report import ReportError
from small import write_table


@pytest.fixture(scope="module")
def cohort(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in which slides a and b are of patient P/1, and c of none."""
    slides = folder / "cohort"
    return write_table(
        tmp_path_factory.mktemp("tables") / "patients.csv",
        ("slide_id", "path", "label", "patient_id"),
        ("a", str(slides / "a.tif"), "tumor", "P/1"),
        ("b", str(slides / "b.tif"), "tumor", "P/1"),
        ("c", str(slides / "c.tif"), "normal", ""),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the model of the predictions, without weights, and an evaluation of it."""
    root = tmp_path_factory.mktemp("run")
    run = root / "first"
    write_json(
        run / "checkpoint.json",
        {
            **{"format": "parfocal checkpoint", "format_version": 2, "labels": ["normal", "tumor"]},
            **{"weights_sha256": "ab" * 32, "versions": {"parfocal": "0.1.0"}},
            **{"encoder": {"name": "tiny", "license": "Apache-2.0"}, "training": {"seed": 3}},
            "operating_point": {
                **{"rule": "sensitivity=0.95", "slides": 8, "patients": 6, "source": ""},
                "thresholds": {"tumor": {"value": 0.9, "sensitivity": 1.0, "specificity": 0.5}},
            },
        },
    )
    rows = [
        ("s1", "A", "tumor", "train"),
        ("s2", "A", "tumor", "train"),
        ("s3", "B", "normal", "val"),
    ]
    write_table(run / "split.csv", ("slide_id", "patient_id", "label", "split"), *rows)
    score = {"value": 0.91, "low": 0.8, "high": 0.97, "undefined_resamples": 0, "reason": None}
    write_json(
        root / "evaluation" / "metrics.json",
        {
            **{"format_version": 2, "model": {"weights_sha256": "ab" * 32}, "split": "test"},
            **{"external": False, "warnings": ["few slides"], "labels": ["normal", "tumor"]},
            "slides": {
                **{"n": 12, "classes": {"normal": {"n": 7}, "tumor": {"n": 5}}},
                "scores": {"auroc_macro": score, "weighted_f1": score},
            },
        },
    )
    return run


@pytest.fixture(scope="module")
def written(
    folder: Path, cohort: Path, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out, predictions = tmp_path_factory.mktemp("pages"), tmp_path_factory.mktemp("predictions")
    for file in (folder / "predictions").glob("*.json"):
        threshold = {"label": "tumor", "value": 0.9, "rule": "sensitivity=0.95"}
        changed(file, predictions / file.name, threshold=threshold)
    paths = [predictions, run, run.parent / "evaluation"]
    pages = write_patients(paths, out, cohort=cohort)
    assert (pages.count, pages.problems) == (2, ())
    return out


def changed(file: Path, out: Path, **changes: object) -> Path:
    """Write a prediction with other values of some keys."""
    return write_json(out, json.loads(file.read_text()) | changes)


def page_of(out: Path, patient: str) -> str:
    index = (out / "index.html").read_text(encoding="utf-8")
    (name,) = re.findall(rf'<a href="([^"]*)">{re.escape(patient)}</a>', index)
    return (out / name).read_text(encoding="utf-8")


def test_slides_of_a_patient_share_a_page(written):
    page = page_of(written, "P/1")
    assert "<h1>Patient P/1</h1>" in page
    assert "The mean over 2 slides, each predicted by itself." in page
    assert re.search(r"<td>tumor</td>.*?0\.850</td>", page, re.S)  # of 0.8 and 0.9
    assert "between slides, tumor is 0.800 to 0.900" in page
    assert "Slide a: normal 0.20 (threshold tumor &gt;= 0.90)" in page
    assert "Slide b: tumor 0.90" in page
    assert "Label in the table: <strong>tumor</strong>" in page
    assert "12 of 120 patches (10.0%)" in page


def test_a_slide_without_patient_has_a_page_of_its_own(written):
    page = page_of(written, "c")
    assert "<h1>Slide c</h1>" in page
    assert '<p class="headline">normal</p>' in page
    assert "one model, so no spread" in page


def test_the_threshold_and_the_model_card_are_those_of_the_run(written):
    page = page_of(written, "P/1")
    assert '<p class="headline">normal</p>' in page  # 0.85 is below the threshold
    assert "tumor at or above 0.900 (sensitivity=0.95): threshold tumor &gt;= 0.900" in page
    assert "(sensitivity=0.95 on 8 validation slides of 6 patients)" in page
    assert "tiny (license: Apache-2.0)" in page
    assert "2 slides of 1 patient (tumor 2)" in page
    assert "12 slides (normal 7, tumor 5), test slides of the run: " in page
    assert "0.910 (0.800 to 0.970)" in page
    assert "few slides" in page
    assert page.count("Research use only. Not a medical device, not for diagnosis.") == 1


def test_pages_load_nothing_and_show_the_patch_that_counted_most(written):
    page = page_of(written, "P/1")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {each.partition(":")[0] for each in addresses} == {"data", "index.html"}
    assert "url(" not in page
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each.partition(",")[2]))))
        for each in addresses
        if each.startswith("data")
    ]
    assert len(images) == 6  # of each slide a map and two patches of the highest magnification
    x, y, side = LESION
    scale = images[0].shape[1] / SIDE
    top = images[0][round((y + side / 2) * scale), round((x + side / 2) * scale)].astype(int)
    other = images[0][round(0.9 * SIDE * scale), round(0.9 * SIDE * scale)].astype(int)
    assert top[2] - top[0] > other[2] - other[0] + 30  # blue over what was visited
    assert np.abs(images[1].mean((0, 1)) - DARK).max() < 8  # the lesion


def test_the_spread_of_several_models_is_the_uncertainty(folder, run, tmp_path):
    cost = json.loads((folder / "predictions" / "a.json").read_text())["cost"]
    members = [
        {
            **{"name": f"fold-{n}", "weights_sha256": "ab" * 32, "outputs": {}},
            **{"probabilities": {"normal": 1 - tumor, "tumor": tumor}, "added": cost},
            **{"stop_reason": "", "patches": [4, 2]},
        }
        for n, tumor in enumerate((0.7, 0.9))
    ]
    changed(
        folder / "predictions" / "a.json",
        tmp_path / "predictions" / "a.json",
        members=members,
        spread={"normal": 0.14, "tumor": 0.14},
    )
    write_patients([tmp_path / "predictions", run], tmp_path / "out")
    page = page_of(tmp_path / "out", "a")
    assert "first, the first of 2 (fold-0, fold-1), parfocal 0.1.0, seed 3" in page
    # The standard deviation of 0.7 and 0.9 is 0.1 times the root of 2.
    assert "tumor 0.800 ± 0.141 over 2 models: fold-0 0.700, fold-1 0.900" in page


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (("survival", {"risk": -0.25}, "risk -0.25"), ["risk -0.25", "event is expected earlier"]),
        (("regression", {"area": 12.5}, "12.5"), ["12.5"]),
        (("multilabel", {"KRAS": 0.7, "TP53": 0.2}, "KRAS"), ["KRAS", "0.7", "TP53", "0.2"]),
    ],
)
def test_tasks_without_classes_have_pages(folder, tmp_path, answer, texts):
    task, outputs, predicted = answer
    answer = {"label": predicted, "probabilities": {}, "task": task, "outputs": outputs}
    for name in "ab":
        file = folder / "predictions" / f"{name}.json"
        changed(file, tmp_path / "predictions" / f"{name}.json", prediction=answer)
    table = write_table(
        tmp_path / "t.csv",
        ("slide_id", "path", "patient_id"),
        *((name, f"{name}.tif", "P") for name in "ab"),
    )
    write_patients([tmp_path / "predictions"], tmp_path / "one")
    page = page_of(tmp_path / "one", "a")
    assert f'<p class="headline">{predicted}</p>' in page
    assert all(text in page for text in texts)
    assert "threshold" not in page.partition("<body>")[2]
    write_patients([tmp_path / "predictions"], tmp_path / "mean", cohort=table)
    page = page_of(tmp_path / "mean", "P")
    assert "The mean over 2 slides" in page
    assert all(text in page for text in texts)


def test_the_prediction_for_a_patient_is_one_answer_with_its_cost(folder, tmp_path):
    """As `predict --patients` writes it: the slides have the probabilities of the patient."""
    predictions = tmp_path / "predictions"
    records = []
    for name, share in (("a", 0.75), ("b", 0.25)):
        patient = {"id": "P", "slides": ["a", "b"], "share": share}
        answer = {"label": "tumor", "probabilities": {"normal": 0.4, "tumor": 0.6}}
        file = folder / "predictions" / f"{name}.json"
        path = changed(file, predictions / file.name, patient=patient, prediction=answer)
        records.append(read_prediction(path))
    model, cost = records[0].model, replace(records[0].cost, patches=(7, 3))
    whole = PatientRecord(
        "P", model, answer["probabilities"], "done", cost, tuple(records), left_out={"c": "damaged"}
    )
    (predictions / "P.patient.json").write_text(whole.to_json())
    pages = write_patients([predictions], tmp_path / "out")
    assert (pages.count, pages.problems) == (1, ())
    page = page_of(tmp_path / "out", "P")
    assert "One prediction for 2 slides, read as one." in page
    assert "Slide a: 75% of the attention" in page
    assert "10 of 60 patches" in page
    assert "Slide c could not be read, and is not part of the answer: damaged" in page


def test_without_the_run_the_page_says_what_is_unknown(folder, cohort, tmp_path):
    write_patients([folder / "predictions"], tmp_path, cohort=cohort)
    page = page_of(tmp_path, "c")
    assert "none: the most probable class" in page
    assert "unknown: add the run folder to the command" in page
    assert "none: add the folder that parfocal evaluate wrote to the command" in page


def test_predictions_of_two_models_have_pages_of_their_own(folder, tmp_path):
    pages = write_patients([folder / "predictions", folder / "mean"], tmp_path)
    assert pages.count == 4
    index = pages.index.read_text(encoding="utf-8")
    assert len(set(re.findall(r'<a href="([^"]*)">', index))) == 4
    assert "<th>predictions</th>" in index


def test_failed_slides_are_named_on_the_page_of_their_patient(folder, cohort, tmp_path):
    shutil.copytree(folder / "predictions", tmp_path / "predictions")
    (tmp_path / "predictions" / "b.json").unlink()
    write_table(
        tmp_path / "predictions" / "predictions.csv",
        ("slide_id", "path", "predicted", "prob_normal", "prob_tumor", "failed"),
        ("b", "b.tif", "", "", "", "the file is damaged"),
    )
    write_patients([tmp_path / "predictions"], tmp_path / "out", cohort=cohort)
    page = page_of(tmp_path / "out", "P/1")
    assert "Slide b could not be read, and is not part of the answer: the file is damaged" in page


def test_a_slide_that_moved_has_a_page_without_pictures(folder, tmp_path):
    content = json.loads((folder / "predictions" / "a.json").read_text())
    content["slide"]["path"] = str(tmp_path / "moved.tif")
    write_json(tmp_path / "predictions" / "a.json", content)
    write_patients([tmp_path / "predictions"], tmp_path / "out")
    page = page_of(tmp_path / "out", "a")
    assert "No pictures: " in page
    assert "--slides DIR" in page
    assert "0.800" in page


def test_names_of_patients_are_no_paths_and_no_markup(folder, tmp_path):
    table = write_table(
        tmp_path / "t.csv",
        ("slide_id", "path", "patient_id"),
        *(
            (name, f"{name}.tif", patient)
            for name, patient in zip("abc", ("../x", "<b>", "index"), strict=True)
        ),
    )
    pages = write_patients([folder / "predictions"], tmp_path / "out", cohort=table)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(names) == 4
    assert all(re.fullmatch(r"[\w.-]+\.html", name) for name in names)
    assert "<b>" not in pages.index.read_text(encoding="utf-8")


def test_a_folder_without_predictions_is_refused(run, tmp_path):
    with pytest.raises(ReportError, match="no predictions here or in the direct subfolders"):
        write_patients([run], tmp_path / "out")
    assert not (tmp_path / "out").exists()
