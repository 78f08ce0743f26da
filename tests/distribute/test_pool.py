import platform
import threading
import time
from functools import partial
from itertools import count

import pytest

import worker_functions
from parfocal.distribute import stopping
from parfocal.distribute.pool import WorkerDiedError, run_items
from parfocal.distribute.processes import ProcessWorkers
from parfocal.distribute.worker import Answer, PlanRunner, WorkerError, WorkerPlan
from parfocal.processes import this_process


class ThreadWorkers:
    """Workers of this process, which die by returning so."""

    def __init__(self, count):
        self.count, self.started = count, 0

    def open(self, plan):
        self.plan = plan
        return plan.shared_mark()

    def start_worker(self, index):
        self.started += 1
        return ThreadWorker(self.plan.build())

    def wait(self, workers):
        return [(worker, worker.answers.pop(0)) for worker in workers if worker.answers]


class ThreadWorker:
    def __init__(self, function):
        self.function, self.answers = function, [Answer(value=this_process())]

    def start(self, item):
        self.answers.append(self.function(item))

    def close(self):
        pass


def plan_of(function, **options):
    return WorkerPlan(lambda: function, **options)


def died(item):
    return Answer(died="killed by a test")


def done(item):
    return Answer(item, item.upper())


def test_every_item_is_processed_once_and_has_a_row():
    rows = list(run_items("abcdefg", plan_of(done), ThreadWorkers(3)))
    assert sorted((row.item, row.value) for row in rows) == [(c, c.upper()) for c in "abcdefg"]


def test_an_item_whose_worker_dies_is_tried_again_by_a_new_one():
    deaths = iter([died("b")])
    workers = ThreadWorkers(2)

    def once(item):
        return next(deaths, done(item)) if item == "b" else done(item)

    released = []
    rows = list(
        run_items("abc", plan_of(once), workers, release=lambda *died: released.append(died))
    )
    assert released == [("b", this_process())]
    assert sorted(row.value for row in rows) == ["A", "B", "C"]
    assert workers.started == 3


def test_an_item_over_which_three_workers_die_has_the_reason():
    rows = list(
        run_items("ab", plan_of(lambda x: died(x) if x == "b" else done(x)), ThreadWorkers(1))
    )
    assert rows[0].value == "A"
    assert rows[1].died.startswith("3 workers died over it; killed by a test. It may need more")


def test_workers_that_die_before_they_are_ready_end_the_command():
    class Dying(ThreadWorkers):
        def start_worker(self, index):
            worker = super().start_worker(index)
            worker.answers = [Answer(died="out of memory")]
            return worker

    with pytest.raises(WorkerDiedError, match=r"3 workers ended before they were ready \(out of"):
        list(run_items("ab", plan_of(done), Dying(2)))


def test_items_are_taken_only_as_workers_become_free():
    taken = []
    items = (taken.append(n) or str(n) for n in count())
    rows = run_items(items, plan_of(done, in_flight=2), ThreadWorkers(3))
    for _ in range(100):
        next(rows)
    assert len(taken) <= 100 + 3 * 2 + 1


def test_after_a_request_to_stop_only_started_items_end(monkeypatch):
    flag = threading.Event()
    monkeypatch.setattr(stopping, "_requested", flag)
    rows = run_items(map(str, count()), plan_of(done), ThreadWorkers(2))
    next(rows)
    flag.set()
    assert len(list(rows)) <= 2


def test_a_worker_of_another_version_is_refused():
    plan = plan_of(done, versions={"parfocal": "0.0.7"})
    error = PlanRunner(plan, None).prepare().error
    assert isinstance(error, WorkerError)
    assert "but this process has 0.0.7. Install the same versions on all machines" in str(error)


def test_a_worker_that_does_not_see_the_shared_folder_is_refused(tmp_path):
    plan = plan_of(done, shared=tmp_path / "features")
    error = PlanRunner(plan, tmp_path / "gone").prepare().error
    assert f"cannot find {tmp_path / 'features'}. All machines need it" in str(error)
    error = PlanRunner(plan_of(done, paths=(tmp_path / "run",)), None).prepare().error
    assert f"cannot find {tmp_path / 'run'}" in str(error)


def test_an_error_on_another_machine_names_it(monkeypatch):
    def build():
        raise OSError("no space left")

    plan = WorkerPlan(build, host="elsewhere")
    error = PlanRunner(plan, None).prepare().error
    assert isinstance(error, WorkerError)
    assert str(error).startswith(f"a worker on {platform.node()}: ")
    assert "no space left" in str(error)
    assert isinstance(PlanRunner(WorkerPlan(build), None).prepare().error, OSError)


def test_processes_share_the_items_and_one_that_is_killed_is_replaced(tmp_path, caplog):
    items = ["a", "b-warns", "c-kills-once", "d-kills", "e", "f-raises-not"]
    plan = WorkerPlan(partial(worker_functions.build, tmp_path), threads=1)
    rows = {row.item: row for row in run_items(items, plan, ProcessWorkers(2))}
    assert sorted(rows) == items
    assert rows["c-kills-once"].value == "c-kills-once of 1 1"  # pinned to one thread
    assert "its process was killed by SIGKILL" in rows["d-kills"].died
    tries = {path.name: len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert tries == {"a": 1, "b": 1, "c": 2, "d": 3, "e": 1, "f": 1}
    assert "b-warns is odd" in caplog.messages
    assert "c-kills-once: its worker ended (its process was killed by SIGKILL)" in caplog.text


def test_an_error_of_a_process_is_raised_here(tmp_path):
    plan = WorkerPlan(partial(worker_functions.build_none, tmp_path))
    with pytest.raises(ValueError, match="no such encoder"):
        list(run_items(["a"], plan, ProcessWorkers(1)))


@pytest.mark.slow
def test_a_process_has_several_items_in_flight(tmp_path):
    plan = WorkerPlan(partial(worker_functions.build, tmp_path), in_flight=4)
    start = time.monotonic()
    rows = list(run_items([f"{n}-waits" for n in range(8)], plan, ProcessWorkers(1)))
    assert len(rows) == 8
    assert time.monotonic() - start < 60
    assert max(row.value for row in rows) >= 5


def test_a_process_hears_of_items_ahead_and_ends_its_function(tmp_path):
    plan = WorkerPlan(partial(worker_functions.Noting, tmp_path), queued=1)
    rows = [row.value for row in run_items(["a", "b", "c"], plan, ProcessWorkers(1))]
    assert rows == ["a", "b", "c"]
    lines = (tmp_path / "noted").read_text().split()
    assert sorted(lines) == ["a", "ahead-a", "ahead-b", "ahead-c", "b", "c", "end"]
    assert lines.index("ahead-b") < lines.index("b") < lines.index("c") < lines.index("end")


def test_an_item_that_was_only_queued_is_not_blamed_for_the_death_of_its_worker():
    workers = ThreadWorkers(1)
    plan = plan_of(lambda item: died(item) if item == "bad" else done(item), queued=1)
    rows = {row.item: row for row in run_items(["bad", "a", "b"], plan, workers)}
    assert rows["bad"].died.startswith("3 workers died over it")
    assert (rows["a"].value, rows["b"].value) == ("A", "B")
