"""MagNet: find where to look closer, again and again, then read the places found in order."""

from parfocal.models.magnet.model import MagNet

__all__ = ["MagNet"]
