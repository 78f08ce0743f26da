"""TransMIL: patches attend to each other before the slide is classified."""

from parfocal.models.transmil.model import TransMIL

__all__ = ["TransMIL"]
