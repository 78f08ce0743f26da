"""Open the file of a slide that was predicted."""

from collections.abc import Iterator
from contextlib import contextmanager

from parfocal.explain.library import ListedSlide
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Slide, open_slide


@contextmanager
def open_listed(listed: ListedSlide) -> Iterator[Slide]:
    """Open a slide, and check that it is the one that was predicted.

    Raises:
        SlideError: the slide cannot be read, or has changed.
    """
    if listed.path is None:
        raise SlideError(str(listed.problem))
    with open_slide(listed.path, mpp=listed.given_mpp, missing_tiles="background") as slide:
        if slide.fingerprint != listed.fingerprint:
            raise SlideError(f"{listed.path}: the file has changed since the prediction.")
        yield slide
