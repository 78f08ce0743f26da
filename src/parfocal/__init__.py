"""Classify gigapixel whole-slide images by learning where to zoom.

The names below are loaded when first used, so that `parfocal --help` does not wait for torch.
What a stage does as a whole stands in its own module: `parfocal.predict.slide.predict`,
`parfocal.train.train`, `parfocal.evaluate.run.evaluate`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parfocal.bag import Bag, Look, PixelSource, Prediction, StoredBag
    from parfocal.cost import Cost, CostMeter
    from parfocal.encoders.encoder import Encoder, load_encoder
    from parfocal.features.live import live_bag
    from parfocal.features.pixels import SlidePixels
    from parfocal.features.store import FeatureFile
    from parfocal.grid import PatchGrid
    from parfocal.models import MODELS
    from parfocal.models.checkpoint import Checkpoint
    from parfocal.models.zoommil import ZoomMIL
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

_HOMES = {
    "bag": ("Bag", "Look", "PixelSource", "Prediction", "StoredBag"),
    "cost": ("CostMeter", "Cost"),
    "encoders.encoder": ("Encoder", "load_encoder"),
    "features.live": ("live_bag",),
    "features.pixels": ("SlidePixels",),
    "features.store": ("FeatureFile",),
    "grid": ("PatchGrid",),
    "models": ("MODELS",),
    "models.checkpoint": ("Checkpoint",),
    "models.zoommil": ("ZoomMIL",),
    "slide.errors": ("SlideError",),
    "slide.slide": ("Box", "Slide", "open_slide", "slide_from_array"),
    "slide.tissue": ("Tissue", "find_tissue"),
}


def __getattr__(name: str) -> object:
    """Load a public name from the module it lives in."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"parfocal.{module}"), name)
    raise AttributeError(f"parfocal has no {name!r}; it has {', '.join(__all__)}.")
