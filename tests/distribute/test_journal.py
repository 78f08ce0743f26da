import math
import os
import signal
from pathlib import Path

import pytest

from parfocal.distribute.journal import Journal

MADE_BY = {"weights": "abc", "magnifications": (2.5, 10.0)}
STATE = {"fingerprint": "123", "mpp": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "slides.jsonl"


def test_results_are_found_again(path: Path):
    journal = Journal(path, MADE_BY)
    assert journal.find("one", STATE) is None
    journal.add("one", STATE, {"probabilities": (0.1, 0.9)})
    assert journal.find("one", STATE) == {"probabilities": [0.1, 0.9]}
    assert Journal(path, MADE_BY).find("one", STATE) == {"probabilities": [0.1, 0.9]}


@pytest.mark.parametrize(
    ("made_by", "state", "again"),
    [
        ({**MADE_BY, "weights": "def"}, STATE, False),
        (MADE_BY, {**STATE, "fingerprint": "456"}, False),
        (MADE_BY, {**STATE, "mpp": 0.5}, False),
        (MADE_BY, STATE, True),
    ],
)
def test_results_of_another_model_or_slide_are_not_used(
    path: Path, made_by: dict[str, object], state: dict[str, object], *, again: bool
):
    Journal(path, MADE_BY).add("one", STATE, {"n": 1})
    assert Journal(path, made_by, again=again).find("one", state) is None


def test_results_of_another_model_are_replaced(path: Path):
    with Journal(path, MADE_BY) as journal:
        journal.add("one", STATE, {"n": 1})
    other = {"weights": "def"}
    with Journal(path, other) as journal:
        journal.add("two", STATE, {"n": 2})
    assert Journal(path, other).find("two", STATE) == {"n": 2}
    assert Journal(path, MADE_BY).find("one", STATE) is None


def test_a_line_that_was_cut_is_left_out_and_the_next_call_goes_on(path: Path):
    with Journal(path, MADE_BY) as journal:
        for slide in ("one", "two"):
            journal.add(slide, STATE, {"slide": slide})
    path.write_bytes(path.read_bytes()[:-5])
    with Journal(path, MADE_BY) as journal:
        assert journal.find("two", STATE) is None
        journal.add("three", STATE, {"slide": "three"})
    journal = Journal(path, MADE_BY)
    assert [journal.find(slide, STATE) is not None for slide in ("one", "two", "three")] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"[]\n", b"null\n", b"{}"])
def test_a_file_of_another_kind_is_replaced(path: Path, content: bytes):
    path.parent.mkdir()
    path.write_bytes(content)
    with Journal(path, MADE_BY) as journal:
        journal.add("one", STATE, {"n": 1})
    assert Journal(path, MADE_BY).find("one", STATE) == {"n": 1}


def test_a_number_that_is_not_finite_is_refused(path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Journal(path, MADE_BY).add("one", STATE, {"n": math.nan})
    assert not path.exists()


def test_two_processes_add_to_one_journal_and_see_the_results_of_each_other(path: Path):
    with Journal(path, MADE_BY) as one, Journal(path, MADE_BY) as two:
        one.add("a", STATE, {"n": 1})
        assert two.find("a", STATE) == {"n": 1}
        two.add("b", STATE, {"n": 2})
        assert one.find("b", STATE) == {"n": 2}
    journal = Journal(path, MADE_BY)
    assert [journal.find(slide, STATE) for slide in "ab"] == [{"n": 1}, {"n": 2}]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_results_that_a_killed_process_left_are_found_and_added_to_the_journal(path: Path):
    pid = os.fork()
    if not pid:
        journal = Journal(path, MADE_BY)
        journal.add("a", STATE, {"n": 1})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not path.exists()
    with Journal(path, MADE_BY) as journal:
        assert journal.find("a", STATE) == {"n": 1}
        journal.add("b", STATE, {"n": 2})
    assert len(path.read_bytes().splitlines()) == 3
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_results_of_earlier_calls_are_ignored_but_not_lost_if_slides_are_processed_again(
    path: Path,
):
    with Journal(path, MADE_BY) as journal:
        journal.add("a", STATE, {"n": 1})
        journal.add("b", STATE, {"n": 1})
    with Journal(path, MADE_BY, again=True) as journal:
        assert journal.find("a", STATE) is None
        journal.add("a", STATE, {"n": 2})
    journal = Journal(path, MADE_BY)
    assert [journal.find(slide, STATE) for slide in "ab"] == [{"n": 2}, {"n": 1}]
