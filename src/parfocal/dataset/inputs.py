"""Open the slides of a cohort for a model: with stored features, as live bags, or as pixels.

inputs = cohort_inputs(settings, load, features=features)
with inputs.open(slide) as slide_input:
    prediction = model(slide_input.model_input)
    looks = slide_input.locate(prediction.looks)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from parfocal.cost import CostMeter
from parfocal.dataset.cohort import CohortError, CohortSlide
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.header import SlideSettings
from parfocal.features.opener import input_opener
from parfocal.features.slide_input import BagInput, SlideInput
from parfocal.features.store import FeatureFile, feature_path
from parfocal.grid import Reach
from parfocal.slide.slide import Slide, open_slide


@runtime_checkable
class Inputs(Protocol):
    """Opens the slides of a cohort for one model."""

    @property
    def encoder(self) -> EncoderSpec | None:
        """Encoder of the features; None for a model that takes pixels."""

    def source_file(self, slide: CohortSlide) -> Path:
        """Return the path of the file that is read for a slide."""

    def check(self, slide: CohortSlide) -> Reach | None:
        """Raise the error that `open` would raise, before a model is run; return the reach."""

    def open(self, slide: CohortSlide) -> AbstractContextManager[SlideInput]:
        """Open a slide for the duration of a `with` block."""


def cohort_inputs(
    settings: SlideSettings,
    load_encoder: Callable[[], Encoder | None] | None,
    *,
    features: Path | None = None,
    feature_encoder: EncoderSpec | None = None,
    skip_unavailable_magnifications: bool = False,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> Inputs:
    """Choose how the slides of a cohort are opened for a model.

    Args:
        settings: which patches a slide has.
        load_encoder: function that loads the encoder, called only if slides are encoded here; None
            for a model that takes pixels.
        features: folder of feature files; None to read the slide files.
        feature_encoder: encoder that must have made the stored features; None for that of the
            first feature file.
        skip_unavailable_magnifications: whether to leave out magnifications that do not fit a
            slide; if False, they are an error. Only for a model that takes pixels.
        cache: folder that keeps features or pixels between visits; None for no cache.
        device: device of stored features.
        threads: number of threads that read slides; None for one per CPU core, at most 8.

    Raises:
        CohortError: the folder of features is missing or empty, or the model takes pixels.
    """
    if features is None:
        return LiveInputs(
            settings,
            None if load_encoder is None else load_encoder(),
            skip_unavailable_magnifications=skip_unavailable_magnifications,
            cache=cache,
            threads=threads,
        )
    if load_encoder is None:
        raise CohortError(
            f"{features}: the model takes pixels, so it cannot use stored features; leave "
            "--features out."
        )
    return StoredInputs(features, settings, encoder=feature_encoder, device=device)


class StoredInputs:
    """Opens slides as bags of stored features; rows are read from the file when needed.

    Args:
        folder: folder of feature files.
        settings: which patches the features must be of; more magnifications may be stored.
        encoder: encoder that must have made the features; None for that of the first file.
        device: device of the features.

    Raises:
        CohortError: the folder is missing, or has no feature file in it.
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

    def source_file(self, slide: CohortSlide) -> Path:
        """Return the path of a slide's feature file."""
        return feature_path(self._folder, slide.slide_id)

    def check(self, slide: CohortSlide) -> Reach | None:
        """Check that the features of a slide are by the encoder and of the patches expected.

        Returns:
            The tissue that a model cannot reach; None if unknown.

        Raises:
            StoreError: the file is damaged, or its features do not mix with the others.
        """
        return self._file(slide).select(self._settings.magnifications).grid.reach

    @contextmanager
    def open(self, slide: CohortSlide) -> Iterator[BagInput]:
        """Open a slide as a bag for the duration of a `with` block.

        Raises:
            StoreError: see `check`.
        """
        file = self._file(slide)
        magnifications = self._settings.magnifications
        selection = file.select(magnifications)
        bag = file.bag(magnifications, device=self._device)
        yield BagInput(bag, selection.grid, selection.steps, CostMeter())

    def _file(self, slide: CohortSlide) -> FeatureFile:
        if slide.slide_id not in self._files:
            file = FeatureFile(self.source_file(slide))
            file.check(self.encoder, self._settings, tissue=slide.tissue)
            self._files[slide.slide_id] = file  # keeps the header in memory, and nothing open
        return self._files[slide.slide_id]


class LiveInputs:
    """Opens slide files, as bags of features that are computed as the model zooms, or as pixels.

    Args:
        settings: which patches a slide has.
        encoder: encoder of the patches; None for a model that takes pixels.
        skip_unavailable_magnifications: whether to leave out magnifications that do not fit a
            slide; if False, they are an error. Only for a model that takes pixels.
        cache: folder that keeps features or pixels between visits; None for no cache.
        threads: number of threads that read; None for one per CPU core, at most 8.
    """

    def __init__(
        self,
        settings: SlideSettings,
        encoder: Encoder | None,
        *,
        skip_unavailable_magnifications: bool = False,
        cache: Path | None = None,
        threads: int | None = None,
    ) -> None:
        self.encoder = None if encoder is None else encoder.spec
        self._missing_tiles = settings.missing_tiles
        self._opener = input_opener(
            settings,
            encoder,
            skip_unavailable_magnifications=skip_unavailable_magnifications,
            cache=cache,
            threads=threads,
        )

    def source_file(self, slide: CohortSlide) -> Path:
        """Return the path of the slide file."""
        return slide.path

    def check(self, slide: CohortSlide) -> Reach | None:
        """Open a slide and find its tissue and patches.

        Returns:
            The tissue that a model cannot reach; None if unknown.

        Raises:
            SlideError: the slide cannot be opened, has no tissue, or a magnification does not fit.
        """
        with self._open(slide) as opened:
            return self._opener.check(opened)

    @contextmanager
    def open(self, slide: CohortSlide) -> Iterator[SlideInput]:
        """Open a slide for the duration of a `with` block.

        Raises:
            SlideError: see `check`; inside the block, a patch cannot be read.
        """
        with (
            self._open(slide) as opened,
            self._opener.open(opened) as slide_input,
        ):
            yield slide_input

    def _open(self, slide: CohortSlide) -> Slide:
        return open_slide(
            slide.path,
            mpp=slide.mpp,
            from_cohort=True,
            tissue=slide.tissue,
            missing_tiles=self._missing_tiles,
        )


def _first_file(folder: Path) -> Path:
    """Return the first feature file of a folder, so that an empty one is refused at once."""
    files = sorted(folder.glob("*.h5"))
    if not files:
        found = "no feature files (*.h5) here" if folder.is_dir() else "no such folder"
        raise CohortError(f"{folder}: {found}; run `parfocal extract` first.")
    return files[0]
