"""Text for people: counts with nouns, and names that can be printed and written as UTF-8."""

import unicodedata
from collections.abc import Mapping


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun.

    >>> counted(1, "slide"), counted(2, "slide"), counted(0, "class", "classes")
    ('1 slide', '2 slides', '0 classes')

    Args:
        number: how many.
        noun: what is counted, for one.
        plural: the same for several; None for the noun with an "s".
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def counts_of_each(counts: Mapping[str, int]) -> str:
    """Return numbers by name as text, such as the number of slides of each class.

    If the last word of a name has a digit, all names end with a colon.

    >>> counts_of_each({"normal": 20, "tumor": 15}), counts_of_each({"0": 20, "3+3": 15})
    ('normal 20, tumor 15', '0: 20, 3+3: 15')

    Args:
        counts: the numbers by name, in the order in which they are listed.
    """
    numeric = any(map(_is_numeric, counts))
    return ", ".join(f"{name}{':' * numeric} {count}" for name, count in counts.items())


def named_number(name: str, number: str) -> str:
    """Return a name with its number; a name with a digit in its last word ends with a colon.

    >>> named_number("tumor", "0.90"), named_number("1", "0.90"), named_number("HER2 1+", "0.90")
    ('tumor 0.90', '1: 0.90', 'HER2 1+: 0.90')

    Args:
        name: what the number belongs to.
        number: the number as text.
    """
    return f"{name}: {number}" if _is_numeric(name) else f"{name} {number}"


def _is_numeric(name: str) -> bool:
    """Return whether the last word of a name could be read as the number that follows it."""
    return any(character.isdigit() for character in name.rsplit(" ", maxsplit=1)[-1])


def left_out(number: int, noun: str) -> str:
    """Return that items were left out because they could not be read.

    >>> left_out(1, "slide"), left_out(2, "slide")
    ('1 slide could not be read and was left out', '2 slides could not be read and were left out')

    Args:
        number: how many.
        noun: what was left out, for one.
    """
    verb = "was" if number == 1 else "were"
    return f"{counted(number, noun)} could not be read and {verb} left out"


def all_failed(number: int, noun: str) -> str:
    """Return that all of several items failed.

    >>> all_failed(1, "slide"), all_failed(2, "slide")
    ('the only slide failed', 'all 2 slides failed')

    Args:
        number: how many, at least one.
        noun: what failed, for one.
    """
    return f"the only {noun} failed" if number == 1 else f"all {counted(number, noun)} failed"


def printable(text: str) -> str:
    r"""Replace what cannot be printed or written as UTF-8 by the hexadecimal codes of its bytes.

    This is control characters, and the bytes of a file name that is not UTF-8, which Python
    represents by lone surrogates.

    >>> printable("caf\udce9\n.svs"), printable("café.svs")
    ('caf%E9%0A.svs', 'café.svs')
    """
    return "".join(
        f"%{ord(character) & 0xFF:02X}"
        if unicodedata.category(character) in ("Cc", "Cs")
        else character
        for character in text
    )
