"""What a command left behind."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """Its exit status, and what it wrote to standard output and to standard error."""

    code: int
    out: str
    err: str
