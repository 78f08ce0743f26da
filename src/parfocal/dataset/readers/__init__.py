"""Turn public data sets, as published, into cohorts; one file per data set."""

from parfocal.dataset.readers.make import READERS, MadeCohort, check_data_set, make_cohort

__all__ = ["READERS", "MadeCohort", "check_data_set", "make_cohort"]
