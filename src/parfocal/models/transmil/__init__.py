"""TransMIL: a transformer over the patches of a slide."""

from parfocal.models.transmil.model import TransMIL

__all__ = ["TransMIL"]
