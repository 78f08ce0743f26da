"""Warn about what is unusual about a slide file, once for each slide."""

import logging
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, repeat

from parfocal.slide.slide import Slide

logger = logging.getLogger(__name__)


def warn_of_notes(slide: Slide) -> None:
    """Log the notes of a slide as warnings.

    A note is logged once in a process, also if a training opens the slide in every epoch and the
    number in the note grows.

    Args:
        slide: the slide, after it has been read.
    """
    for note in slide.notes:
        if next(_is_first(str(slide.path or id(slide)), re.sub(r"\d+", "0", note))):
            logger.warning("%s: %s", slide.name, note)


@lru_cache(maxsize=2**16)
def _is_first(slide: str, kind: str) -> Iterator[bool]:
    return chain([True], repeat(False))
