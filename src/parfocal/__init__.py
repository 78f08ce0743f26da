"""Classify gigapixel whole-slide images by learning where to zoom.

The names below are imported when first used, so that `parfocal --help` does not wait for torch.
Each subcommand calls one function: `parfocal.predict.slide.predict`, `parfocal.train.train`,
`parfocal.evaluate.run.evaluate` and so on.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parfocal.bag import Bag, PixelSource, StoredBag
    from parfocal.cost import Cost, CostMeter
    from parfocal.encoders.encoder import Encoder
    from parfocal.encoders.loading import load_encoder
    from parfocal.features.live import live_bag
    from parfocal.features.pixels import SlidePixels
    from parfocal.features.store import FeatureFile
    from parfocal.grid import PatchGrid
    from parfocal.models import MODELS
    from parfocal.models.checkpoint import Checkpoint
    from parfocal.models.zoommil import ZoomMIL
    from parfocal.prediction import Look, Prediction
    from parfocal.slide.errors import SlideError
    from parfocal.slide.slide import Box, Slide, open_slide, slide_from_array
    from parfocal.slide.tissue import Tissue, find_tissue

__all__ = [
    "MODELS",
    "Bag",
    "Box",
    "Checkpoint",
    "Cost",
    "CostMeter",
    "Encoder",
    "FeatureFile",
    "Look",
    "PatchGrid",
    "PixelSource",
    "Prediction",
    "Slide",
    "SlideError",
    "SlidePixels",
    "StoredBag",
    "Tissue",
    "ZoomMIL",
    "find_tissue",
    "live_bag",
    "load_encoder",
    "open_slide",
    "slide_from_array",
]

_MODULES = {
    "bag": ("Bag", "PixelSource", "StoredBag"),
    "cost": ("CostMeter", "Cost"),
    "encoders.encoder": ("Encoder",),
    "encoders.loading": ("load_encoder",),
    "features.live": ("live_bag",),
    "features.pixels": ("SlidePixels",),
    "features.store": ("FeatureFile",),
    "grid": ("PatchGrid",),
    "models": ("MODELS",),
    "models.checkpoint": ("Checkpoint",),
    "models.zoommil": ("ZoomMIL",),
    "prediction": ("Look", "Prediction"),
    "slide.errors": ("SlideError",),
    "slide.slide": ("Box", "Slide", "open_slide", "slide_from_array"),
    "slide.tissue": ("Tissue", "find_tissue"),
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"parfocal.{module}"), name)
    raise AttributeError(
        f"module 'parfocal' has no attribute {name!r}; it has {', '.join(__all__)}."
    )
