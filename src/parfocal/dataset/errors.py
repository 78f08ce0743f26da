"""Errors of cohorts and tables that cannot be used."""


class CohortError(Exception):
    """A cohort that cannot be used; the message names the row, what was found and what to do."""


class TableError(Exception):
    """A table that cannot be read; the message says why and what to do, but not which file."""
