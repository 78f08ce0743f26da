import json

import pytest

from parfocal.compare import Row
from parfocal.compare.table import Result
from parfocal.reproduce.experiments import Column, PaperRow
from parfocal.reproduce.values import Outcome, Value, value_of

SECONDS = {"cpu": {"total": 2.0}, "cuda": {"total": 0.5}}


@pytest.fixture
def tested(tmp_path):
    """Make an experiment of runs with an accuracy and two epochs each."""

    def make(name: str, accuracies: tuple[float | None, ...], **result: object) -> Outcome:
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
        return Outcome(Row(Result(name, **result)), runs)

    return make


ROW = PaperRow("a", ("a",), (None,))


def test_ours_is_the_mean_over_seeds_with_their_deviation(tested):
    found = value_of(Column("", "accuracy", scale=100), ROW, {"a": tested("a", (0.5, 1.0))})
    assert found.mean == 75
    assert found.sd == pytest.approx(50 / 2**0.5)


def test_one_seed_has_no_deviation(tested):
    assert value_of(Column("", "accuracy"), ROW, {"a": tested("a", (0.5,))}) == Value(0.5)


def test_a_seed_without_the_score_is_left_out(tested):
    assert value_of(Column("", "accuracy"), ROW, {"a": tested("a", (None, 1.0))}) == Value(1.0)


def test_what_a_row_stands_for_is_taken_from_a_list(tested):
    found = {"a": tested("a", (1.0,))}
    column, places = Column("", "shares/{at}/mean"), (1, 2)
    second, beyond = (PaperRow("a", ("a",), (None,), at=place) for place in places)
    assert value_of(column, second, found) == Value(0.75)
    assert value_of(column, beyond, found) is None


def test_what_is_nowhere_has_no_number(tested):
    assert value_of(Column("", "strata/macro/auroc"), ROW, {"a": tested("a", (1.0,))}) is None


def test_times_of_several_are_added_up(tested):
    both = PaperRow("both", ("a", "b"), (None,))
    found = {name: tested(name, (1.0,)) for name in ("a", "b")}
    assert value_of(Column("", "epoch_seconds"), both, found) == Value(4.0)


def test_another_run_of_the_row_may_be_asked(tested):
    found = {"a-all": tested("a-all", (0.25,))}
    assert value_of(Column("", "accuracy", run="{}-all"), ROW, found) == Value(0.25)


def test_seconds_are_those_of_the_gpu_where_there_is_one(tested):
    column = Column("", "seconds", scale=1000)
    assert value_of(column, ROW, {"a": tested("a", (1.0,), seconds=SECONDS)}) == Value(500)
    alone = {"cpu": SECONDS["cpu"]}
    assert value_of(column, ROW, {"a": tested("a", (1.0,), seconds=alone)}) == Value(2000)
    assert value_of(column, ROW, {"a": tested("a", (1.0,))}) is None


def test_what_failed_has_no_number(tested):
    found = {"a": tested("a", (1.0,), macs=5.0, reason="it broke")}
    assert value_of(Column("", "macs"), ROW, found) is None
