"""Texts of a table that mean a missing value, or that are equal but for how they are written."""

import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable

from parfocal.validation import is_missing

__all__ = [
    "find_variants",
    "hidden_character",
    "is_missing",
    "labels_option",
    "plain_form",
    "plain_label",
]

# Sign, whole part and fraction of a number, without leading and trailing zeros.
NUMBER = re.compile(r"([+-]?)0*(\d+)(?:[.,](?=\d)(\d*?)0*)?")
PLAIN_YAML = re.compile(r"[\w+][\w+./()<>=% -]*")  # a text in a YAML list without quotes
HIDDEN = ("Cc", "Cf", "Zl", "Zp")  # control and format characters, separators of lines
JOINERS = "\u200c\u200d"  # belong to the spelling of words in some scripts
# Cyrillic and Greek letters, in lower case, that look like Latin ones in lower or upper case.
LOOKALIKES = str.maketrans("авеһіјкмнорѕстухαβεικνορτυχ", "abehijkmhopsctyxabeikvoptux")
JOINED = re.compile(r"(?<=[^\W\d_])[_-]|_(?=[^\W\d_])|_(?!\d)")  # not between numbers
DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")


def plain_form(text: str) -> str:
    """Return a text without what a reader overlooks: case, spaces, Unicode forms, `1.0` for `1`.

    >>> plain_form("Tumor") == plain_form("tumor "), plain_form("grade 2") == plain_form("grade 3")
    (True, False)
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(DASHES)
        text = "".join(each for each in text if unicodedata.category(each) != "Cf")
        text = text.casefold().translate(LOOKALIKES)
    text = "".join(text.split()).casefold()
    if (number := NUMBER.fullmatch(text)) is not None:
        # Not as a float: ids of patients may have more digits than it keeps.
        sign, whole, fraction = number[1].strip("+"), number[2], number[3]
        return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"
    return text


def plain_label(text: str) -> str:
    """Return the plain form of a label, also without the marks that join its words.

    >>> plain_label("low_grade") == plain_label("Low-grade") == plain_label("low grade")
    True
    """
    return plain_form(JOINED.sub("", text.translate(DASHES)))


def find_variants(
    texts: Iterable[str], *, form: Callable[[str], str] = plain_form
) -> tuple[str, str] | None:
    """Return two different texts with the same form; None if there are none."""
    first: dict[str, str] = {}
    for text in texts:
        other = first.setdefault(form(text), text)
        if other != text:
            return other, text
    return None


def labels_option(labels: Iterable[str]) -> str:
    """Return the command-line option that names the classes in order.

    >>> labels_option(["0", "3+3"])
    "--set 'train.labels=[0, 3+3]'"
    """
    listed = ", ".join(
        label if PLAIN_YAML.fullmatch(label) else json.dumps(label, ensure_ascii=False)
        for label in labels
    )
    return f"--set {shlex.quote(f'train.labels=[{listed}]')}"


def hidden_character(text: str) -> str | None:
    """Return the name of the first character that cannot be seen, such as a line break."""
    if text.isprintable():
        return None
    for each in text:
        if unicodedata.category(each) in HIDDEN and each not in JOINERS:
            return unicodedata.name(each, f"control character U+{ord(each):04X}").lower()
    return None
