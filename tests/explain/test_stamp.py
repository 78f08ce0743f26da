"""Tables for STAMP, from small evaluations written here."""

import csv
import json
import math
from pathlib import Path

import pytest

from parfocal.explain.report import ReportError
from parfocal.explain.stamp import write_stamp_tables
from small import write_table


def evaluation(folder: Path, *rows: tuple[str, ...], **content: object) -> Path:
    """Write an evaluation: rows of predictions.csv, the header first, and keys of metrics.json."""
    folder.mkdir(parents=True)
    write_table(folder / "predictions.csv", *rows)
    text = json.dumps({"format_version": 2, "labels": ["no", "yes"], **content})
    (folder / "metrics.json").write_text(text)
    return folder


def written(folder: Path, out: Path, **options: str) -> list[dict[str, str]]:
    (path,) = write_stamp_tables([folder], out, **options)
    assert path == out / "patient-preds.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


CLASSES = (
    ("slide_id", "patient_id", "label", "predicted", "prob_no", "prob_yes", "patches"),
    ("a", "007", "no", "yes", "0.25", "0.75", "3"),
    ("b", "007", "no", "yes", "0.05", "0.95", "3"),
    ("c", "008", "yes", "yes", "0.1", "0.9", "3"),
)


def test_a_patient_has_the_mean_of_its_slides_and_the_smallest_loss_is_first(tmp_path):
    rows = written(evaluation(tmp_path / "e", *CLASSES), tmp_path / "out", name="isMSIH")
    assert [*rows[0]] == ["PATIENT", "isMSIH", "pred", "isMSIH_no", "isMSIH_yes", "loss"]
    assert [row["PATIENT"] for row in rows] == ["008", "007"]
    assert rows[1] == {
        **{"PATIENT": "007", "isMSIH": "no", "pred": "yes"},
        **{"isMSIH_no": "0.15", "isMSIH_yes": "0.85", "loss": f"{-math.log(0.15):.6g}"},
    }


@pytest.mark.parametrize(("threshold", "predicted"), [(0.875, ["yes", "no"]), (0.8, ["yes"] * 2)])
def test_the_class_is_that_of_the_threshold_of_the_run(tmp_path, threshold, predicted):
    point = {"thresholds": {"yes": {"chosen": {"value": threshold}}}}
    folder = evaluation(tmp_path / "e", *CLASSES, operating_point=point)
    assert [row["pred"] for row in written(folder, tmp_path / "out")] == predicted


def test_the_statistics_of_stamp_can_read_the_table(tmp_path):
    """They take the true class and the probability of each, named after the target."""
    rows = written(evaluation(tmp_path / "e", *CLASSES), tmp_path / "out")
    categories = {row["label"] for row in rows}
    scores = [[float(row[f"label_{category}"]) for category in categories] for row in rows]
    assert all(sum(each) == pytest.approx(1, abs=1e-5) for each in scores)


def test_a_survival_table_has_score_time_and_event(tmp_path):
    task = {"name": "survival", "time": "os_months", "event": "os_event"}
    folder = evaluation(
        tmp_path / "e",
        ("slide_id", "patient_id", "os_months", "os_event", "pred_risk"),
        ("a", "P", "12.5", "1:DECEASED", "0.5"),
        ("b", "P", "12.5", "1:DECEASED", "1.5"),
        ("c", "Q", "3", "no", "-1"),
        task=task,
    )
    assert written(folder, tmp_path / "out") == [
        {"PATIENT": "P", "pred_score": "1", "os_months": "12.5", "os_event": "1"},
        {"PATIENT": "Q", "pred_score": "-1", "os_months": "3", "os_event": "0"},
    ]


def test_a_name_that_no_column_would_have_is_refused(tmp_path):
    task = {"name": "survival", "time": "os_months", "event": "os_event"}
    folder = evaluation(tmp_path / "e", ("slide_id", "patient_id"), task=task)
    with pytest.raises(ReportError, match=r"--name foo: .* \(os_months, os_event\), and none"):
        written(folder, tmp_path / "out", name="foo")


def test_a_regression_table_has_the_absolute_error(tmp_path):
    task = {"name": "regression", "targets": ["area", "age"], "means": [0, 0], "deviations": [1, 1]}
    folder = evaluation(
        tmp_path / "e",
        ("slide_id", "patient_id", "area", "age", "pred_area", "pred_age"),
        ("a", "P", "2,5", "60", "2", "61"),
        ("b", "Q", "", "50", "7", "51"),
        task=task,
    )
    assert written(folder, tmp_path / "out", target="area") == [
        {"PATIENT": "P", "area": "2,5", "pred": "2", "loss": "0.5"},
        {"PATIENT": "Q", "area": "", "pred": "7", "loss": ""},
    ]
    with pytest.raises(ReportError, match=r"several targets \(area, age\), and a table of STAMP"):
        write_stamp_tables([folder], tmp_path / "out")
    with pytest.raises(ReportError, match=r"--target x: .* has the targets area, age"):
        write_stamp_tables([folder], tmp_path / "out", target="x")


def test_several_labels_have_the_columns_of_several_targets(tmp_path):
    folder = evaluation(
        tmp_path / "e",
        ("slide_id", "patient_id", "KRAS", "TP53", "pred_KRAS", "pred_TP53"),
        ("a", "P", "1", "", "0.75", "0.25"),
        task={"name": "multilabel", "targets": ["KRAS", "TP53"]},
    )
    (row,) = written(folder, tmp_path / "out")
    assert row == {
        **{"PATIENT": "P", "KRAS": "1", "TP53": "", "pred_KRAS": "1", "pred_TP53": "0"},
        **{"KRAS_0": "0.25", "KRAS_1": "0.75", "TP53_0": "0.75", "TP53_1": "0.25"},
        "loss": f"{-math.log(0.75):.6g}",
    }


def test_evaluations_of_folds_become_splits(tmp_path):
    for number in range(2):
        evaluation(tmp_path / "evaluation" / f"fold-{number}", *CLASSES)
    paths = write_stamp_tables([tmp_path / "evaluation"], tmp_path / "out")
    names = [path.relative_to(tmp_path / "out").as_posix() for path in paths]
    assert names == ["split-0/patient-preds.csv", "split-1/patient-preds.csv"]


def test_what_cannot_be_a_table_is_refused(tmp_path):
    with pytest.raises(ReportError, match="no evaluation here or in the direct subfolders"):
        write_stamp_tables([tmp_path], tmp_path / "out")
    folder = evaluation(tmp_path / "e", *CLASSES, ("d", "008", "no", "no", "0.9", "0.1", "3"))
    message = r"slides of patient '008' have different values of label \(yes, no\)"
    with pytest.raises(ReportError, match=message):
        write_stamp_tables([folder], tmp_path / "out")
    (folder / "predictions.csv").write_text("slide_id\na\n")
    with pytest.raises(ReportError, match=r"damaged .*; evaluate again"):
        write_stamp_tables([folder], tmp_path / "out")


def test_the_command_names_what_it_wrote(parfocal, tmp_path):
    folder, out = evaluation(tmp_path / "e", *CLASSES), tmp_path / "stamp"
    found = parfocal("export", folder, "--name", "isMSIH", "--out", out)
    assert (found.code, found.out) == (0, f"wrote {out / 'patient-preds.csv'}\n")
