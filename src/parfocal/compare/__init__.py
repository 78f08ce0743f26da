"""Several models over the same splits: accuracy against cost."""

from parfocal.compare.entrant import (
    ComparisonError,
    Entrant,
    entrant_of,
    entrants_of,
    refuse_unequal,
    shared_slide_settings,
)
from parfocal.compare.run import compare
from parfocal.compare.table import Row, Timing

__all__ = [
    "ComparisonError",
    "Entrant",
    "Row",
    "Timing",
    "compare",
    "entrant_of",
    "entrants_of",
    "refuse_unequal",
    "shared_slide_settings",
]
