import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from parfocal.compare import picture
from parfocal.compare.picture import apart, draw, front
from parfocal.compare.table import Result, rows_of, to_csv, to_markdown
from parfocal.metrics import Answers

LABELS = ("benign", "cancer")
TRUTH = (0, 0, 0, 1, 1, 1)
SECONDS = {"cpu": {"total": 2.0, "read": 0.5, "encode": 1.5, "model": 0.25}}


def answers(*cancer: float, patients: str = "abcdef") -> Answers:
    chances = np.array(cancer)
    return Answers(
        LABELS, np.array(TRUTH), np.stack([1 - chances, chances], axis=1), tuple(patients)
    )


RIGHT = answers(0.1, 0.2, 0.3, 0.7, 0.8, 0.9)
HALF = answers(0.9, 0.2, 0.3, 0.7, 0.8, 0.1)
GOOD = Result("good", (RIGHT,), macs=2e12, patches=500.0, seconds=SECONDS)
POOR = Result("poor", (HALF,), macs=1e12, patches=50.0, failed=1)
BROKEN = Result("broken", reason="it broke")


def test_a_score_is_the_mean_over_runs_with_their_deviation():
    (row,) = rows_of([Result("m", (RIGHT, HALF))], "accuracy", resamples=10)
    assert row.measures["accuracy"].value == pytest.approx((1 + 4 / 6) / 2)
    assert row.measures["accuracy"].sd == pytest.approx(abs(1 - 4 / 6) / 2**0.5)


def test_one_run_has_no_deviation():
    (row,) = rows_of([GOOD], "accuracy", resamples=10)
    assert row.measures["accuracy"].sd is None


def test_the_interval_is_the_bootstrap_over_patients_in_plain_loops():
    (row,) = rows_of([POOR], "accuracy", resamples=4000)
    right = np.array([0, 1, 1, 1, 1, 0])
    generator = np.random.default_rng(1)
    drawn = [right[generator.integers(6, size=6)].mean() for _ in range(4000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert row.measures["accuracy"].low == pytest.approx(low, abs=1 / 6)
    assert row.measures["accuracy"].high == pytest.approx(high, abs=1e-9)


def test_the_others_are_compared_with_the_best_on_the_same_patients():
    twin = Result("twin", (RIGHT,))
    best, poor, again = rows_of([GOOD, POOR, twin], "accuracy")
    assert best.behind is None
    assert poor.behind.value == pytest.approx(2 / 6)
    assert 0 <= poor.behind.low < poor.behind.high <= 5 / 6
    assert (again.behind.value, again.behind.low, again.behind.high) == (0, 0, 0)


def test_patients_of_several_slides_are_drawn_together():
    one = Result("m", (answers(0.9, 0.9, 0.9, 0.9, 0.9, 0.9, patients="aaabbb"),))
    (row,) = rows_of([one], "accuracy")
    assert (row.measures["accuracy"].low, row.measures["accuracy"].high) == (0, 1)


def test_a_run_in_which_a_score_has_no_meaning_is_left_out_of_its_mean():
    benign = Answers(LABELS, np.zeros(2, dtype=np.int64), np.full((2, 2), 0.5), ("g", "h"))
    (row,) = rows_of([Result("m", (RIGHT, benign))], "auroc_macro", resamples=50)
    assert row.measures["auroc_macro"].value == 1
    assert row.measures["auroc_macro"].sd is None


def test_a_model_that_failed_has_its_reason_and_no_numbers():
    rows = rows_of([GOOD, BROKEN], "accuracy", resamples=10)
    assert rows[1].measures == {}
    table = list(csv.DictReader(io.StringIO(to_csv(rows, "accuracy"))))
    assert table[1]["reason"] == "it broke"
    assert table[1]["accuracy"] == table[1]["macs"] == ""
    assert "- broken failed: it broke" in to_markdown(rows, "accuracy")


def test_when_all_failed_the_table_says_so():
    rows = rows_of([BROKEN], "accuracy", resamples=10)
    assert "- broken failed: it broke" in to_markdown(rows, "accuracy")
    assert draw(rows, "accuracy").startswith(b"\x89PNG")


def test_the_csv_holds_all_numbers():
    rows = rows_of([GOOD, POOR], "accuracy", resamples=10)
    good, poor = csv.DictReader(io.StringIO(to_csv(rows, "accuracy")))
    assert (good["macs"], good["flops"], good["patches"]) == (str(2e12), str(4e12), "500.0")
    assert good["seconds_read_cpu"] == "0.5"
    assert poor["seconds_read_cpu"] == ""
    assert float(poor["behind_accuracy"]) == pytest.approx(1 / 3)
    assert poor["failed_slides"] == "1"


def test_the_table_is_that_of_the_paper():
    text = to_markdown(rows_of([GOOD, POOR], "accuracy", resamples=10), "accuracy")
    header, _, good, poor, *_ = text.splitlines()
    assert header.startswith("| model | weighted F1, % | accuracy, % | macro AUROC | behind the best")
    assert good.startswith("| good | 100.0 | 100.0 | 1.000 (")
    assert good.endswith("| best | 2 | 4 | 500 | 2.00 (0.50 / 1.50 / 0.25) |")
    assert poor.endswith("| 1 | 2 | 50 |  |")
    assert "- poor: 1 test slides without an answer" in text


def test_the_front_is_what_nothing_cheaper_beats():
    points = [("d", 4.0, 0.7, 0, 1), ("a", 1.0, 0.5, 0, 1), ("c", 3.0, 0.9, 0, 1)]
    points += [("b", 1.0, 0.4, 0, 1)]
    assert [point[0] for point in front(points)] == ["a", "c"]


def test_costs_that_are_alike_are_drawn_side_by_side_around_their_middle():
    assert apart([1.0, 8.0, 1.0], 2.0) == pytest.approx([0.5**0.5, 8.0, 2**0.5])
    assert apart([4.0, 1.0], 2.0) == [4.0, 1.0]
    assert apart([1.0], 2.0) == [1.0]


def test_what_costs_next_to_nothing_does_not_push_the_others_together(monkeypatch):
    placed = []
    monkeypatch.setattr(picture, "apart", lambda costs, step: placed.append(costs) or costs)
    draw(rows_of([GOOD, POOR, replace(POOR, name="free", macs=1.0)], "accuracy"), "accuracy")
    assert placed[0] == pytest.approx([2.0, 1.0, 0.002])


def test_a_score_that_is_not_defined_has_no_place_in_the_picture():
    one_class = replace(RIGHT, truth=np.zeros(6, dtype=int))
    rows = rows_of([replace(GOOD, runs=(one_class,))], "auroc_macro", resamples=10)
    assert np.isnan(rows[0].measures["auroc_macro"].value)
    assert draw(rows, "auroc_macro")[1:4] == b"PNG"


def test_the_picture_is_a_png():
    assert draw(rows_of([GOOD, POOR, BROKEN], "accuracy", resamples=10), "accuracy")[1:4] == b"PNG"
