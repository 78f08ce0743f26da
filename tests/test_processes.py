import os
import subprocess
import sys
from dataclasses import replace

import pytest

from parfocal.processes import Process, parse_token, this_process


def test_a_token_names_the_process():
    assert parse_token(this_process().token) == this_process()


@pytest.mark.parametrize("token", ["", "a", "a-1", "a-1-2-3", "a-x-2", "a-1-٣"])
def test_other_text_is_no_token(token):
    assert parse_token(token) is None


def test_a_running_process_is_not_dead_and_an_ended_one_is():
    program = "import sys; print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        process = replace(this_process(), pid=child.pid, start=0)
        assert not process.is_dead
        child.stdin.close()
    assert process.is_dead


def test_a_killed_process_whose_parent_has_not_noticed_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    token = f"{this_process().machine}-{child.pid}-1"  # started at another time
    assert parse_token(token).is_dead
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.communicate()


def test_a_process_with_a_reused_id_is_dead():
    assert replace(this_process(), start=this_process().start + 1).is_dead
    assert not this_process().is_dead


def test_a_process_of_another_machine_is_not_known_to_be_dead():
    assert not Process("0123456789", 2**22 + 1, 5).is_dead
