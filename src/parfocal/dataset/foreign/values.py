"""Write the values of targets and covariates in the way that training reads them."""

import re
from collections.abc import Iterable, Sequence

from parfocal.dataset.foreign.names import listed

# A status as clinical tables and cBioPortal write it; each may follow a number, as 1:DECEASED.
EVENTS = ("dead", "deceased", "died", "event", "relapse", "relapsed", "recurred", "progressed")
NO_EVENTS = ("alive", "living", "censored", "no event", "diseasefree", "disease free")
NUMBERED = re.compile(r"[01]\s*:\s*")
CENSORING = re.compile(r"(is)?censor(ed|ship|ing)?")
DECIMAL_COMMA = re.compile(r"-?\d+(,\d+)?")
THOUSANDS = re.compile(r"-?\d{1,3},\d{3}")


def recoded(name: str, values: Sequence[str]) -> tuple[str, list[str], str | None]:
    """Return the name and the values of a column for the cohort, and a note if they are changed.

    A status in words, such as `alive` and `dead`, becomes 0 and 1; a column of censoring, in which
    1 means that there was no event, becomes one of events; a decimal comma becomes a point.

    Args:
        name: name of the column.
        values: its values; empty where missing.

    >>> recoded("status", ["Dead", "", "alive"])[:2]
    ('status', ['1', '', '0'])
    >>> recoded("censorship", ["1", "0"])[:2]
    ('event', ['0', '1'])
    """
    known = [value for value in values if value]
    plain = re.sub(r"[\s_-]", "", name.casefold())
    if CENSORING.fullmatch(plain) and set(known) <= {"0", "1"} and known:
        exchanged = [{"0": "1", "1": "0"}.get(value, "") for value in values]
        return "event", exchanged, f"{name} is now event: 1 where it was 0, 0 where it was 1"
    words = {value: _event(value) for value in known}
    if known and None not in words.values():
        pairs = listed(f"{value} = {code}" for value, code in words.items())
        return name, [words.get(value) or "" for value in values], f"{name} in numbers: {pairs}"
    if _has_decimal_commas(known):
        return name, [value.replace(",", ".") for value in values], f"{name} with decimal points"
    return name, list(values), None


def _event(value: str) -> str | None:
    """Return whether a word means an event, as 0 or 1; None for another word."""
    word = NUMBERED.sub("", value.casefold())
    word = re.sub(r"[\s/_-]+", " ", word).strip()
    if word in EVENTS:
        return "1"
    return "0" if word in NO_EVENTS else None


def _has_decimal_commas(values: Iterable[str]) -> bool:
    with_comma = [value for value in values if "," in value]
    return (
        bool(with_comma)
        and all(DECIMAL_COMMA.fullmatch(value) for value in values)
        and not all(THOUSANDS.fullmatch(value) for value in with_comma)
    )
