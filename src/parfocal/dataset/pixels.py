"""Pixels for any slide of a cohort, read as a model asks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from parfocal.dataset.cohort import CohortSlide
from parfocal.encoders.allocator import keep_freed_memory
from parfocal.encoders.encoder import EncoderSpec
from parfocal.features.header import SlideSettings
from parfocal.features.live import reading_threads
from parfocal.features.pixel_cache import PixelCache
from parfocal.features.pixels import SlidePixels
from parfocal.features.slide_input import PixelInput, cells_of
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.tissue import Tissue, find_tissue


class LivePixels:
    """Sources of pixels that share the threads that read. Tissue is found once a slide, and kept.

    Args:
        settings: which patches.
        skip_unavailable_magnifications: whether magnifications that do not fit a slide are left out, or an error.
        cache: of regions, kept on disk between visits; None for none.
        threads: that read; None for one for each core, up to 8.
    """

    encoder: EncoderSpec | None = None  # a model of pixels encodes by itself

    def __init__(
        self,
        settings: SlideSettings,
        *,
        skip_unavailable_magnifications: bool = False,
        cache: PixelCache | None = None,
        threads: int | None = None,
    ) -> None:
        keep_freed_memory()  # for the activations of the model that is given these
        self._settings, self._fitting, self._cache = (
            settings,
            skip_unavailable_magnifications,
            cache,
        )
        self._pool = ThreadPoolExecutor(threads or reading_threads())
        self._tissues: dict[str, Tissue] = {}

    def needs(self, slide: CohortSlide) -> Path:
        """Give the slide file."""
        return slide.path

    def check(self, slide: CohortSlide) -> None:
        """Open a slide, find its tissue, and lay the magnifications over it.

        Raises:
            SlideError: it cannot be opened, has no tissue, or a magnification does not fit it.
        """
        with open_slide(slide.path, mpp=slide.mpp, listed=True) as opened:
            pixels = SlidePixels(opened, self._tissue(slide, opened), pool=self._pool)
            cells_of(pixels, self._settings, skip_unavailable_magnifications=self._fitting)

    @contextmanager
    def open(self, slide: CohortSlide) -> Iterator[PixelInput]:
        """Open a slide's pixels.

        Raises:
            SlideError: as `check`, and when a region asked for cannot be read.
        """
        with open_slide(slide.path, mpp=slide.mpp, listed=True) as opened:
            tissue = self._tissue(slide, opened)
            pixels = SlidePixels(opened, tissue, pool=self._pool, cache=self._cache)
            with closing(pixels):
                yield PixelInput(pixels, self._settings, self._fitting, opened.bill)

    def _tissue(self, slide: CohortSlide, opened: Slide) -> Tissue:
        if slide.slide_id not in self._tissues:
            self._tissues[slide.slide_id] = find_tissue(opened, method=self._settings.tissue)
        return self._tissues[slide.slide_id]
