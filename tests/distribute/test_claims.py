import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from parfocal.distribute import claims
from parfocal.distribute.claims import ClaimError, hold, read_holder

HOLD = """
import sys, time
from pathlib import Path
from parfocal.distribute.claims import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".claim"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(claims, "EXPIRY_S", 0.5)
    monkeypatch.setattr(claims, "_heart", claims._Heart())  # the thread of the old one sleeps


@pytest.fixture
def other(path):
    """Another process that holds the claim."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_claim_is_refused_to_another_process_and_names_its_holder(path, other):
    with pytest.raises(ClaimError) as caught, hold(path):
        pass
    holder = read_holder(path)
    assert holder.process.pid == other.pid
    assert str(caught.value) == (
        f"{path.parent}: in use by process {other.pid} on {holder.host} since "
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(holder.since))}. Wait until it has "
        "ended, or choose another folder."
    )


def test_a_claim_is_refused_within_the_process_as_well(path):
    with hold(path), pytest.raises(ClaimError), hold(path):
        pass


def test_nothing_is_left_after_the_block(path):
    with hold(path) as claim:
        claim.check()
    assert list(path.parent.iterdir()) == []


def test_the_claim_of_a_killed_process_is_taken_over_at_once(path, other):
    other.kill()
    other.wait()
    with hold(path) as claim:
        assert read_holder(path) == claim.holder
    assert list(path.parent.iterdir()) == []


def test_a_claim_of_another_machine_is_taken_over_when_its_heartbeat_stopped(path, quick):
    with hold(path) as claim:
        elsewhere = replace(claim.holder.process, machine="0123456789")
        content = {**json.loads(path.read_text()), "process": vars(elsewhere)}
    path.write_text(json.dumps(content))
    with pytest.raises(ClaimError), hold(path):
        pass
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    with hold(path) as claim:
        assert read_holder(path) == claim.holder


def test_a_claim_with_a_heartbeat_is_kept_when_a_clock_is_set(path, quick):
    with hold(path) as claim:
        os.utime(path, (0, 0))  # as if the clock of the file system had been set forward
        with pytest.raises(ClaimError), hold(path):
            pass
        claim.check()


def test_a_damaged_claim_is_taken_over_when_it_is_old(path, quick):
    path.write_text("{")
    with pytest.raises(ClaimError, match="in use by another process"), hold(path):
        pass
    os.utime(path, (0, 0))
    with hold(path):
        pass


def test_a_holder_notices_that_its_claim_was_taken_over(path):
    with hold(path) as claim:
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "job": "another"}))
        with pytest.raises(ClaimError, match=r"the claim was taken over by process \d+ on"):
            claim.check()
    assert path.exists()  # not ours to remove
    path.unlink()
    with hold(path) as claim:
        path.unlink()
        with pytest.raises(ClaimError, match="the claim was removed"):
            claim.check()


def test_a_claim_works_without_hard_links(path, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refused)
    with hold(path) as claim:
        claim.check()
        with pytest.raises(ClaimError), hold(path):
            pass


def add_one(path, times):
    counter = path.with_name("counter")
    for _ in range(times):
        with hold(path, wait_s=60):
            counter.write_text(str(int(counter.read_text()) + 1))


def test_of_many_processes_one_at_a_time_holds_a_claim(path):
    path.with_name("counter").write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_one, args=(path, 10)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert path.with_name("counter").read_text() == "40"
