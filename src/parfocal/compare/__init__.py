"""Compare several models on the same splits: accuracy against cost."""

from parfocal.compare.candidate import (
    Candidate,
    ComparisonError,
    load_candidate,
    load_candidates,
    refuse_unequal,
    shared_slide_settings,
)
from parfocal.compare.run import check_comparison, compare
from parfocal.compare.scores import ComparisonRow, ModelResult, Timing

__all__ = [
    "Candidate",
    "ComparisonError",
    "ComparisonRow",
    "ModelResult",
    "Timing",
    "check_comparison",
    "compare",
    "load_candidate",
    "load_candidates",
    "refuse_unequal",
    "shared_slide_settings",
]
