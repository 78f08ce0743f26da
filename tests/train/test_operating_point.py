"""Thresholds and temperatures that training chooses on its validation slides."""

import json
import logging
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from parfocal.dataset.inputs import StoredInputs
from parfocal.dataset.split import read_split
from parfocal.metrics import choose_threshold
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import run_model
from parfocal.operating_point import OperatingPoint, Threshold, ThresholdRule
from parfocal.settings import TrainSettings, load_settings
from parfocal.tasks import build_task
from parfocal.train import train
from parfocal.train.folder import RunError
from parfocal.train.operating_point import (
    CROSS_NOTE,
    REFIT_NOTE,
    SHARED_NOTE,
    ValidationTable,
    _of_other_folds,
    choose_operating_point,
    refuse_impossible,
)


def run_training(cohort, out, *overrides, resume=False):
    small = ["slide.patch_size=16", "encoder.name=tiny", "model.dim=8", "train.epochs=1"]
    settings = load_settings("abmil", overrides=[*small, *overrides])
    settings = replace(settings, slide=replace(settings.slide, magnifications=(5.0,)))
    features = cohort.source.parent / "features"
    return train(
        cohort, settings, out, features=features, device="cpu", progress=False, resume=resume
    )


def table(truth, ill, patients=None):
    """Return outputs for slides of two classes from the probability of the second one."""
    logits = np.log(np.stack([1 - np.array(ill), np.array(ill)], axis=1))
    ids = tuple(f"s{n}" for n in range(len(truth)))
    groups = tuple(patients or ids)
    return ValidationTable(("well", "ill"), ids, groups, np.array(truth, dtype=np.int64), logits)


def test_the_threshold_is_chosen_on_the_outputs_of_the_best_epoch(cohort, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        summary = run_training(cohort, tmp_path / "run", "train.threshold=youden")
    assert summary.operating_point not in caplog.text  # the command prints it, once
    trained = Checkpoint.load(tmp_path / "run")
    val = [row for row in read_split(tmp_path / "run" / "split.csv") if row.split == "val"]
    inputs = StoredInputs(tmp_path / "features", trained.slide, encoder=trained.encoders)
    slides = {slide.slide_id: slide for slide in cohort.slides}
    scores = []
    for row in val:
        with inputs.open(slides[row.slide_id]) as opened, torch.no_grad():
            logits = run_model(trained.model, [opened.model_input]).logits
        scores.append(softmax(logits.double().numpy().reshape(-1))[1])
    well = np.array([row.label == "well" for row in val])  # the second class in order
    expected = choose_threshold(well, np.array(scores), ThresholdRule("youden"))
    point = trained.operating_point
    assert list(point.thresholds) == ["well"]
    assert point.thresholds["well"].value == pytest.approx(expected, abs=1e-6)
    assert (point.slides, point.note) == (len(val), SHARED_NOTE)
    assert summary.operating_point == point.summary
    again = run_training(cohort, tmp_path / "run", "train.threshold=youden", resume=True)
    assert again.operating_point == summary.operating_point


def test_without_a_rule_the_files_are_those_of_before(cohort, tmp_path):
    summary = run_training(cohort, tmp_path / "run")
    assert summary.operating_point is None
    assert "operating_point" not in json.loads((tmp_path / "run/checkpoint.json").read_text())
    assert not (tmp_path / "run" / "validation.csv").exists()
    logits = torch.ones(2)
    assert Checkpoint.load(tmp_path / "run").calibrated(logits) is logits


def test_a_fold_gets_the_threshold_of_the_other_folds(cohort, tmp_path):
    out = tmp_path / "run"
    options = "train.folds=2", "train.threshold=youden", "train.temperature=true"
    summary = run_training(cohort, out, *options, "train.val_fraction=0.3")
    tables = [ValidationTable.read(out / f"fold-{n}" / "validation.csv") for n in range(2)]
    for number, fold in enumerate(summary.folds):
        point = Checkpoint.load(fold.out).operating_point
        rows = read_split(fold.out / "split.csv")
        own = {row.patient_id for row in rows if row.split in ("test", "val")}
        other = tables[1 - number].without(own)
        if set(other.truth) != {0, 1}:  # nothing to choose on: its own
            assert point.note == SHARED_NOTE
            continue
        assert not own & set(other.patients)
        settings = TrainSettings(threshold="youden", temperature=True)
        expected = choose_operating_point(other, settings)
        assert point.thresholds == expected.thresholds
        assert (point.note, point.slides) == (CROSS_NOTE, len(other.slide_ids))
        assert fold.operating_point == point.summary
        assert "of other folds" in point.summary


def test_the_table_of_outputs_is_read_as_it_was_written(tmp_path):
    written = table([0, 1, 1], [0.1, 0.7, 1 / 3], patients="aab")
    path = tmp_path / "validation.csv"
    path.write_bytes(written.to_bytes())
    read = ValidationTable.read(path)
    assert (read.labels, read.slide_ids, read.patients) == (
        written.labels, written.slide_ids, written.patients,
    )  # fmt: skip
    assert np.array_equal(read.logits, written.logits)
    assert np.array_equal(read.truth, written.truth)
    path.write_bytes(table([], []).to_bytes())
    assert len(ValidationTable.read(path).slide_ids) == 0
    path.write_text("slide_id,patient_id,label,logit_ill\na,a,other,0\n")
    with pytest.raises(RunError, match="the outputs for the validation slides cannot be read"):
        ValidationTable.read(path)


def test_a_temperature_comes_before_the_threshold():
    outputs = table([0, 0, 1, 1, 1], [0.1, 0.8, 0.3, 0.9, 0.95])
    plain = choose_operating_point(outputs, TrainSettings(threshold="sensitivity=1"))
    both = choose_operating_point(
        outputs, TrainSettings(threshold="sensitivity=1", temperature=True)
    )
    low, high = softmax(outputs.logits / both.temperature, axis=1)[[0, 2], 1]
    assert both.thresholds["ill"].value == pytest.approx((low + high) / 2)
    assert plain.thresholds["ill"].value == pytest.approx(0.2)
    assert plain.text == (
        "threshold ill >= 0.200 [sensitivity 1.000, specificity 0.500] (sensitivity=1 on 5 "
        "validation slides of 5 patients)"
    )


def test_each_of_three_classes_has_a_threshold_and_a_given_one_needs_no_slides():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]]))
    three = ValidationTable(tuple("abc"), tuple("xyz"), tuple("xyz"), np.arange(3), logits)
    point = choose_operating_point(three, TrainSettings(threshold="youden"))
    assert {label: round(each.value, 3) for label, each in point.thresholds.items()} == {
        "a": 0.45, "b": 0.4, "c": 0.45,
    }  # fmt: skip
    given = choose_operating_point(table([], []), TrainSettings(threshold=0.4))
    assert given == OperatingPoint("0.4", {"ill": Threshold(0.4)})


def test_what_cannot_be_chosen_is_refused_before_the_first_epoch(cohort, tmp_path):
    task = build_task(labels=("ill", "well"))
    ill = [slide for slide in cohort.slides if slide.label == "ill"]
    with pytest.raises(RunError) as refused:
        refuse_impossible(TrainSettings(threshold="youden"), task, ill)
    assert str(refused.value) == (
        "train.threshold: there is no validation slide of class well to choose it on; raise "
        "train.val_fraction, or add slides to split val, or give a number, such as --threshold 0.5."
    )
    with pytest.raises(RunError, match="no validation slide of class ill, well to choose it on"):
        refuse_impossible(TrainSettings(temperature=True), task, [])
    refuse_impossible(TrainSettings(threshold=0.4), task, ill)
    refuse_impossible(TrainSettings(), task, [])


def test_several_targets_have_no_threshold():
    task = build_task("classification", target=("a", "b:regression"))
    with pytest.raises(RunError, match=r"train\.threshold: a model with several targets cannot"):
        refuse_impossible(TrainSettings(threshold=0.5), task, [])


def test_a_task_without_thresholds_refuses_them(cohort):
    task = build_task("regression", target=("a", "b"))
    for settings in (TrainSettings(threshold=0.5), TrainSettings(temperature=True)):
        with pytest.raises(RunError, match="task regression has no classes to choose it for"):
            refuse_impossible(settings, task, cohort.slides)


@pytest.mark.slow
def test_a_refit_says_that_the_slides_are_no_longer_apart(cohort, tmp_path):
    summary = run_training(cohort, tmp_path / "run", "train.threshold=0.4", "train.refit=true")
    assert summary.operating_point == "threshold well >= 0.400 (given)"
    summary = run_training(cohort, tmp_path / "other", "train.threshold=youden", "train.refit=true")
    assert summary.operating_point.endswith(REFIT_NOTE)


def test_an_operating_point_is_read_as_it_was_written():
    point = OperatingPoint("youden", {"ill": Threshold(0.4, 0.9, 0.8, 10, 5)}, 1.5, 15, 9, "", "x")
    assert OperatingPoint.parse(json.loads(json.dumps(asdict(point)))) == point
    for damaged in ({"thresholds": {"ill": {"value": "high"}}}, {"heat": 1.0}, [1], None):
        with pytest.raises(ValueError, match=r"value|heat|mapping"):
            OperatingPoint.parse(damaged)


def test_two_classes_are_decided_by_the_threshold_of_the_second():
    point = OperatingPoint("0.4", {"ill": Threshold(0.4)})
    assert point.decided_label({"well": 0.6, "ill": 0.4}) == "ill"
    assert point.decided_label({"well": 0.61, "ill": 0.39}) == "well"
    assert point.decided_label({"a": 0.6, "b": 0.4}) is None
    assert point.decided_label({"well": 0.3, "ill": 0.4, "other": 0.3}) is None
    assert OperatingPoint(temperature=2.0).decided_label({"well": 0.6, "ill": 0.4}) is None


def test_a_fold_that_tests_the_other_folds_validation_patients_keeps_its_threshold(
    tmp_path, caplog
):
    (tmp_path / "split.csv").write_text("slide_id,patient_id,label,split\ns0,s0,ill,test\n")
    others = [table([1, 0], [0.8, 0.2])]
    assert _of_other_folds(tmp_path, others, TrainSettings(threshold="youden")) is None
    assert (
        "there is no positive slide among the validation slides of the other folds whose patients "
        "it neither tests nor validates, so the fold keeps the threshold of its own"
    ) in caplog.text


def several(truth, probability):
    logits = np.log(np.array(probability) / (1 - np.array(probability)))
    names = tuple(f"s{n}" for n in range(len(logits)))
    return ValidationTable(("er", "pr"), names, names, np.array(truth, dtype=float), logits)


def test_each_of_several_labels_has_a_threshold_from_the_slides_where_it_is_known(tmp_path):
    truth = [[1, 0], [1, np.nan], [0, 1], [0, 1], [np.nan, 0]]
    outputs = several(truth, [[0.8, 0.1], [0.6, 0.9], [0.3, 0.7], [0.2, 0.5], [0.99, 0.4]])
    point = choose_operating_point(outputs, TrainSettings(threshold="youden"))
    assert point.thresholds["er"].value == pytest.approx(0.45)
    assert point.thresholds["pr"].value == pytest.approx(0.45)
    assert (point.thresholds["er"].positives, point.thresholds["er"].negatives) == (2, 2)
    path = tmp_path / "validation.csv"
    path.write_bytes(outputs.to_bytes())
    read = ValidationTable.read(path)
    assert read.labels == outputs.labels
    assert np.array_equal(read.truth, outputs.truth, equal_nan=True)
    assert np.array_equal(read.logits, outputs.logits)
    assert read.without({"s0"}).truth.shape == (4, 2)


def test_a_threshold_of_a_label_that_all_validation_slides_have_is_refused(cohort):
    task = build_task("multilabel", target=["er", "pr"])
    val = [
        replace(each, values={"er": "1", "pr": str(n % 2)})
        for n, each in enumerate(cohort.slides[:4])
    ]
    with pytest.raises(RunError, match="no validation slide without er to choose its threshold"):
        refuse_impossible(TrainSettings(threshold="youden"), task, val)
    refuse_impossible(TrainSettings(threshold="0.5"), task, val)
    with pytest.raises(RunError, match=r"train\.temperature: it divides the logits of classes"):
        refuse_impossible(TrainSettings(temperature=True), task, val)
