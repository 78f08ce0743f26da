"""Processes share the trainings of a comparison."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from parfocal.compare import ComparisonRow, compare, load_candidates
from parfocal.compare.trainings import Trainings
from parfocal.distribute.shards import Shard, ShardEndedError
from parfocal.distribute.status import read_status
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(8):
        write_slide(folder / f"{number}.tif", dark=number % 2 == 1, seed=number)
        split = ("train", "train", "val", "test")[number // 2]
        rows.append((str(number), f"{number}.tif", ("normal", "tumor")[number % 2], split))
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide_id", "path", "label", "split"), *rows])
    return folder / "cohort.csv"


def run(
    cohort: Path, out: Path, distribution: Distribution = EVERYTHING_HERE
) -> list[ComparisonRow]:
    overrides = ["slide.patch_size=64", "slide.magnifications=[10]"]
    candidates = load_candidates(["abmil", "mean"], overrides=overrides, epochs=1, encoder="tiny")
    return compare(
        *(cohort, candidates, out),
        device="cpu",
        timed=0,
        resamples=20,
        distribution=distribution,
    )


@pytest.mark.slow
def test_the_shard_that_ends_last_writes_the_tables_of_all_models(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained: list[str] = []
    usual = Trainings.process

    def noted(trainings: Trainings, item: str) -> Path:
        trained.append(item)
        return usual(trainings, item)

    monkeypatch.setattr(Trainings, "process", noted)
    first, second = (Distribution(Shard(index, 2)) for index in range(2))
    with pytest.raises(ShardEndedError, match="shard 1/2 has ended: 1 of 2 trainings are done"):
        run(cohort, tmp_path / "shards", first)
    assert trained == ["abmil/seed-0"]
    [status] = read_status(tmp_path / "shards")
    assert (status.task, status.done, status.waiting) == (
        *("comparing", ("abmil/seed-0",)),
        ("mean/seed-0",),
    )
    rows = run(cohort, tmp_path / "shards", second)
    assert trained == ["abmil/seed-0", "mean/seed-0"]
    assert [row.result.name for row in rows] == ["abmil", "mean"]
    table = (tmp_path / "shards" / "results.csv").read_text()
    run(cohort, tmp_path / "shards")  # as the report job after an array
    assert (tmp_path / "shards" / "results.csv").read_text() == table
    assert trained == ["abmil/seed-0", "mean/seed-0"]
    run(cohort, tmp_path / "alone")
    tables = [(tmp_path / name / "results.csv").read_text() for name in ("shards", "alone")]
    assert tables[0] == tables[1]
