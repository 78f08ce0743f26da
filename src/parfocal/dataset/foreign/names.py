"""Match the names that two tables, or a table and a folder, write in different ways."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

from parfocal.dataset.spelling import plain_form
from parfocal.slide.listing import PICTURE_SUFFIXES, SLIDE_SUFFIXES

FEATURE_SUFFIXES = (".h5", ".hdf5", ".pt", ".pth", ".npy", ".npz", ".zarr")
DOUBLE = (".ome", ".tiff", ".svs")  # before the last suffix: OS-1.ome.tif, OS-1.svs.h5
DECIMAL_ZERO = re.compile(r"(\d+)\.0")  # what pandas makes of whole numbers in a column with gaps
MAX_SHOWN = 3  # names listed in a note


def stem_of(name: str) -> str:
    """Return a file name without its folder and the extensions of slides and features.

    >>> stem_of("a/S-012.v2.svs"), stem_of("OS-1.ome.tif"), stem_of("T-1.8021A060")
    ('S-012.v2', 'OS-1', 'T-1.8021A060')
    >>> stem_of("7.svs.h5")
    '7'
    """
    name = PurePosixPath(name.replace("\\", "/")).name
    known = (*SLIDE_SUFFIXES, *PICTURE_SUFFIXES, *FEATURE_SUFFIXES, ".dcm")
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in known:
        return name
    name = name[: -len(suffix)]
    second = PurePosixPath(name).suffix.lower()
    return name[: -len(second)] if second in DOUBLE else name


def is_feature_file(name: str) -> bool:
    """Return whether a name is that of a file of features, and not of a slide."""
    return PurePosixPath(name).suffix.lower() in FEATURE_SUFFIXES


def listed(names: Iterable[str]) -> str:
    """Return the first names as text, and how many more there are."""
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - MAX_SHOWN} more" if len(every) > MAX_SHOWN else ""
    return ", ".join(every[:MAX_SHOWN]) + more


class Names:
    """Names that others are looked up among, which may be written in another way.

    A name is the same as another if it is equal; else, if only one other name is, it is the same
    but for `.0` at its end, for case, spaces and dashes, or for leading zeros, which spreadsheets
    remove. Leading zeros are restored only where all names that are numbers have one length.

    Args:
        names: the names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        numbers = {len(name) for name in self._names if name.isdecimal()}
        keys: list[tuple[str, Callable[[str], str | None]]] = [
            ("the decimal zero", _without_decimal_zero),
            ("case, spaces and dashes", _plain_name),
        ]
        if len(numbers) == 1:
            keys.append(("the leading zeros", _as_number))
        self._keys = [(rule, key, _index(self._names, key)) for rule, key in keys]
        self.rules: dict[str, dict[str, str]] = defaultdict(dict)  # found names, by rule

    def find(self, name: str) -> str | None:
        """Return the name that another one stands for; None if there is none, or several."""
        if name in self._names:
            return name
        for rule, key, index in self._keys:
            found = index.get(key(name) or "", [])
            if len(found) == 1:
                self.rules[rule][name] = found[0]
                return found[0]
        return None

    def notes(self, what: str) -> list[str]:
        """Return which names were found although they are written in another way.

        Args:
            what: what is named and where, for example "patients of a.csv".
        """
        return [
            f"{len(pairs)} {what} matched but for {rule}: "
            + listed(f"{name} = {found}" for name, found in pairs.items())
            for rule, pairs in self.rules.items()
        ]


def _index(names: Iterable[str], key: Callable[[str], str | None]) -> Mapping[str, list[str]]:
    index: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if (value := key(name)) is not None:
            index[value].append(name)
    return index


def _without_decimal_zero(name: str) -> str | None:
    found = DECIMAL_ZERO.fullmatch(name)
    return found[1] if found else name


def _plain_name(name: str) -> str | None:
    # plain_form would read 007 and 7 as one number.
    return None if name.isdecimal() else plain_form(name)


def _as_number(name: str) -> str | None:
    found = DECIMAL_ZERO.fullmatch(name)
    digits = found[1] if found else name
    return str(int(digits)) if digits.isascii() and digits.isdecimal() else None
