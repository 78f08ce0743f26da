"""Open the slides of a cohort for a model: with stored features, as live bags, or as pixels.

inputs = cohort_inputs(settings, load, features=features)
with inputs.open(slide) as slide_input:
    prediction = model(slide_input.model_input)
    looks = slide_input.locate(prediction.looks)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from parfocal.bag import FeatureTable
from parfocal.cost import CostMeter
from parfocal.dataset.cohort import CohortError, CohortSlide
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.per_magnification import per_magnification
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.folder import SlideFeatures
from parfocal.features.header import SlideSettings
from parfocal.features.open_folder import Features, open_features
from parfocal.features.opener import input_opener
from parfocal.features.read_ahead import MOST_BYTES, AheadTable, ReadAhead, Reading, rows_of
from parfocal.features.rows import StoredFeatures
from parfocal.features.slide_input import BagInput, NoImage, SlideInput
from parfocal.grid import Reach
from parfocal.slide.notes import warn_of_notes
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.sources.url import SlidePath


@runtime_checkable
class Inputs(Protocol):
    """Opens the slides of a cohort for one model."""

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """Encoder of each magnification, lowest first; empty for a model that takes pixels."""

    def source_files(self, slide: CohortSlide) -> tuple[SlidePath, ...]:
        """Return the paths of the files that are read for a slide."""

    def check(self, slide: CohortSlide) -> Reach | None:
        """Raise the error that `open` would raise, before a model is run; return the reach."""

    def open(self, slide: CohortSlide) -> AbstractContextManager[SlideInput]:
        """Open a slide for the duration of a `with` block."""


@runtime_checkable
class ReadsAhead(Protocol):
    """Inputs that can read slides before they are opened."""

    def read_ahead(self, slides: Sequence[CohortSlide], *, whole: bool = False) -> None:
        """Start to read what a model is likely to need of slides that are opened soon.

        Args:
            slides: the slides; what was read of others is forgotten.
            whole: whether the model visits all patches of every magnification.
        """


@runtime_checkable
class CountsPatches(Protocol):
    """Inputs that know the number of patches of a slide before it is opened."""

    def count_patches(self, slide: CohortSlide) -> tuple[int, ...]:
        """Return the number of patches that exist at each magnification, lowest first."""


def refuse_features(features: Features) -> NoReturn:
    """Refuse stored features for a model that takes pixels.

    Args:
        features: the features, which need not exist.

    Raises:
        CohortError: always.
    """
    listed = [*features.values()] if isinstance(features, Mapping) else [features]
    raise CohortError(
        f"{', '.join(map(str, listed))}: the model takes pixels, so it cannot use stored features; "
        "leave --features out."
    )


def cohort_inputs(
    settings: SlideSettings,
    load_encoders: Callable[[], Encoder | Sequence[Encoder]] | None,
    *,
    features: Features | None = None,
    feature_encoder: EncoderSpec | Sequence[EncoderSpec] | None = None,
    skip_unavailable_magnifications: bool = False,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> Inputs:
    """Choose how the slides of a cohort are opened for a model.

    Args:
        settings: which patches a slide has.
        load_encoders: function that loads the encoder, one for all magnifications or one for each,
            called only if slides are encoded here; None for a model that takes pixels.
        features: folder of features by parfocal or by another tool, or folders by magnification;
            None to read the slide files.
        feature_encoder: encoder that must have made the stored features, one for all
            magnifications or one for each; None for those of the first feature file.
        skip_unavailable_magnifications: whether to leave out magnifications that do not fit a
            slide; if False, they are an error. Only for a model that takes pixels.
        cache: folder that keeps features or pixels between visits; None for no cache.
        device: device of stored features.
        threads: number of threads that read slides; None for one per CPU core, at most 8.

    Raises:
        CohortError: the model takes pixels.
        StoreError: the folder of features is missing or empty, or cannot be used.
    """
    if features is None:
        return LiveInputs(
            settings,
            None if load_encoders is None else load_encoders(),
            skip_unavailable_magnifications=skip_unavailable_magnifications,
            cache=cache,
            threads=threads,
        )
    if load_encoders is None:
        refuse_features(features)
    return StoredInputs(features, settings, encoder=feature_encoder, device=device)


class NoInputs:
    """Opens no slide, for a model that looks at none."""

    encoders: tuple[EncoderSpec, ...] = ()

    def source_files(self, slide: CohortSlide) -> tuple[SlidePath, ...]:
        """Return no path, because no file is read."""
        return ()

    def check(self, slide: CohortSlide) -> None:
        """Check nothing."""

    @contextmanager
    def open(self, slide: CohortSlide) -> Iterator[NoImage]:
        """Return an input without patches."""
        yield NoImage()


class StoredInputs:
    """Opens slides as bags of stored features; rows are read from the file when needed.

    Args:
        features: folder of features, by parfocal or by another tool, or folders by magnification.
        settings: which patches the features must be of; more magnifications may be stored.
        encoder: encoder that must have made the features, one for all magnifications or one for
            each, lowest first; None for those of the folder.
        device: device of the features.

    Raises:
        StoreError: the folder is missing or empty, or cannot be used.
    """

    def __init__(
        self,
        features: Features,
        settings: SlideSettings,
        *,
        encoder: EncoderSpec | Sequence[EncoderSpec] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings, self._device = settings, device
        self._folder = open_features(features)
        self._slides: dict[str, SlideFeatures] = {}
        self._ahead = ReadAhead()
        # Rows of the magnifications above the lowest that were read at the last visit, by slide.
        self._visited: dict[str, tuple[UInt8[np.ndarray, " _"], ...]] = {}
        if encoder is None:
            encoder = self._folder.facts.encoders_at(settings.magnifications, str(self._folder))
        else:
            self._folder.facts.require_magnifications(settings.magnifications, str(self._folder))
        self.encoders = per_magnification(encoder, len(settings.magnifications))

    def source_files(self, slide: CohortSlide) -> tuple[SlidePath, ...]:
        """Return the paths of the files with the features of a slide."""
        return self._folder.files(slide)

    def check(self, slide: CohortSlide) -> Reach | None:
        """Check that the features of a slide are by the encoder and of the patches expected.

        Returns:
            The tissue that a model cannot reach; None if unknown.

        Raises:
            StoreError: the file is damaged, or its features do not mix with the others.
        """
        return self._open(slide).select(self._settings.magnifications).grid.reach

    @contextmanager
    def open(self, slide: CohortSlide) -> Iterator[BagInput]:
        """Open a slide as a bag for the duration of a `with` block.

        Raises:
            StoreError: see `check`.
        """
        opened, magnifications = self._open(slide), self._settings.magnifications
        selection = opened.select(magnifications)
        tables: list[FeatureTable] = [*opened.tables(magnifications, device=self._device)]
        pending = self._ahead.take(slide.slide_id)
        ahead = [AheadTable(*each) for each in zip(tables[1:], pending[1:], strict=False)]
        tables[1:] = ahead or tables[1:]
        if pending and (lowest := pending[0].result()) is not None:
            tables[0] = lowest.features
        yield BagInput(
            selection.bag(tables),
            selection.grid,
            selection.steps,
            CostMeter(),
            placed=opened.placed,
        )
        if ahead:
            self._visited[slide.slide_id] = tuple(table.visited for table in ahead)

    def read_ahead(self, slides: Sequence[CohortSlide], *, whole: bool = False) -> None:
        """Start to read features of slides that are opened soon.

        Those are all of the lowest magnification, and of the others those that were read at the
        last visit of the slide.

        Args:
            slides: the slides; what was read of others is forgotten.
            whole: whether to read all of every magnification before the first visit, for a model
                that visits all patches.
        """
        self._ahead.start({slide.slide_id: self._readings(slide, whole=whole) for slide in slides})

    def count_patches(self, slide: CohortSlide) -> tuple[int, ...]:
        """Return the number of patches that exist at each magnification, lowest first.

        Raises:
            StoreError: see `check`.
        """
        selection = self._open(slide).select(self._settings.magnifications)
        return tuple(int(selection.grid.valid(step).sum()) for step in selection.steps)

    def _readings(self, slide: CohortSlide, *, whole: bool) -> list[Reading]:
        """Return what to read ahead of a slide at each magnification."""
        readings = [Reading(partial(self._table, slide, 0))]
        visited = self._visited.get(slide.slide_id)
        for step in range(1, len(self._settings.magnifications)):
            rows = None if whole else np.empty(0, dtype=np.int64)  # of the first visit
            if visited is not None:
                rows = rows_of(visited[step - 1])
            readings.append(Reading(partial(self._table, slide, step), rows, MOST_BYTES))
        return readings

    def _table(self, slide: CohortSlide, step: int) -> StoredFeatures:
        magnifications = self._settings.magnifications
        return self._open(slide).tables(magnifications, device=self._device)[step]

    def _open(self, slide: CohortSlide) -> SlideFeatures:
        if slide.slide_id not in self._slides:
            # Keeps what was read of the headers in memory, and no file open.
            self._slides[slide.slide_id] = self._folder.open(slide, self._settings, self.encoders)
        return self._slides[slide.slide_id]


class LiveInputs:
    """Opens slide files, as bags of features that are computed as the model zooms, or as pixels.

    Args:
        settings: which patches a slide has.
        encoder: encoder of the patches, one for all magnifications or one for each, lowest first;
            None or an empty sequence for a model that takes pixels.
        skip_unavailable_magnifications: whether to leave out magnifications that do not fit a
            slide; if False, they are an error. Only for a model that takes pixels.
        cache: folder that keeps features or pixels between visits; None for no cache.
        threads: number of threads that read; None for one per CPU core, at most 8.
    """

    def __init__(
        self,
        settings: SlideSettings,
        encoder: Encoder | Sequence[Encoder] | None,
        *,
        skip_unavailable_magnifications: bool = False,
        cache: Path | None = None,
        threads: int | None = None,
    ) -> None:
        encoders = per_magnification(encoder, len(settings.magnifications))
        self.encoders = tuple(each.spec for each in encoders)
        self._missing_tiles = settings.missing_tiles
        self._opener = input_opener(
            settings,
            encoders,
            skip_unavailable_magnifications=skip_unavailable_magnifications,
            cache=cache,
            threads=threads,
        )

    def source_files(self, slide: CohortSlide) -> tuple[SlidePath, ...]:
        """Return the path of the slide file."""
        return (slide.path,)

    def check(self, slide: CohortSlide) -> Reach | None:
        """Open a slide and find its tissue and patches.

        Returns:
            The tissue that a model cannot reach; None if unknown.

        Raises:
            SlideError: the slide cannot be opened, has no tissue, or a magnification does not fit.
        """
        with self._open(slide) as opened:
            reach = self._opener.check(opened)
            warn_of_notes(opened)
            return reach

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
            warn_of_notes(opened)

    def _open(self, slide: CohortSlide) -> Slide:
        return open_slide(
            slide.path,
            mpp=slide.mpp,
            from_cohort=True,
            tissue=slide.tissue,
            missing_tiles=self._missing_tiles,
        )
