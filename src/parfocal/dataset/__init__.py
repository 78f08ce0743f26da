"""Cohorts of labeled slides: splits by patient, lesion outlines, and inputs for models."""

from parfocal.dataset.cohort import (
    Cohort,
    CohortError,
    CohortSlide,
    Part,
    read_cohort,
    read_slides,
    require_files,
)
from parfocal.dataset.outlines import Outlines, Polygon, read_outlines
from parfocal.dataset.split import (
    Split,
    SplitRow,
    fold_cohort,
    read_split,
    split_cohort,
    split_to_csv,
)

__all__ = [
    "Cohort",
    "CohortError",
    "CohortSlide",
    "Outlines",
    "Part",
    "Polygon",
    "Split",
    "SplitRow",
    "fold_cohort",
    "read_cohort",
    "read_outlines",
    "read_slides",
    "read_split",
    "require_files",
    "split_cohort",
    "split_to_csv",
]
