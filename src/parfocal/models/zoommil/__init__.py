"""ZoomMIL: attend at low magnification, zoom into the top patches, classify."""

from parfocal.models.zoommil.model import ZoomMIL

__all__ = ["ZoomMIL"]
