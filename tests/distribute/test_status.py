import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parfocal.cli.program import app
from parfocal.distribute.status import StatusError, read_status
from parfocal.distribute.work_folder import work_folder
from parfocal.distribute.worklist import WorkList
from shared_work import Writing, claim_of_another_machine, names, run_all


@pytest.fixture
def half_done(tmp_path: Path) -> Path:
    """Six slides: two done, one failed, one claimed by another machine, two waiting."""
    work = Writing(tmp_path, names(6), failing=("slide 2",))
    claim_of_another_machine(tmp_path, "slide 3", host="node7", job="slurm 12_3")
    work_list = WorkList(tmp_path, "writing", work)
    for item in names(4):
        work_list.attempt(item)
    return tmp_path


def test_the_status_lists_what_is_done_running_failed_and_waiting(half_done: Path):
    [status] = read_status(half_done)
    assert (status.task, status.unit, status.total, status.processes) == ("writing", "slides", 6, 1)
    assert status.done == ("slide 0", "slide 1")
    assert status.waiting == ("slide 4", "slide 5")
    assert [(each.item, each.host, each.job) for each in status.running] == [
        ("slide 3", "node7", "slurm 12_3")
    ]
    assert [(each.item, each.reason) for each in status.failed] == [
        ("slide 2", "unexpected ValueError: slide 2 is damaged")
    ]
    assert status.per_minute > 0
    assert status.seconds_left == pytest.approx(60 * 3 / status.per_minute)


def test_the_command_prints_the_status(half_done: Path):
    result = CliRunner().invoke(app, ["status", str(half_done), "--all"])
    lines = result.stdout.splitlines()
    assert lines[0] == (f"{half_done}: writing: 2 of 6 slides done, 1 running, 2 waiting, 1 failed")
    assert "slides/min by 1 processes, about" in lines[1]
    assert lines[2].startswith("running  slide 3: process ")
    assert " on node7 (slurm 12_3), 0:0" in lines[2]
    assert lines[3].startswith("failed   slide 2: unexpected ValueError: slide 2 is damaged (proc")
    assert lines[4:] == [
        *("waiting  slide 4", "waiting  slide 5"),
        *("done     slide 0", "done     slide 1"),
    ]


def test_the_command_prints_json(half_done: Path):
    [status] = json.loads(CliRunner().invoke(app, ["status", str(half_done), "--json"]).output)
    assert status["done"] == ["slide 0", "slide 1"]
    assert status["running"][0]["host"] == "node7"
    assert status["failed"][0]["reason"] == "unexpected ValueError: slide 2 is damaged"
    assert status["seconds_left"] > 0


def test_a_process_that_gives_no_sign_of_life_is_pointed_out(half_done: Path):
    path = next((work_folder(half_done) / "claims").iterdir())
    then = time.time() - 3600
    os.utime(path, (then, then))
    [status] = read_status(half_done)
    assert any("no sign of life for 1:00:0" in line for line in status.lines())


def test_after_the_end_everything_is_done_and_nothing_is_left(tmp_path: Path):
    run_all(Writing(tmp_path, names(3)))
    [status] = read_status(tmp_path)
    assert (len(status.done), status.running, status.waiting) == (3, (), ())
    assert (status.processes, status.per_minute, status.seconds_left) == (0, None, None)


def test_a_failure_is_over_when_the_slide_is_done(tmp_path: Path):
    work = Writing(tmp_path, names(2), failing=("slide 1",))
    run_all(work)
    assert len(read_status(tmp_path)[0].failed) == 1
    run_all(Writing(tmp_path, names(2)))
    assert read_status(tmp_path)[0].failed == ()


def test_work_in_folders_below_is_shown_if_the_folder_itself_has_none(tmp_path: Path):
    (tmp_path / "features" / "tiny").mkdir(parents=True)
    run_all(Writing(tmp_path / "features" / "tiny", names(1)))
    [status] = read_status(tmp_path)
    assert status.out == tmp_path / "features" / "tiny"


def test_damaged_logs_are_left_out(half_done: Path):
    folder = work_folder(half_done)
    (folder / "x-1-1-0.log").write_bytes(b"\xff\x00 no log")
    log = next(path for path in folder.glob("*.log") if path.stat().st_size > 100)
    with log.open("ab") as file:
        file.write(b'[17, "done", "sli')  # cut by a kill
    assert len(read_status(half_done)[0].done) == 2


def test_a_folder_without_work_says_what_to_give(tmp_path: Path):
    with pytest.raises(StatusError, match=r"no work is recorded here\. Give the --out of extract"):
        read_status(tmp_path)
