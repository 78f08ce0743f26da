"""Predictions of tasks without classes: the record, its file, the table and the pictures."""

import csv
import json
from dataclasses import replace

import pytest

from parfocal.explain.library import load_library
from parfocal.explain.read_record import RecordError, read_prediction
from parfocal.explain.report import write_report
from parfocal.models.checkpoint import build_model
from parfocal.operating_point import OperatingPoint, Threshold
from parfocal.predict.folder import predict_slides
from parfocal.predict.slide import predict
from parfocal.tasks import build_task

SURVIVAL = build_task("survival", time="months", event="dead")
LABELS = build_task("multilabel", target=["er", "pr"])


def with_task(untrained, task):
    settings = {**untrained.model_settings, "num_classes": len(task.output_names)}
    model = build_model(untrained.model_name, settings).eval()
    changed = {"model": model, "model_settings": settings, "labels": task.output_names}
    return replace(untrained, **changed, task=task.to_dict())


@pytest.fixture
def survival(untrained):
    return with_task(untrained, SURVIVAL)


def test_a_risk_is_recorded_and_read_again(survival, write_slide, tmp_path):
    record = predict(write_slide(tmp_path / "one.svs"), survival)
    assert (record.task, record.probabilities) == ("survival", {})
    assert record.answer == f"risk {record.outputs['risk']:.3g}"
    assert f"one: {record.answer} · visited" in record.summary
    (tmp_path / "one.json").write_text(record.to_json())
    assert read_prediction(tmp_path / "one.json") == record


def test_a_record_without_any_answer_is_refused(survival, write_slide, tmp_path):
    record = predict(write_slide(tmp_path / "one.svs"), survival)
    (tmp_path / "one.json").write_text(replace(record, outputs={}).to_json())
    with pytest.raises(RecordError, match="no class has a probability"):
        read_prediction(tmp_path / "one.json")


def test_several_labels_are_named_if_they_are_likely(untrained, write_slide, tmp_path):
    record = predict(write_slide(tmp_path / "one.svs"), with_task(untrained, LABELS))
    likely = [name for name, probability in record.outputs.items() if probability >= 0.5]
    assert record.label == (", ".join(likely) or "none")


def test_each_label_is_decided_at_its_threshold(untrained, write_slide, tmp_path):
    point = OperatingPoint("youden", {"er": Threshold(0.0), "pr": Threshold(1.0)}, slides=5)
    trained = replace(with_task(untrained, LABELS), operating_point=point)
    record = predict(write_slide(tmp_path / "one.svs"), trained)
    assert record.label == "er"
    assert record.answer == "er (thresholds er >= 0.00, pr >= 1.00)"
    (tmp_path / "one.json").write_text(record.to_json())
    assert read_prediction(tmp_path / "one.json") == record
    content = json.loads(record.to_json())
    assert content["thresholds"][1] == {"label": "pr", "value": 1.0, "rule": "youden"}
    content["thresholds"][1]["label"] = "other"
    (tmp_path / "one.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match="a threshold is for 'other', which is no label"):
        read_prediction(tmp_path / "one.json")


def test_a_folder_of_risks_has_a_table_a_report_and_a_library(survival, write_slide, tmp_path):
    slides, out = [write_slide(tmp_path / f"{name}.svs") for name in "ab"], tmp_path / "out"
    (first, _) = predict_slides(slides, survival, out, device="cpu")
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["slide_id", "path", "predicted", "pred_risk", "failed"]
    assert float(rows[0]["pred_risk"]) == pytest.approx(first.outputs["risk"], abs=1e-6)
    assert (out / "a.png").exists()
    library = load_library([out])
    assert next(each.predictions[0].label for each in library.slides.values()) == first.answer
    assert write_report((out,), tmp_path / "report.html") == ()
    assert first.answer in (tmp_path / "report.html").read_text()


def test_a_table_of_another_task_is_refused(untrained, survival, write_slide, tmp_path):
    slide, out = write_slide(tmp_path / "a.svs"), tmp_path / "out"
    list(predict_slides([slide], survival, out, device="cpu"))
    with pytest.raises(ValueError, match="but the outputs of this model are er, pr; predict into"):
        list(predict_slides([slide], with_task(untrained, LABELS), out, device="cpu"))
