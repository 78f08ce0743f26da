"""Several models over the same splits: accuracy against cost."""

from parfocal.compare.candidate import (
    Candidate,
    ComparisonError,
    load_candidate,
    load_candidates,
    refuse_unequal,
    shared_slide_settings,
)
from parfocal.compare.run import compare
from parfocal.compare.table import Row, Timing

__all__ = [
    "Candidate",
    "ComparisonError",
    "Row",
    "Timing",
    "compare",
    "load_candidate",
    "load_candidates",
    "refuse_unequal",
    "shared_slide_settings",
]
