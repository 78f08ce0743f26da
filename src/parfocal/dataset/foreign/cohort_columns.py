"""Columns of other tables that a cohort has under the same name, or under another."""

import re
from collections.abc import Collection

from parfocal.dataset.columns import FOLD_COLUMN, plain_column
from parfocal.dataset.rows import MPP_LIKE, OPTIONAL, REQUIRED

# Columns that have the same name and meaning in a cohort.
SAME = ("mpp", "stratum", "tissue", "outlines", "outlines_offset")
RESERVED = {plain_column(name) for name in (*REQUIRED, *OPTIONAL)} - set(map(plain_column, SAME))


def has_meaning(name: str) -> bool:
    """Return whether a column has a meaning in a cohort, so that it is no target.

    >>> has_meaning("mpp"), has_meaning("mpp_x"), has_meaning("grade")
    (True, True, False)
    """
    plain = plain_column(name)
    return plain in map(plain_column, SAME) or re.search(MPP_LIKE, plain) is not None


def cohort_name(name: str, taken: Collection[str]) -> str:
    """Return the name of a column in the cohort.

    Microns per pixel are `mpp` in a cohort. A column with the name of another column of a cohort,
    which has another meaning there, gets a prefix.

    Args:
        name: name in the table.
        taken: columns that the cohort has already.

    >>> cohort_name("grade", ()), cohort_name("Split", ()), cohort_name("mpp_x", ())
    ('grade', 'table_split', 'mpp')
    """
    plain = plain_column(name)
    if re.search(MPP_LIKE, plain) and "mpp" not in taken:
        return "mpp"
    if plain in RESERVED or FOLD_COLUMN.fullmatch(plain) or name in taken:
        return f"table_{plain}"
    return name
