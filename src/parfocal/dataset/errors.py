"""The error of a cohort that cannot be used."""


class CohortError(Exception):
    """A cohort that cannot be used; the message names the row, what was found and what to do."""
