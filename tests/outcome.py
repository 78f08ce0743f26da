"""What a command left behind."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """Its exit status, and what it wrote to standard output and to standard error."""

    code: int
    out: str
    err: str


def refused(found: Outcome, *words: str) -> None:
    """Check that a command failed with one line that says all this."""
    assert found.code == 1
    assert found.err.startswith("parfocal: ")
    assert found.err.count("\n") == 1, found.err
    for word in words:
        assert word in found.err
