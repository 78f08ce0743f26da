"""Inspect slide files: what they hold, their tissue and patches, as text and as pictures."""

from parfocal.explain.inspection.batch import (
    InspectedSlide,
    SlideSource,
    inspect_slides,
    list_sources,
)
from parfocal.explain.inspection.report import SlideReport, inspect_slide

__all__ = [
    "InspectedSlide",
    "SlideReport",
    "SlideSource",
    "inspect_slide",
    "inspect_slides",
    "list_sources",
]
