"""Any slide of a cohort opened for a model: a bag, stored or live, or a source of pixels.

bags = StoredBags(features, settings) if features else LiveBags(encoder, settings)
with bags.open(slide) as opened:
    prediction = model(opened.given)
    looks = opened.locate(prediction.looks)
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from parfocal.cost import CostMeter
from parfocal.dataset.cohort import CohortError, CohortSlide
from parfocal.encoders.encoder import Encoder, EncoderSpec
from parfocal.features.cache import FeatureCache
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag
from parfocal.features.slide_input import BagInput, SlideInput
from parfocal.features.store import FeatureFile, feature_path
from parfocal.grid import PatchGrid
from parfocal.slide.slide import Slide, open_slide


@runtime_checkable
class Inputs(Protocol):
    """Whatever opens slides of a cohort for a model."""

    @property
    def encoder(self) -> EncoderSpec | None:
        """What features are made by; None for pixels."""

    def needs(self, slide: CohortSlide) -> Path:
        """Give the file that is read for a slide."""

    def check(self, slide: CohortSlide) -> None:
        """Find out whether a slide can be opened, before any model waits for it."""

    def open(self, slide: CohortSlide) -> AbstractContextManager[SlideInput]:
        """Open a slide, for as long as the block."""


class StoredBags:
    """Bags of features that were extracted before, each row read when asked for.

    Args:
        folder: of feature files.
        settings: which patches, as they were extracted; some magnifications may be left out.
        encoder: that made them; None for the one of the first file found.
        device: where the features are wanted.

    Raises:
        CohortError: there is no such folder, or no feature file in it.
    """

    def __init__(
        self,
        folder: Path,
        settings: SlideSettings,
        *,
        encoder: EncoderSpec | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._folder, self._settings, self._device = folder, settings, device
        self._files: dict[str, FeatureFile] = {}
        first = _first_file(folder)
        self.encoder = encoder or FeatureFile(first).encoder

    def needs(self, slide: CohortSlide) -> Path:
        """Give the feature file of a slide."""
        return feature_path(self._folder, slide.slide_id)

    def check(self, slide: CohortSlide) -> None:
        """Refuse features made by another encoder or of other patches.

        Raises:
            StoreError: the file is damaged, or its features do not mix with the others.
        """
        self._file(slide)

    @contextmanager
    def open(self, slide: CohortSlide) -> Iterator[BagInput]:
        """Open a slide's bag.

        Raises:
            StoreError: as `check`.
        """
        file = self._file(slide)
        wanted = self._settings.magnifications
        steps = tuple(file.step(magnification) for magnification in wanted)
        bag = file.bag(wanted, device=self._device)
        yield BagInput(bag, file.header.grid, steps, CostMeter())

    def _file(self, slide: CohortSlide) -> FeatureFile:
        if slide.slide_id not in self._files:
            file = FeatureFile(self.needs(slide))
            file.check(self.encoder, self._settings)
            self._files[slide.slide_id] = file  # which holds its header, and nothing open
        return self._files[slide.slide_id]


class LiveBags:
    """Bags that read a slide and encode its patches as the model zooms.

    Tissue and grid are found once a slide, and kept.

    Args:
        encoder: of patches; features are on its device.
        settings: which patches.
        cache: of features, kept on disk between visits; None for none.
        threads: that read; None for one for each core, up to 8.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: SlideSettings,
        *,
        cache: FeatureCache | None = None,
        threads: int | None = None,
    ) -> None:
        self.encoder = encoder.spec
        self._encode, self._settings = encoder, settings
        self._cache, self._threads = cache, threads
        self._grids: dict[str, PatchGrid] = {}

    def needs(self, slide: CohortSlide) -> Path:
        """Give the slide file."""
        return slide.path

    def check(self, slide: CohortSlide) -> None:
        """Open a slide and find its tissue.

        Raises:
            SlideError: it cannot be opened, has no tissue, or is not sharp enough.
        """
        with open_slide(slide.path, mpp=slide.mpp, listed=True) as opened:
            self._grid(slide, opened)

    @contextmanager
    def open(self, slide: CohortSlide) -> Iterator[BagInput]:
        """Open a slide's bag.

        Raises:
            SlideError: as `check`, and when a patch asked for cannot be read.
        """
        with open_slide(slide.path, mpp=slide.mpp, listed=True) as opened:
            grid = self._grid(slide, opened)
            bag = live_bag(opened, grid, self._encode, cache=self._cache, threads=self._threads)
            yield BagInput(bag, grid, tuple(range(len(grid.mpps))), opened.bill)

    def _grid(self, slide: CohortSlide, opened: Slide) -> PatchGrid:
        if slide.slide_id not in self._grids:
            self._grids[slide.slide_id] = self._settings.grid(opened)
        return self._grids[slide.slide_id]


def _first_file(folder: Path) -> Path:
    """Refuse a folder without features at once, and not a slide after the other."""
    files = sorted(folder.glob("*.h5"))
    if not files:
        found = "no feature files (*.h5) here" if folder.is_dir() else "no such folder"
        raise CohortError(f"{folder}: {found}; run `parfocal extract` first.")
    return files[0]
