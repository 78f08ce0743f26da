"""Folders of stored features for the models of a comparison.

Each model gets the patches that it has by itself. One folder with the magnifications of several
models serves all of them if, on every slide, the patches of each one are among those of the folder;
a model that it does not serve gets a folder of its own.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from parfocal.compare.candidate import Candidate, ComparisonError, shared_slide_settings
from parfocal.dataset.cohort import Cohort, CohortSlide
from parfocal.distribute.claims import link_new
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.spec import EncoderSpec, Output
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.extract import extract_cohort
from parfocal.features.folder import FeatureFolder
from parfocal.features.header import SlideSettings, group_names
from parfocal.features.open_folder import Features, open_features
from parfocal.features.store import FeatureFile
from parfocal.files import part_path
from parfocal.settings.encoders import load_encoders

RESERVED_FILE = "extraction.json"  # says what the features of a folder are for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stores:
    """Where the models of a comparison find stored features.

    Args:
        folders: folder of features by name of the model; none for models that take pixels.
        failed: reason of each slide that could not be extracted, by slide id.
    """

    folders: dict[str, Features] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def prepare_stores(
    cohort: Cohort,
    candidates: Sequence[Candidate],
    out: Path,
    *,
    features: Features | None = None,
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
        folder = open_features(features, cohort.slides)
        for candidate in with_features:
            _refuse_unfit(folder, cohort, candidate)
        return Stores({candidate.name: folder for candidate in with_features})
    stores = Stores()
    for group in _groups(with_features):
        _GroupExtraction(cohort, out / "features", cache, device, stores).run(group)
    return stores


def _refuse_unfit(folder: FeatureFolder, cohort: Cohort, candidate: Candidate) -> None:
    """Refuse features that do not hold the patches of a model; damage is the slide's failure."""
    settings = candidate.settings.slide
    for slide in cohort.slides:
        try:
            encoders = folder.facts.encoders_at(settings.magnifications, str(folder))
            if all(path.exists() for path in folder.files(slide)):
                folder.open(slide, settings, encoders)
        except MixedFeaturesError as error:
            raise ComparisonError(
                f"{candidate.name}: {error} Or leave --features out, and the comparison extracts "
                "what each model needs."
            ) from None
        except StoreError:
            continue


def _groups(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Group models whose features differ in nothing but the magnifications."""
    groups: list[list[Candidate]] = []
    for candidate in candidates:
        group = next((each for each in groups if _fits(candidate, each)), None)
        if group is None:
            groups.append([candidate])
        else:
            group.append(candidate)
    return groups


def _fits(candidate: Candidate, group: Sequence[Candidate]) -> bool:
    """Return whether one folder may hold the features of a model and of a group."""
    if _slide_key(candidate) != _slide_key(group[0]):
        return False
    own, others = _chosen_encoders([candidate]), _chosen_encoders(group)
    agree = all(own[each] == others[each] for each in own.keys() & others.keys())
    return agree and (
        set(own.values()) <= set(others.values()) or set(others.values()) <= set(own.values())
    )


def _slide_key(candidate: Candidate) -> SlideSettings:
    """Return the settings of the patches that the models of a group share."""
    slide = candidate.settings.slide
    # With the published rule, the lowest magnification decides which patches exist.
    return slide if slide.roots == "share" else replace(slide, magnifications=(1.0,))


def _chosen_encoders(
    group: Sequence[Candidate],
) -> dict[float, tuple[str, Path | None, Output | None]]:
    """Return name, weights and output of the encoder of each magnification of a group."""
    chosen: dict[float, tuple[str, Path | None, Output | None]] = {}
    for candidate in group:
        encoder = candidate.settings.encoder
        assert encoder is not None
        for each in candidate.settings.slide.magnifications:
            chosen[each] = (
                encoder.name_at(each),
                encoder.weights_at(each),
                encoder.output_at(each),
            )
    return chosen


@dataclass(frozen=True)
class _GroupEncoders:
    """The loaded encoders of a group of models, by magnification."""

    by_magnification: dict[float, Encoder]

    @classmethod
    def load(cls, group: Sequence[Candidate], device: str) -> "_GroupEncoders":
        chosen = _chosen_encoders(group)
        assert group[0].settings.encoder is not None
        settings = replace(
            group[0].settings.encoder,
            name={each: name for each, (name, _, _) in chosen.items()},
            weights={each: path for each, (_, path, _) in chosen.items() if path is not None},
            output={each: output for each, (_, _, output) in chosen.items() if output is not None},
        )
        patch_size = group[0].settings.slide.patch_size
        encoders = load_encoders(settings, list(chosen), device=device, patch_size=patch_size)
        return cls(dict(zip(chosen, encoders, strict=True)))

    @property
    def name(self) -> str:
        """The names of the encoders, lowest magnification first, as the name of a folder."""
        ordered = [self.by_magnification[each] for each in sorted(self.by_magnification)]
        names = dict.fromkeys(encoder.spec.name for encoder in ordered)
        return "+".join(name.replace(":", "-").replace("/", "-") for name in names)

    def at(self, magnifications: Sequence[float]) -> tuple[Encoder, ...] | None:
        """Return the encoder of each magnification; None if one has none.

        If all models of the group have the same encoder, it is the one of any magnification.
        """
        encoders = list(self.by_magnification.values())
        if all(encoder is encoders[0] for encoder in encoders):
            return (encoders[0],) * len(magnifications)
        if not set(magnifications) <= self.by_magnification.keys():
            return None
        return tuple(self.by_magnification[each] for each in magnifications)

    def specs(self, magnifications: Sequence[float]) -> list[EncoderSpec] | None:
        """Return the description of the encoder of each magnification; None if one has none."""
        encoders = self.at(magnifications)
        return None if encoders is None else [encoder.spec for encoder in encoders]


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
        encoders = _GroupEncoders.load(group, self.device)
        waiting = self._use_existing(encoders, group)
        if len({each.settings.slide.magnifications for each in waiting}) > 1:
            union = shared_slide_settings(waiting)
            waiting = self._extract(encoders, self._new_folder(encoders, union), union, waiting)
        for candidate in waiting:  # those of equal magnifications use one folder
            if candidate.name not in self.stores.folders:
                own = candidate.settings.slide
                same = [each for each in waiting if each.settings.slide == own]
                self._extract(encoders, self._new_folder(encoders, own), own, same)

    def _use_existing(
        self, encoders: _GroupEncoders, group: Sequence[Candidate]
    ) -> Sequence[Candidate]:
        """Complete the folders of earlier calls that serve models; return the other models."""
        waiting = group
        for path in sorted(self.folder.glob("*/")):
            stored = _stored_magnifications(path, self.cohort, encoders, group[0].settings.slide)
            fitting = [c for c in waiting if set(c.settings.slide.magnifications) <= set(stored)]
            if fitting:
                settings = replace(group[0].settings.slide, magnifications=stored)
                left = self._extract(encoders, path, settings, fitting)
                waiting = [each for each in waiting if each not in fitting or each in left]
        return waiting

    def _extract(
        self,
        encoders: _GroupEncoders,
        path: Path,
        settings: SlideSettings,
        group: Sequence[Candidate],
    ) -> Sequence[Candidate]:
        """Extract features; return the models whose patches are not among them on every slide."""
        chosen = encoders.at(settings.magnifications)
        assert chosen is not None
        extracted = extract_cohort(
            [(slide.slide_id, slide.path, slide.mpp) for slide in self.cohort.slides],
            path,
            encoder=chosen,
            settings=settings,
            cache=self.cache,
            tissue={each.slide_id: each.tissue for each in self.cohort.slides if each.tissue},
        )
        self.stores.failed.update(extracted.failed)
        left = []
        for candidate in group:
            reason = self._unfit_reason(path, encoders, candidate)
            if reason is None:
                self.stores.folders[candidate.name] = path
            else:
                logger.info("%s gets features of its own: %s", candidate.name, reason)
                left.append(candidate)
        return left

    def _unfit_reason(
        self, path: Path, encoders: _GroupEncoders, candidate: Candidate
    ) -> str | None:
        expected = encoders.specs(candidate.settings.slide.magnifications)
        assert expected is not None
        for file, slide in _files(path, self.cohort):
            try:
                FeatureFile(file).check(expected, candidate.settings.slide, tissue=slide.tissue)
            except MixedFeaturesError as error:
                return str(error)
            except StoreError:
                continue  # damaged: the failure of its slide
        return None

    def _new_folder(self, encoders: _GroupEncoders, settings: SlideSettings) -> Path:
        """Return a folder without features: ENCODER, ENCODER-2.5x-10x, ENCODER-2.5x-10x-2, ...

        Another process that needs the same features at the same time gets the same folder.
        """
        long_name = "-".join((encoders.name, *group_names(settings.magnifications)))
        names = [encoders.name, long_name, *(f"{long_name}-{number}" for number in range(2, 100))]
        paths = (self.folder / each for each in names)
        purpose = json.dumps({"encoders": encoders.name, "slide": asdict(settings)}, default=str)
        return next(path for path in paths if _is_free(path, purpose))


def _is_free(folder: Path, purpose: str) -> bool:
    """Return whether features may be written to a folder, which is reserved for them then."""
    reserved = folder / RESERVED_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not reserved.exists() and any(folder.glob("*.h5")):
        return False
    draft = part_path(reserved)
    draft.write_text(f"{purpose}\n", encoding="utf-8")
    try:
        link_new(draft, reserved)
    except FileExistsError:
        return reserved.read_text(encoding="utf-8") == f"{purpose}\n"
    finally:
        draft.unlink(missing_ok=True)
    return True


def _stored_magnifications(
    folder: Path, cohort: Cohort, encoders: _GroupEncoders, settings: SlideSettings
) -> tuple[float, ...]:
    """Return the magnifications of a folder; none if it is of other patches or encoders."""
    stored: tuple[float, ...] = ()
    for path, slide in _files(folder, cohort):
        try:
            file = FeatureFile(path)
            expected = replace(settings, magnifications=file.magnifications)
            specs = encoders.specs(file.magnifications)
            if specs is None:
                return ()
            file.check(specs, expected, tissue=slide.tissue)
        except MixedFeaturesError:
            return ()
        except StoreError:
            continue  # damaged: the failure of its slide
        stored = stored or file.magnifications
    return stored


def _files(folder: Path, cohort: Cohort) -> list[tuple[Path, CohortSlide]]:
    paths = ((folder / f"{slide.slide_id}.h5", slide) for slide in cohort.slides)
    return [(path, slide) for path, slide in paths if path.exists()]
