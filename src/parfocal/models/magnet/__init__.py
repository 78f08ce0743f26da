"""MagNet: zoom into squares layer by layer, then classify the last ones in sequence."""

from parfocal.models.magnet.model import MagNet

__all__ = ["MagNet"]
