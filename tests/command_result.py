"""The result of a command, and how to check that it was refused."""

from typing import NamedTuple


class CommandResult(NamedTuple):
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


def assert_refused(result: CommandResult, *words: str, code: int = 1) -> None:
    """Check that a command failed with one line that contains all the words.

    Args:
        result: result of the command.
        words: parts of the line.
        code: the exit code: 1 for files that cannot be used, 2 for wrong usage.
    """
    assert result.code == code, result.err
    assert result.err.startswith("parfocal: ")
    assert result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err
