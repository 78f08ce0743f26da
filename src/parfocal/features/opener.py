"""Open slides for a model, as bags of features or as sources of pixels.

with open_slide(path) as slide, open_input(slide, settings, encoder) as inputs:
    prediction = model(inputs.model_input)
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from parfocal.cells import Cells, lay_cells
from parfocal.encoders.allocator import keep_freed_memory
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.per_magnification import per_magnification
from parfocal.features.cache import FeatureCache
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag, reading_threads
from parfocal.features.pixel_cache import PixelCache
from parfocal.features.pixels import SlidePixels
from parfocal.features.slide_input import BagInput, PixelInput, SlideInput
from parfocal.grid import PatchGrid, Reach, reach_of_boxes
from parfocal.slide.slide import Slide
from parfocal.slide.sources.url import SlidePath
from parfocal.slide.tissue import Tissue

SlideKey = tuple[SlidePath, float, Path | None]  # file, mpp and tissue file
Found = TypeVar("Found", PatchGrid, Tissue)


@runtime_checkable
class InputOpener(Protocol):
    """Opens slides for one model; finds the tissue of each slide file only once."""

    def check(self, slide: Slide) -> Reach | None:
        """Find the tissue and the patches of a slide, without reading or encoding any patch.

        Returns:
            The tissue that a model cannot reach; None if unknown.

        Raises:
            SlideError: the slide has no tissue, or the magnifications do not fit it.
        """

    def open(self, slide: Slide) -> AbstractContextManager[SlideInput]:
        """Open a slide for the duration of a `with` block.

        Raises:
            SlideError: see `check`.
        """


def input_opener(
    settings: SlideSettings,
    encoder: Encoder | Sequence[Encoder] | None,
    *,
    skip_unavailable_magnifications: bool = False,
    cache: Path | None = None,
    threads: int | None = None,
) -> InputOpener:
    """Return what opens slides for a model.

    Args:
        settings: which patches a slide has.
        encoder: encoder of the patches, one for all magnifications or one for each, lowest first;
            None or an empty sequence for a model that takes pixels.
        skip_unavailable_magnifications: whether to leave out magnifications that do not fit a
            slide; if False, they are an error. Only for a model that takes pixels.
        cache: folder that keeps features or pixels between visits; None for no cache.
        threads: number of threads that read; None for one per CPU core, at most 8.
    """
    encoders = per_magnification(encoder, len(settings.magnifications))
    if encoders:
        return BagOpener(settings, encoders, cache=cache, threads=threads)
    return PixelOpener(
        settings,
        skip_unavailable_magnifications=skip_unavailable_magnifications,
        cache=cache,
        threads=threads,
    )


def open_input(
    slide: Slide,
    settings: SlideSettings,
    encoder: Encoder | Sequence[Encoder] | None,
    *,
    skip_unavailable_magnifications: bool = False,
) -> AbstractContextManager[SlideInput]:
    """Open one slide for a model, for the duration of a `with` block.

    Args:
        slide: slide to read from.
        settings: which patches the slide has.
        encoder: encoder of the patches, one for all magnifications or one for each, lowest first;
            None or an empty sequence for a model that takes pixels.
        skip_unavailable_magnifications: whether to leave out magnifications that do not fit the
            slide; if False, they are an error. Only for a model that takes pixels.

    Raises:
        SlideError: the slide has no tissue, or the magnifications do not fit it.
    """
    opener = input_opener(
        settings, encoder, skip_unavailable_magnifications=skip_unavailable_magnifications
    )
    return opener.open(slide)


class BagOpener:
    """Opens slides as bags whose patches are read and encoded as the model zooms.

    Args:
        settings: which patches a slide has.
        encoder: encoder of the patches, one for all magnifications or one for each, lowest first;
            features are on its device.
        cache: folder that keeps features between visits; None for no cache.
        threads: number of threads that read; None for one per CPU core, at most 8.
    """

    def __init__(
        self,
        settings: SlideSettings,
        encoder: Encoder | Sequence[Encoder],
        *,
        cache: Path | None = None,
        threads: int | None = None,
    ) -> None:
        self._settings, self._threads = settings, threads
        self._encoders = per_magnification(encoder, len(settings.magnifications))
        self._cache = None if cache is None else FeatureCache(cache)
        self._grids: dict[SlideKey, PatchGrid] = {}

    def check(self, slide: Slide) -> Reach | None:
        """Find the tissue and the patches of a slide; see `InputOpener`."""
        return self._grid(slide).reach

    @contextmanager
    def open(self, slide: Slide) -> Iterator[BagInput]:
        """Open a slide as a bag; see `InputOpener`."""
        grid = self._grid(slide)
        bag = live_bag(slide, grid, self._encoders, cache=self._cache, threads=self._threads)
        yield BagInput(
            bag,
            grid,
            tuple(range(len(grid.mpps))),
            slide.cost_meter,
            macs_per_patch=tuple(encoder.macs_per_patch() for encoder in self._encoders),
        )

    def _grid(self, slide: Slide) -> PatchGrid:
        return _find_once(self._grids, slide, self._settings.grid)


class PixelOpener:
    """Opens slides as sources of pixels, which share one pool of reading threads.

    Args:
        settings: which patches a slide has.
        skip_unavailable_magnifications: whether to leave out magnifications that do not fit a
            slide; if False, they are an error.
        cache: folder that keeps pixels between visits; None for no cache.
        threads: number of threads that read; None for one per CPU core, at most 8.
    """

    def __init__(
        self,
        settings: SlideSettings,
        *,
        skip_unavailable_magnifications: bool = False,
        cache: Path | None = None,
        threads: int | None = None,
    ) -> None:
        keep_freed_memory()  # for the large activations of a model that takes pixels
        self._settings, self._skip_unavailable = settings, skip_unavailable_magnifications
        self._cache = None if cache is None else PixelCache(cache)
        self._pool = ThreadPoolExecutor(threads or reading_threads())
        self._tissues: dict[SlideKey, Tissue] = {}

    def check(self, slide: Slide) -> Reach:
        """Find the tissue and the patches of a slide; see `InputOpener`."""
        boxes = self._cells(slide).boxes.numpy()
        return reach_of_boxes(self._tissue(slide), boxes, side=float(boxes[-1, 2]))

    @contextmanager
    def open(self, slide: Slide) -> Iterator[PixelInput]:
        """Open a slide as a source of pixels; see `InputOpener`."""
        tissue, cells = self._tissue(slide), self._cells(slide)
        with closing(SlidePixels(slide, tissue, pool=self._pool, cache=self._cache)) as pixels:
            yield PixelInput(pixels, cells, slide.cost_meter)

    def _tissue(self, slide: Slide) -> Tissue:
        return _find_once(self._tissues, slide, self._settings.tissue_of)

    def _cells(self, slide: Slide) -> Cells:
        return lay_cells(
            slide.size,
            slide.mpp,
            magnifications=self._settings.magnifications,
            patch_size=self._settings.patch_size,
            skip_unavailable_magnifications=self._skip_unavailable,
        )


def _find_once(
    results: dict[SlideKey, Found], slide: Slide, find: Callable[[Slide], Found]
) -> Found:
    """Return the result of `find` for a slide, from `results` if it is there.

    A slide made from an array has no path, so its result is not kept.
    """
    if slide.path is None:
        return find(slide)
    key = slide.path, slide.mpp, slide.tissue_path
    if key not in results:
        results[key] = find(slide)
    return results[key]
