"""The result of a command, and how to check that it was refused."""

from typing import NamedTuple


class CommandResult(NamedTuple):
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


def assert_refused(result: CommandResult, *words: str) -> None:
    """Check that a command failed with one line that contains all the words."""
    assert result.code == 1
    assert result.err.startswith("parfocal: ")
    assert result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err
