"""Describe a mistake in a command on one line."""

import re
from typing import Any

import typer

from parfocal.validation import expected_values

# Typer has its own copy of click in some versions, and needs click in others.
UsageError: Any = typer.BadParameter.__bases__[0]

# Start of a message of typer -> ours.
REPHRASED = (
    (re.compile(r"Invalid value for '?(?P<name>[^:']*)'?: (Value error, )?(?P<rest>.*)"), "{}: {}"),
    (re.compile(r"Missing option '?(?P<name>[^']*)'?\.?(?P<rest>)"), "{} is missing{}"),
    (re.compile(r"Missing argument '?(?P<name>[^']*)'?\.?(?P<rest>)"), "{} is missing{}"),
    (re.compile(r"No such option: (?P<name>\S+)(?P<rest>.*)"), "there is no option {}{}"),
    (re.compile(r"No such command '(?P<name>.*?)'\.?(?P<rest>.*)"), "there is no command {}.{}"),
    (re.compile(r"Option '(?P<name>.*?)' (?P<rest>.*)"), "{} {}"),
    (re.compile(r"Got (?P<name>unexpected extra argument).*\((?P<rest>.*)\)"), "{}: {}"),
)
POSSIBLE_OPTIONS = re.compile(r" \(Possible options: (.*)\)")


def describe_usage_error(error: Any, command: str = "parfocal") -> str:
    """Return what is wrong with a command, on one line that ends with how to get help.

    Args:
        error: the error of typer; `UsageError` is its class.
        command: name of the command, for an error without a context.
    """
    if error.ctx is not None:
        command = error.ctx.command_path
    message = _invalid_value(error) or _rephrase(" ".join(error.format_message().split()))
    return (
        f"{message if message.endswith('?') else message.rstrip('.') + '.'} See `{command} --help`."
    )


def _invalid_value(error: Any) -> str | None:
    """Describe a value of the wrong type or out of range; None if the error is another one."""
    cause = error.__cause__
    if type(cause).__name__ != "ValidationError" or error.param is None:
        return None
    first = cause.errors()[0]
    if first["type"] == "value_error":  # its message names the value and the choices
        return None
    expected = expected_values(first["type"], first.get("ctx", {}))
    return f"{error.param.opts[-1]}: {first['input']!r} is invalid; use {expected}"


def _rephrase(message: str) -> str:
    for pattern, text in REPHRASED:
        found = pattern.fullmatch(message)
        if found is not None:
            message = text.format(found["name"], found["rest"])
            break
    return POSSIBLE_OPTIONS.sub(r". Did you mean \1?", message)
