"""Public data sets as their owners publish them, turned into cohorts; one file a set."""

from parfocal.dataset.readers.make import READERS, Made, look_through, make_cohort

__all__ = ["READERS", "Made", "look_through", "make_cohort"]
