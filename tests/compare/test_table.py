import csv
import io

import pytest

from compare.test_scores import BROKEN, GOOD, POOR
from parfocal.compare.picture import draw_comparison
from parfocal.compare.scores import score_results
from parfocal.compare.table import to_csv, to_markdown


def test_a_failed_model_has_its_reason_and_no_numbers():
    rows = score_results([GOOD, BROKEN], "accuracy", resamples=10)
    assert rows[1].scores == {}
    table = list(csv.DictReader(io.StringIO(to_csv(rows, "accuracy"))))
    assert table[1]["reason"] == "it broke"
    assert table[1]["accuracy"] == table[1]["macs"] == ""
    text = to_markdown(rows, "accuracy")
    assert "- broken failed: it broke" in text
    assert "test slides (0)" not in text


def test_if_all_models_failed_the_table_has_only_the_reasons():
    rows = score_results([BROKEN], "accuracy", resamples=10)
    assert "- broken failed: it broke" in to_markdown(rows, "accuracy")
    assert draw_comparison(rows, "accuracy").startswith(b"\x89PNG")


def test_the_csv_has_all_numbers():
    rows = score_results([GOOD, POOR], "accuracy", resamples=10)
    good, poor = csv.DictReader(io.StringIO(to_csv(rows, "accuracy")))
    assert (good["macs"], good["flops"], good["patches"]) == (str(2e12), str(4e12), "500.0")
    assert good["seconds_read_cpu"] == "0.5"
    assert poor["seconds_read_cpu"] == ""
    assert float(poor["gap_to_best_accuracy"]) == pytest.approx(1 / 3)
    assert poor["failed_slides"] == "1"
    assert (good["n_benign"], good["n_cancer"], good["resamples"]) == ("3", "3", "10")
    assert good["weighted_f1_low"] == ""  # every resample is perfect
    assert good["accuracy_low"] != ""


def test_the_table_has_the_columns_of_the_zoommil_paper():
    text = to_markdown(score_results([GOOD, POOR], "accuracy", resamples=10), "accuracy")
    header, _, good, poor, *_ = text.splitlines()
    assert header.startswith(
        "| model | test slides | weighted F1, % | accuracy, % | macro AUROC | gap to best"
    )
    assert good.startswith("| good | benign 3, cancer 3 | 100.0 | 100.0 | 1.000 (")
    assert good.endswith("| best | 2 | 4 | 500 | 2.00 (0.50 / 1.50 / 0.25) |")
    assert poor.endswith("| 1 | 2 | 50 |  |")
    assert "- poor: 1 test slides without a prediction" in text


def test_few_patients_and_the_rule_of_the_auroc_are_stated():
    text = to_markdown(score_results([GOOD, POOR], "accuracy", resamples=10), "accuracy")
    assert text.count("Warning: fewer than 10 patients of a class (benign 3, cancer 3)") == 1
    assert "predictions of different runs are never ranked together" in text
