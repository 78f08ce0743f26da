"""Check that a setting has one of its possible values."""

from collections.abc import Collection


def require_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise if the value of a setting is not one of its choices.

    Args:
        name: name of the setting.
        value: its value.
        choices: the possible values.

    Raises:
        ValueError: the value is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(choices)}.")
