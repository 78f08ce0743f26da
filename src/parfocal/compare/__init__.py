"""Several models over the same splits: accuracy against cost."""

from parfocal.compare.entrant import ComparisonError, Entrant, entrants_of
from parfocal.compare.run import compare
from parfocal.compare.table import Row, Timing

__all__ = ["ComparisonError", "Entrant", "Row", "Timing", "compare", "entrants_of"]
