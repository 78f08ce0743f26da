"""Read slide files at any resolution, and find their tissue."""

from parfocal.slide.errors import (
    ImplausibleMppError,
    MissingMppError,
    NoTissueError,
    NotSquareError,
    SlideError,
)
from parfocal.slide.identity import file_fingerprint, slide_id, unique_slides
from parfocal.slide.readers.scan import Level
from parfocal.slide.slide import Box, Slide, open_slide, slide_from_array
from parfocal.slide.tissue import Tissue, find_tissue

__all__ = [
    "Box",
    "ImplausibleMppError",
    "Level",
    "MissingMppError",
    "NoTissueError",
    "NotSquareError",
    "Slide",
    "SlideError",
    "Tissue",
    "file_fingerprint",
    "find_tissue",
    "open_slide",
    "slide_from_array",
    "slide_id",
    "unique_slides",
]
