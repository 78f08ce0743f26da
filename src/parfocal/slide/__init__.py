"""A slide file -> pixels at a requested mpp, and where its tissue is."""

from parfocal.slide.errors import (
    ImplausibleMppError,
    MissingMppError,
    NoTissueError,
    SlideError,
)
from parfocal.slide.scan import Level
from parfocal.slide.slide import Box, Slide, open_slide, slide_from_array, slide_id
from parfocal.slide.tissue import Tissue, find_tissue

__all__ = [
    "Box",
    "ImplausibleMppError",
    "Level",
    "MissingMppError",
    "NoTissueError",
    "Slide",
    "SlideError",
    "Tissue",
    "find_tissue",
    "open_slide",
    "slide_from_array",
    "slide_id",
]
