"""Divide items among the processes of a job array: item k of n shards is in shard k mod n."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# Index and number of the processes of a job, by environment variables; arrays come first.
RANKS = (("SLURM_PROCID", "SLURM_NTASKS"), ("RANK", "WORLD_SIZE"))


class ShardError(ValueError):
    """A shard that does not exist; the message says which ones do."""


class ShardEndedError(Exception):
    """The shard of a command has ended, but not all items; the message says how many."""


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of the items.

    Args:
        index: number of the share, counted from 0.
        count: number of shares.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ShardError(f"shard {self.index + 1}/{self.count} does not exist")

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def select(self, items: Sequence[T]) -> tuple[T, ...]:
        """Return the items of this share."""
        return tuple(items[self.index :: self.count])

    def own_first(self, items: Sequence[T]) -> tuple[T, ...]:
        """Return all items, those of this share first, then those of the following shares."""
        shares = ((self.index + step) % self.count for step in range(self.count))
        return tuple(item for share in shares for item in items[share :: self.count])


def parse_shard(text: str) -> Shard:
    """Return the shard of a text such as "3/8", which counts from 1 as `sbatch --array=1-8` does.

    Raises:
        ShardError: it is not of this form, or there is no such shard.
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
    if match is None:
        raise ShardError(
            f"--shard {text}: give the number of the shard and of all shards, such as 3/8."
        )
    number, count = int(match[1]), int(match[2])
    if not 1 <= number <= count:
        raise ShardError(
            f"--shard {text}: there is no such shard; shards are counted from 1, so the first of "
            f"{max(count, 1)} is 1/{max(count, 1)} and the last {max(count, 1)}/{max(count, 1)}."
        )
    return Shard(number - 1, count)


def shard_from_environment(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """Return which share of a batch job this process is; None if there is no job, or it is alone.

    It only decides where a process begins: a user's job array may as well stand for something else
    than shares of one cohort, so that no item may be left out for it.
    """
    for shard in (_array_task(environment), *(_rank(environment, *names) for names in RANKS)):
        if shard is not None:
            return shard
    return None


def _array_task(environment: Mapping[str, str]) -> Shard | None:
    """Return the task of a SLURM array; None if its ids have no regular step."""
    task, count = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT"))
    first, step = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "STEP"))
    if task is None or count is None or count < 2:
        return None
    index, rest = divmod(task - (first or 0), step or 1)
    return Shard(index, count) if rest == 0 and 0 <= index < count else None


def _rank(environment: Mapping[str, str], rank: str, size: str) -> Shard | None:
    index, count = _number(environment, rank), _number(environment, size)
    if index is None or count is None or count < 2 or not 0 <= index < count:
        return None
    return Shard(index, count)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else None
