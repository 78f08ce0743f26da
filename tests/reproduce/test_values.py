import json

import pytest

from parfocal.compare import ComparisonRow, ModelResult
from parfocal.reproduce.experiments import Column, PaperRow
from parfocal.reproduce.values import ExperimentResult, Value, value_of

SECONDS = {"cpu": {"total": 2.0}, "cuda": {"total": 0.5}}


@pytest.fixture
def make_result(tmp_path):
    """Make an experiment of runs with an accuracy and two epochs each."""

    def make(name: str, accuracies: tuple[float | None, ...], **result: object) -> ExperimentResult:
        runs = tuple(tmp_path / name / str(seed) for seed in range(len(accuracies)))
        for run, accuracy in zip(runs, accuracies, strict=True):
            (run / "evaluation").mkdir(parents=True, exist_ok=True)
            content = {
                "format_version": 2,
                "accuracy": accuracy,
                "shares": [{"mean": 0.25}, {"mean": 0.75}],
            }
            (run / "evaluation" / "metrics.json").write_text(json.dumps(content))
            (run / "metrics.csv").write_text("epoch,seconds\n1,1.0\n2,3.0\n")
        return ExperimentResult(ComparisonRow(ModelResult(name, **result)), runs)

    return make


ROW = PaperRow("a", ("a",), (None,))


def test_our_number_is_the_mean_over_seeds_with_its_standard_deviation(make_result):
    found = value_of(Column("", "accuracy", scale=100), ROW, {"a": make_result("a", (0.5, 1.0))})
    assert found.mean == 75
    assert found.sd == pytest.approx(50 / 2**0.5)


def test_one_seed_has_no_standard_deviation(make_result):
    assert value_of(Column("", "accuracy"), ROW, {"a": make_result("a", (0.5,))}) == Value(0.5)


def test_a_seed_without_the_score_is_left_out(make_result):
    assert value_of(Column("", "accuracy"), ROW, {"a": make_result("a", (None, 1.0))}) == Value(1.0)


def test_a_row_index_selects_from_a_list(make_result):
    found = {"a": make_result("a", (1.0,))}
    column, places = Column("", "shares/{index}/mean"), (1, 2)
    second, beyond = (PaperRow("a", ("a",), (None,), index=place) for place in places)
    assert value_of(column, second, found) == Value(0.75)
    assert value_of(column, beyond, found) is None


def test_a_missing_metric_has_no_number(make_result):
    assert value_of(Column("", "strata/macro/auroc"), ROW, {"a": make_result("a", (1.0,))}) is None


def test_times_of_several_experiments_are_summed(make_result):
    both = PaperRow("both", ("a", "b"), (None,))
    found = {name: make_result(name, (1.0,)) for name in ("a", "b")}
    assert value_of(Column("", "epoch_seconds"), both, found) == Value(4.0)


def test_a_column_can_use_another_experiment_of_the_row(make_result):
    found = {"a-all": make_result("a-all", (0.25,))}
    assert value_of(Column("", "accuracy", run="{}-all"), ROW, found) == Value(0.25)


def test_seconds_are_from_the_gpu_if_there_is_one(make_result):
    column = Column("", "seconds", scale=1000)
    assert value_of(column, ROW, {"a": make_result("a", (1.0,), seconds=SECONDS)}) == Value(500)
    alone = {"cpu": SECONDS["cpu"]}
    assert value_of(column, ROW, {"a": make_result("a", (1.0,), seconds=alone)}) == Value(2000)
    assert value_of(column, ROW, {"a": make_result("a", (1.0,))}) is None


def test_a_failed_experiment_has_no_number(make_result):
    found = {"a": make_result("a", (1.0,), macs=5.0, reason="it broke")}
    assert value_of(Column("", "macs"), ROW, found) is None
