"""Folders of stored features for the models of a comparison.

Each model gets the patches that it has by itself. One folder with the magnifications of several
models serves all of them if, on every slide, the patches of each one are among those of the folder;
a model that it does not serve gets a folder of its own.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from parfocal.compare.candidate import Candidate, ComparisonError, shared_slide_settings
from parfocal.dataset.cohort import Cohort, CohortSlide
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.extract import extract_cohort
from parfocal.features.header import SlideSettings, group_names
from parfocal.features.store import FeatureFile
from parfocal.settings import EncoderSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stores:
    """Where the models of a comparison find stored features.

    Args:
        folders: folder of features by name of the model; none for models that take pixels.
        failed: reason of each slide that could not be extracted, by slide id.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def prepare_stores(
    cohort: Cohort,
    candidates: Sequence[Candidate],
    out: Path,
    *,
    features: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
) -> Stores:
    """Check the given features, or extract features into as few folders as possible.

    Folders that an earlier call has written are used again, and completed.

    Args:
        cohort: the slides.
        candidates: the models.
        out: folder of the comparison.
        features: folder of stored features for all models; None to extract them into `out`.
        cache: folder of a feature cache, whose features are not computed again.
        device: device of the encoder.

    Raises:
        StoreError: features cannot be written.
        ComparisonError: the given features do not hold the patches that a model has by itself.
    """
    with_features = [each for each in candidates if each.settings.encoder is not None]
    if features is not None:
        for candidate in with_features:
            _refuse_unfit(features, cohort, candidate)
        return Stores({candidate.name: features for candidate in with_features})
    stores = Stores()
    for group in _groups(with_features):
        _GroupExtraction(cohort, out / "features", cache, device, stores).run(group)
    return stores


def load_candidate_encoder(settings: EncoderSettings, device: str) -> Encoder:
    """Load the encoder that the settings of a model name."""
    return load_encoder(
        settings.name, device=device, weights=settings.weights, runtime=settings.runtime
    )


def _refuse_unfit(features: Path, cohort: Cohort, candidate: Candidate) -> None:
    """Refuse features that do not hold the patches of a model; damage is the slide's failure."""
    for path, slide in _files(features, cohort):
        try:
            file = FeatureFile(path)
            file.check(file.encoder, candidate.settings.slide, tissue=slide.tissue)
        except MixedFeaturesError as error:
            raise ComparisonError(
                f"{candidate.name}: {error} Or leave --features out, and the comparison extracts "
                "what each model needs."
            ) from None
        except StoreError:
            continue


def _groups(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Group models whose features differ in nothing but the magnifications."""
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    for candidate in candidates:
        encoder, slide = candidate.settings.encoder, candidate.settings.slide
        assert encoder is not None
        # With the published rule, the lowest magnification decides which patches exist.
        magnifications = slide.magnifications if slide.roots == "share" else (1.0,)
        key = (encoder.name, encoder.weights, replace(slide, magnifications=magnifications))
        groups.setdefault(key, []).append(candidate)
    return list(groups.values())


@dataclass(frozen=True)
class _GroupExtraction:
    """Extracts the features of one group of models.

    Args:
        cohort: the slides.
        folder: parent of the folders of features.
        cache: folder of a feature cache; None for none.
        device: device of the encoder.
        stores: gets the folders and the failures.
    """

    cohort: Cohort
    folder: Path
    cache: Path | None
    device: str
    stores: Stores

    def run(self, group: Sequence[Candidate]) -> None:
        """Find a folder for each model of the group."""
        assert group[0].settings.encoder is not None
        encoder = load_candidate_encoder(group[0].settings.encoder, self.device)
        waiting = self._use_existing(encoder, group)
        if len({each.settings.slide.magnifications for each in waiting}) > 1:
            union = shared_slide_settings(waiting)
            waiting = self._extract(encoder, self._new_folder(encoder, union), union, waiting)
        for candidate in waiting:  # those of equal magnifications use one folder
            if candidate.name not in self.stores.folders:
                own = candidate.settings.slide
                same = [each for each in waiting if each.settings.slide == own]
                self._extract(encoder, self._new_folder(encoder, own), own, same)

    def _use_existing(self, encoder: Encoder, group: Sequence[Candidate]) -> Sequence[Candidate]:
        """Complete the folders of earlier calls that serve models; return the other models."""
        waiting = group
        for path in sorted(self.folder.glob("*/")):
            stored = _stored_magnifications(path, self.cohort, encoder, group[0].settings.slide)
            fitting = [c for c in waiting if set(c.settings.slide.magnifications) <= set(stored)]
            if fitting:
                settings = replace(group[0].settings.slide, magnifications=stored)
                left = self._extract(encoder, path, settings, fitting)
                waiting = [each for each in waiting if each not in fitting or each in left]
        return waiting

    def _extract(
        self, encoder: Encoder, path: Path, settings: SlideSettings, group: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        """Extract features; return the models whose patches are not among them on every slide."""
        extracted = extract_cohort(
            [(slide.slide_id, slide.path, slide.mpp) for slide in self.cohort.slides],
            path,
            encoder=encoder,
            settings=settings,
            cache=self.cache,
            tissue={each.slide_id: each.tissue for each in self.cohort.slides if each.tissue},
        )
        self.stores.failed.update(extracted.failed)
        left = []
        for candidate in group:
            reason = self._unfit_reason(path, encoder, candidate)
            if reason is None:
                self.stores.folders[candidate.name] = path
            else:
                logger.info("%s gets features of its own: %s", candidate.name, reason)
                left.append(candidate)
        return left

    def _unfit_reason(self, path: Path, encoder: Encoder, candidate: Candidate) -> str | None:
        for file, slide in _files(path, self.cohort):
            try:
                FeatureFile(file).check(encoder.spec, candidate.settings.slide, tissue=slide.tissue)
            except MixedFeaturesError as error:
                return str(error)
            except StoreError:
                continue  # damaged: the failure of its slide
        return None

    def _new_folder(self, encoder: Encoder, settings: SlideSettings) -> Path:
        """Return a folder without features: ENCODER, ENCODER-2.5x-10x, ENCODER-2.5x-10x-2, ..."""
        name = encoder.spec.name.replace(":", "-").replace("/", "-")
        long_name = "-".join((name, *group_names(settings.magnifications)))
        names = [name, long_name, *(f"{long_name}-{number}" for number in range(2, 100))]
        paths = (self.folder / each for each in names)
        return next(path for path in paths if not any(path.glob("*.h5")))


def _stored_magnifications(
    folder: Path, cohort: Cohort, encoder: Encoder, settings: SlideSettings
) -> tuple[float, ...]:
    """Return the magnifications of a folder; none if it is of other patches or encoders."""
    stored: tuple[float, ...] = ()
    for path, slide in _files(folder, cohort):
        try:
            file = FeatureFile(path)
            expected = replace(settings, magnifications=file.magnifications)
            file.check(encoder.spec, expected, tissue=slide.tissue)
        except MixedFeaturesError:
            return ()
        except StoreError:
            continue  # damaged: the failure of its slide
        stored = stored or file.magnifications
    return stored


def _files(folder: Path, cohort: Cohort) -> list[tuple[Path, CohortSlide]]:
    paths = ((folder / f"{slide.slide_id}.h5", slide) for slide in cohort.slides)
    return [(path, slide) for path, slide in paths if path.exists()]
