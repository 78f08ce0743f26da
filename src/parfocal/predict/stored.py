"""Open the stored features of slides that are predicted; imports HDF5, which pixels do not need."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import StoredInputs
from parfocal.encoders.device import choose_device
from parfocal.features.open_folder import open_features
from parfocal.features.slide_input import BagInput
from parfocal.models.checkpoint import Checkpoint
from parfocal.slide.identity import slide_id
from parfocal.slide.slide import Slide
from parfocal.slide.sources.url import SlidePath


class StoredFeatureInputs:
    """Opens the stored features of slides for one model.

    Args:
        features: folder of features, or folders by magnification.
        trained: the model.
        device: device of the features.
        slides: the slide files, for tools that leave the resolution to them.
        mpp: µm per level-0 pixel of every slide that the user gave; None for that of the files.

    Raises:
        ValueError: the model takes pixels.
        StoreError: the features cannot be used.
    """

    def __init__(
        self,
        features: Path | Mapping[float, Path],
        trained: Checkpoint,
        device: str,
        slides: Sequence[SlidePath] = (),
        mpp: float | None = None,
    ) -> None:
        if not trained.encoders:
            raise ValueError(
                f"{features}: model {trained.model_name} takes pixels, so it cannot use stored "
                "features; leave --features out."
            )
        listed = [
            CohortSlide(slide_id(path), path, "", slide_id(path), row, mpp)
            for row, path in enumerate(slides)
        ]
        magnification = trained.magnifications[0] if len(trained.magnifications) == 1 else None
        folder = open_features(features, listed, magnification=magnification)
        self._inputs = StoredInputs(
            folder, trained.slide, encoder=trained.encoders, device=choose_device(device)
        )

    def open(self, slide: Slide, mpp: float | None) -> AbstractContextManager[BagInput]:
        """Open the features of a slide for the duration of a `with` block.

        Args:
            slide: the slide, which has a file.
            mpp: µm per level-0 pixel that the user gave; None for that of the file.

        Raises:
            StoreError: the slide has no features, or they cannot be used.
        """
        assert slide.path is not None
        listed = CohortSlide(slide.id, slide.path, "", slide.id, 0, mpp, tissue=slide.tissue_path)
        return self._inputs.open(listed)
