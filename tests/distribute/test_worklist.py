import errno
import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from parfocal.distribute import claims, worklist
from parfocal.distribute.claims import read_holder
from parfocal.distribute.shards import Shard, ShardEndedError
from parfocal.distribute.stopping import StoppedEarly
from parfocal.distribute.work_folder import WorkFolderError, file_name, work_folder
from parfocal.distribute.worklist import Distribution, WorkList
from parfocal.processes import this_process
from shared_work import (
    Writing,
    calls,
    claim_of_another_machine,
    make_read_only,
    names,
    run_all,
)

FORK = multiprocessing.get_context("fork")


def wait_for_a_call(out: Path) -> None:
    """Waits until an item has begun: a file that exists may still be empty."""
    while not calls(out):
        time.sleep(0.01)


def in_process(function, *arguments: object) -> multiprocessing.Process:
    process = FORK.Process(target=function, args=arguments)
    process.start()
    return process


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(claims, "EXPIRY_S", 0.4)
    monkeypatch.setattr(claims, "_heart", claims._Heart())
    monkeypatch.setattr(worklist, "POLL_S", (0.02, 0.05))


def test_each_item_is_processed_and_a_second_command_finds_the_results(tmp_path: Path):
    work = Writing(tmp_path, names(3))
    first = run_all(work)
    assert [(each.item, each.result, each.by) for each in first] == [
        (name, f"result of {name}", "here") for name in work.items
    ]
    assert [each.by for each in run_all(work)] == ["found"] * 3
    assert set(calls(tmp_path).values()) == {1}
    assert list((work_folder(tmp_path) / "claims").iterdir()) == []


def test_items_are_processed_again_only_if_that_is_asked_for(tmp_path: Path):
    work = Writing(tmp_path, names(2))
    run_all(work)
    assert [each.by for each in run_all(work, again=True)] == ["here"] * 2
    assert set(calls(tmp_path).values()) == {2}


def test_eight_processes_share_the_items_and_each_returns_all_results(tmp_path: Path):
    work = Writing(tmp_path, names(24), pause_s=0.01)

    def one_command(number: int) -> None:
        ended = run_all(work)
        results = {each.item: each.result for each in ended}
        assert results == {name: f"result of {name}" for name in work.items}

    processes = [in_process(one_command, number) for number in range(8)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert calls(tmp_path) == Counter(work.items)


def test_a_failure_is_reported_by_all_and_tried_again_by_the_next_command(tmp_path: Path):
    work = Writing(tmp_path, names(3), failing=("slide 1",))
    other = WorkList(tmp_path, "writing", work)
    assert other.attempt("slide 0").by == "here"  # it has begun before the failure
    failed = [each for each in run_all(work) if each.reason is not None]
    assert [(each.item, each.by) for each in failed] == [("slide 1", "here")]
    assert failed[0].reason == "unexpected ValueError: slide 1 is damaged"
    ended = other.attempt("slide 1")
    assert (ended.reason, ended.by) == (failed[0].reason, "elsewhere")
    assert calls(tmp_path)["slide 1"] == 1
    assert [each.reason for each in run_all(replace(work, failing=()))] == [None] * 3
    assert calls(tmp_path)["slide 1"] == 2


def test_a_failure_of_another_model_is_none(tmp_path: Path):
    work = Writing(tmp_path, names(1), failing=("slide 0",))
    other = WorkList(tmp_path, "writing", replace(work, failing=()), made_by="another model")
    other.rest()
    other.folder.mkdir(parents=True)
    other._open()
    run_all(work, made_by="a model")
    assert other.attempt("slide 0").result == "result of slide 0"


def test_an_item_of_a_live_process_is_waited_for(tmp_path: Path):
    work = Writing(tmp_path, names(2), pause_s=0.3)
    process = in_process(run_all, work)
    wait_for_a_call(tmp_path)
    ended = {each.item: each.by for each in run_all(work)}
    process.join()
    assert ended == {"slide 0": "elsewhere", "slide 1": "here"} or ended["slide 1"] == "elsewhere"
    assert calls(tmp_path) == Counter(work.items)


def test_the_items_of_a_killed_process_are_processed_at_once(tmp_path: Path):
    work = Writing(tmp_path, names(2), pause_s=60)
    process = in_process(run_all, work)
    wait_for_a_call(tmp_path)
    process.kill()
    process.join()
    assert len(list((work_folder(tmp_path) / "claims").iterdir())) == 1
    ended = run_all(replace(work, pause_s=0))
    assert [each.by for each in ended] == ["here"] * 2
    assert calls(tmp_path) == {"slide 0": 2, "slide 1": 1}


def test_the_claim_of_a_process_that_was_killed_after_it_had_finished_is_removed(tmp_path: Path):
    work = Writing(tmp_path, names(2))
    run_all(work)
    path = claim_of_another_machine(tmp_path, "slide 0")
    dead = replace(this_process(), start=1)
    path.write_text(json.dumps({**json.loads(path.read_text()), "process": vars(dead)}))
    assert [each.by for each in run_all(work)] == ["found", "found"]
    assert not path.exists()


def test_a_stopped_process_loses_its_item_and_its_late_result_does_no_harm(tmp_path: Path, quick):
    work = Writing(tmp_path, names(1), pause_s=0.2)
    process = in_process(run_all, work)
    wait_for_a_call(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    ended = run_all(replace(work, pause_s=0))  # ends, because the claim expires
    assert [each.by for each in ended] == ["here"]
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 0
    assert work.find("slide 0") == "result of slide 0"
    assert list((work_folder(tmp_path) / "claims").iterdir()) == []


@pytest.mark.parametrize("hours", [-5, 0, 5])
def test_a_claim_without_heartbeat_is_taken_over_whatever_the_clocks_say(
    tmp_path: Path, quick, hours: int
):
    path = claim_of_another_machine(tmp_path, "slide 0")
    then = time.time() + 3600 * hours
    os.utime(path, (then, then))
    started = time.monotonic()
    assert [each.by for each in run_all(Writing(tmp_path, names(1)))] == ["here"]
    assert time.monotonic() - started >= claims.EXPIRY_S


def test_a_claim_with_a_heartbeat_is_kept_whatever_the_clocks_say(tmp_path: Path, quick):
    path = claim_of_another_machine(tmp_path, "slide 0")
    work_list = WorkList(tmp_path, "writing", Writing(tmp_path, names(1)))
    for beat in range(20):  # five times as long as a claim without heartbeat lasts
        os.utime(path, (beat, beat))
        assert work_list.attempt("slide 0") is None
        time.sleep(0.1)
    assert not (tmp_path / "calls").exists()


def test_an_abandoned_claim_is_taken_over_by_exactly_one(tmp_path: Path, quick):
    claim_of_another_machine(tmp_path, "slide 0")
    work = Writing(tmp_path, names(1), pause_s=0.3)
    processes = [in_process(run_all, work) for _ in range(6)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert calls(tmp_path) == {"slide 0": 1}


def test_what_a_process_left_that_was_killed_during_a_takeover_blocks_nobody(tmp_path: Path):
    path = claim_of_another_machine(tmp_path, "slide 0")
    dead = replace(read_holder(path), process=replace(this_process(), start=1))
    content = json.dumps({**vars(dead), "process": vars(dead.process)})
    path.write_text(content)
    takeover = content.replace(dead.key, "0123456789abcdef")
    path.with_name(f".{dead.key}.takeover").write_text(takeover)
    assert [each.by for each in run_all(Writing(tmp_path, names(1)))] == ["here"]
    assert list(path.parent.iterdir()) == []


def test_an_item_over_which_three_processes_died_fails(tmp_path: Path):
    work = Writing(tmp_path, names(2))
    work_list = WorkList(tmp_path, "writing", work)
    assert work_list.attempt("slide 1").by == "here"
    dead = replace(this_process(), start=1)
    path = claim_of_another_machine(tmp_path, "slide 0", deaths=2)
    content = {**json.loads(path.read_text()), "process": vars(dead)}
    path.write_text(json.dumps(content))
    reason = work_list.attempt("slide 0").reason
    assert reason.startswith("3 processes ended while they worked on it, the last of them process")
    assert reason.endswith("It may need more memory than is available.")
    assert run_all(work)[0].reason is None  # the next command tries again


def test_claims_of_an_earlier_command_do_not_count_as_deaths(tmp_path: Path):
    path = claim_of_another_machine(tmp_path, "slide 0", deaths=7)
    dead = replace(this_process(), start=1)
    path.write_text(json.dumps({**json.loads(path.read_text()), "process": vars(dead)}))
    assert run_all(Writing(tmp_path, names(1)))[0].reason is None


def test_a_shard_leaves_the_other_items_alone_and_the_last_one_sees_all(tmp_path: Path):
    work = Writing(tmp_path, names(5))
    first, second = (
        WorkList(tmp_path, "writing", work, distribution=Distribution(Shard(index, 2)))
        for index in range(2)
    )
    assert [each.item for each in first.run()] == ["slide 0", "slide 2", "slide 4"]
    with pytest.raises(ShardEndedError) as caught:
        first.rest()
    assert str(caught.value) == (
        "shard 1/2 has ended: 3 of 5 slides are done or failed. The shard that ends last writes "
        "the results of all."
    )
    assert [each.item for each in second.run()] == ["slide 1", "slide 3"]
    assert [each.item for each in second.rest()] == ["slide 0", "slide 2", "slide 4"]


def test_a_task_of_a_job_array_begins_with_its_share_and_leaves_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {"ID": 1, "MIN": 0, "COUNT": 2, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    ended = run_all(Writing(tmp_path, names(5)))
    assert [each.item for each in ended] == [f"slide {n}" for n in (1, 3, 0, 2, 4)]


def test_a_command_that_is_asked_to_stop_leaves_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = iter([False, True])
    monkeypatch.setattr("parfocal.distribute.stopping.stop_requested", lambda: next(asked))
    with pytest.raises(StoppedEarly, match="1 of 3 slides"):
        run_all(Writing(tmp_path, names(3)))
    assert list((work_folder(tmp_path) / "claims").iterdir()) == []
    monkeypatch.undo()
    assert [each.by for each in run_all(Writing(tmp_path, names(3)))] == ["found", "here", "here"]


def test_a_folder_that_is_removed_meanwhile_is_one_clear_error(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()

    @dataclass(frozen=True)
    class Removing(Writing):
        def process(self, item: str) -> str:
            result = super().process(item)
            subprocess.run(["rm", "-r", str(self.out)], check=True)
            return result

    with pytest.raises(WorkFolderError) as caught:
        run_all(Removing(out, names(2)))
    assert str(caught.value) == (
        f"{out}: the folder was removed while this command used it. Run the command again."
    )
    assert not out.exists()


def test_a_full_disk_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    work_list = WorkList(tmp_path, "writing", Writing(tmp_path, names(3)))
    assert work_list.attempt("slide 0").by == "here"

    def full(path: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left on device"):
        work_list.attempt("slide 1")


def test_a_work_folder_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work_list = WorkList(tmp_path, "writing", Writing(tmp_path, names(3)))
    assert work_list.attempt("slide 0").by == "here"

    def refused(path: Path, *_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(WorkFolderError) as caught:
        work_list.attempt("slide 1")
    assert str(caught.value) == (
        f"{tmp_path / '.work'}: the claims of this command cannot be written (Permission denied). "
        "Make the folder writable for this user, or choose another --out."
    )


def test_a_finished_folder_that_is_read_only_is_reported_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_all(Writing(tmp_path, names(3)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    make_read_only(tmp_path, monkeypatch)
    again = run_all(Writing(tmp_path, names(3)))
    assert [(each.item, each.by) for each in again] == [(name, "found") for name in names(3)]
    with pytest.raises(WorkFolderError) as caught:
        run_all(Writing(tmp_path, names(5)))
    assert str(caught.value) == (
        f"{tmp_path}: 2 of 5 slides are left to do, and the folder cannot be written to (Read-only "
        "file system). Make it writable for this user, or choose another --out."
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_work_is_shared_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refused)
    work = Writing(tmp_path, names(8), pause_s=0.01)
    processes = [in_process(run_all, work) for _ in range(3)]
    for process in processes:
        process.join()
    assert calls(tmp_path) == Counter(work.items)


@pytest.mark.parametrize("item", ["a", "A b/c", "ä" * 300, ".hidden", "..", "a.part", ""])
def test_the_file_of_an_item_has_a_usable_name_of_its_own(item: str):
    name = file_name(item)
    assert name.isascii()
    assert len(name) < 128
    assert not name.startswith(".")
    assert "/" not in name
    assert name != file_name(f"{item}!")


def test_logs_of_many_ended_commands_become_one(tmp_path: Path):
    work = Writing(tmp_path, names(2))
    for _ in range(12):
        run_all(work)
    assert len(list(work_folder(tmp_path).glob("*.log"))) <= 9
    assert set(calls(tmp_path).values()) == {1}
