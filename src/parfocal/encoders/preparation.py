"""Read how an encoder's authors prepare patches from the transform that their code returns.

CONCH and CONCH v1.5 come with their own code, which returns a transform of torchvision with the
network. The transform takes precedence over the catalog.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from parfocal.encoders.spec import EncoderSpec

INTERPOLATIONS = ("bilinear", "bicubic")

logger = logging.getLogger(__name__)


def prepared_by(spec: EncoderSpec, transform: object) -> EncoderSpec:
    """Return the description of an encoder with what a transform says about its input.

    Args:
        spec: the description in the catalog.
        transform: transform of torchvision, of which resizing, crop and normalization are read;
            None, or another object, says nothing.
    """
    found = _read(transform)
    known = {name: value for name, value in found.items() if value is not None}
    prepared = replace(spec, **known) if known else spec
    if prepared != spec:
        logger.info(
            "%s: its code prepares patches differently from the catalog: %s",
            spec.name,
            prepared.preparation,
        )
    return prepared


def _read(transform: object) -> Mapping[str, Any]:
    """Return the fields of `EncoderSpec` that a transform sets."""
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    found: dict[str, Any] = {}
    if (resize := steps.get("Resize")) is not None:
        name = str(getattr(resize.interpolation, "value", ""))
        found["interpolation"] = name if name in INTERPOLATIONS else None
        side = _side(resize.size)
        crop = _side(steps["CenterCrop"].size) if "CenterCrop" in steps else side
        if side is not None and crop is not None and crop <= side:
            found |= {"input_size": crop, "resize_px": 0 if crop == side else side}
    if (normalize := steps.get("Normalize")) is not None:
        for name in ("mean", "std"):
            values = tuple(float(each) for each in getattr(normalize, name))
            found[name] = values if len(values) == 3 else None
    return found


def _side(size: object) -> int | None:
    """Return the side of a square, which is given as one number or two."""
    if isinstance(size, int):
        return size
    sides = set(size) if isinstance(size, list | tuple) else set()
    side = sides.pop() if len(sides) == 1 else None
    return side if isinstance(side, int) else None
