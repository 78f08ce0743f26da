"""Where the patches of a slide lie at each magnification, and which of them exist."""

from parfocal.grid.errors import (
    GridError,
    UnavailableMagnificationError,
    fitting_advice,
    too_sharp_error,
)
from parfocal.grid.expected import ExpectedPatches, expected_patches
from parfocal.grid.ladder import child_order, whole_ratio
from parfocal.grid.patches import PatchGrid
from parfocal.grid.reach import Reach, Squares, reach_of_boxes
from parfocal.grid.rule import ANY_TISSUE, Children, PatchRule, Roots

__all__ = [
    "ANY_TISSUE",
    "Children",
    "ExpectedPatches",
    "GridError",
    "PatchGrid",
    "PatchRule",
    "Reach",
    "Roots",
    "Squares",
    "UnavailableMagnificationError",
    "child_order",
    "expected_patches",
    "fitting_advice",
    "reach_of_boxes",
    "too_sharp_error",
    "whole_ratio",
]
