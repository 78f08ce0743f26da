"""Run a model on a batch of slides during training, and leave out slides that cannot be read."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import Bag, ExhaustiveBag, ModelInput, PixelSource
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import Inputs
from parfocal.dataset.lesions import Lesions
from parfocal.dataset.localization import touching_mask
from parfocal.dataset.patient_inputs import PatientSlideError
from parfocal.dataset.patients import keep_slides
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.pixels import AugmentedSource
from parfocal.features.slide_input import SlideInput
from parfocal.models.contract import ModelTraits, run_model
from parfocal.models.limited_bag import LimitedBag, Visited
from parfocal.models.random_limit import RandomLimit
from parfocal.prediction import Prediction
from parfocal.slide.errors import SlideError
from parfocal.slide.failure import catch_failure, describe_failure, is_disk_full
from parfocal.tasks import Task
from parfocal.train.folder import RunError

logger = logging.getLogger(__name__)

READ_ERRORS = (SlideError, StoreError, OSError)  # any other may be an error of the model


@dataclass
class BatchRunner:
    """Runs a model on slides of a cohort.

    Args:
        model: the model; slides are augmented and lesion targets added only in training mode.
        traits: traits of the model.
        inputs: opens the slides.
        task: what the model predicts.
        augment: whether to flip and rotate training slides at random.
        generator: random generator of the orientations.
        lesions: outlines of the training slides, for a model that is trained on them.
        skip_unreadable: whether to continue without a slide that cannot be read; if False, it
            stops the training.
        failed: reason of each slide that could not be read, by slide id.
        patches_encoded: number of patches encoded so far.
        exhaustive: whether the model visits every patch, whichever patches it selects.
        random_budgets: whether the visits end at a random place in half of the training steps.
        without_slide: options of the command that continue without a slide.
        alone: returns a context in which the model runs without the other processes that train it.
    """

    model: nn.Module
    traits: ModelTraits
    inputs: Inputs
    task: Task
    augment: bool
    generator: torch.Generator
    lesions: Lesions | None = None
    skip_unreadable: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    patches_encoded: int = 0
    exhaustive: bool = False
    random_budgets: bool = False
    without_slide: str = "--resume --skip-unreadable"
    alone: Callable[[], AbstractContextManager[None]] = nullcontext

    def run(
        self, slides: Sequence[CohortSlide], device: torch.device
    ) -> tuple[Prediction | None, Tensor]:
        """Run the model on slides; a slide that cannot be read is recorded in `failed`.

        Args:
            slides: the batch; slides in `failed` are left out.
            device: device of the targets.

        Returns:
            The prediction, None if no slide is left; and the target of each remaining slide, the
            one target for a model that takes one slide at a time.
        """
        slides = self.remaining(slides)
        if not slides:
            return None, torch.empty(0)
        targets = torch.stack([self.task.encode(slide) for slide in slides])
        try:
            prediction = self._predict(slides, device)
        except READ_ERRORS as error:
            if is_disk_full(error) or isinstance(error, MixedFeaturesError):
                raise
            self._record_failed(slides, error, device)
            return self.run(slides, device)
        targets = targets if prediction.members else targets[0]
        return prediction, targets.to(device)

    def remaining(self, slides: Sequence[CohortSlide]) -> list[CohortSlide]:
        """Return slides, and patients with the slides, that have not failed."""
        kept = (
            keep_slides(slide, lambda each: each.slide_id not in self.failed) for slide in slides
        )
        return [slide for slide in kept if slide is not None]

    def _predict(self, slides: Sequence[CohortSlide], device: torch.device) -> Prediction:
        with ExitStack() as stack:
            # A slide that was drawn twice is opened once.
            unique = {slide.slide_id: slide for slide in slides}
            opened = {
                slide_id: stack.enter_context(self._open(slide))
                for slide_id, slide in unique.items()
            }
            prediction = run_model(
                self.model,
                [self._augment(opened[slide.slide_id].model_input) for slide in slides],
                covariates=_covariates([opened[slide.slide_id] for slide in slides], device),
            )
        self.patches_encoded += sum(
            sum(each.cost_meter.total().patches) for each in opened.values()
        )
        if self.traits.needs_outlines and self.model.training:
            (slide,) = slides
            return self._with_lesion_targets(prediction, slide, opened[slide.slide_id], device)
        return prediction

    @contextmanager
    def _open(self, slide: CohortSlide) -> Iterator[SlideInput]:
        """Open a slide; any error while opening is raised as a SlideError or StoreError."""
        with ExitStack() as stack:
            with catch_failure(slide.slide_id) as attempt:
                opened = stack.enter_context(self.inputs.open(slide))
            if isinstance(attempt.error, SlideError | StoreError):
                raise attempt.error
            if attempt.error is not None:
                raise SlideError(str(attempt.reason)) from attempt.error
            yield opened

    def _augment(self, model_input: ModelInput) -> ModelInput:
        """Flip and rotate a training slide at random, to one of 8 orientations.

        If `exhaustive`, return a bag of which every patch is visited; if `random_budgets`, in
        training, one that ends the visits at a random place.
        """
        if self.exhaustive and isinstance(model_input, Bag):
            return ExhaustiveBag(model_input)
        if self.random_budgets and self.model.training and isinstance(model_input, Bag):
            limit = RandomLimit(len(self.inputs.encoders) - 1, self.generator)
            return LimitedBag(model_input, limit, Visited())
        if not (self.augment and self.model.training):
            return model_input
        assert isinstance(model_input, PixelSource)
        orientation = int(torch.randint(8, (), generator=self.generator))
        return AugmentedSource(model_input, mirror=orientation >= 4, quarter_turns=orientation % 4)

    def _with_lesion_targets(
        self,
        prediction: Prediction,
        slide: CohortSlide,
        slide_input: SlideInput,
        device: torch.device,
    ) -> Prediction:
        """Add `terms["touching"]`: whether each existing patch touches an outlined lesion."""
        (look,) = slide_input.locate(prediction.looks)
        outlines = None if self.lesions is None else self.lesions.of_input(slide, slide_input)
        touching = np.zeros(len(look.rows), dtype=bool)
        if outlines is not None:
            touching = touching_mask(look, outlines)
        mask = torch.from_numpy(touching).to(device)
        return replace(prediction, terms={**prediction.terms, "touching": mask})

    def _record_failed(
        self, slides: Sequence[CohortSlide], error: Exception, device: torch.device
    ) -> None:
        """Find the slides of a batch that cannot be read, by running the model on each alone.

        If a slide of a patient cannot be read, the patient goes on with the others.
        """
        if isinstance(error, PatientSlideError):
            self._record_failure(error.slide_id, error)
            return
        if len(slides) == 1:
            self._record_failure(slides[0].slide_id, error)
            return
        with torch.no_grad(), self.alone():
            for slide in slides:
                self.run([slide], device)
        if not any(slide.slide_id in self.failed for slide in slides):
            raise error

    def _record_failure(self, slide_id: str, error: Exception) -> None:
        """Leave out a slide from now on.

        Raises:
            RunError: `skip_unreadable` is False.
        """
        if not self.skip_unreadable:
            raise RunError(
                f"slide {slide_id} cannot be read: {describe_failure(error)} Repair it and "
                f"continue with --resume, or without the slide with {self.without_slide}."
            ) from error
        self.failed[slide_id] = describe_failure(error)
        logger.warning("slide %s is left out from now on: %s", slide_id, self.failed[slide_id])


def _covariates(opened: Sequence[SlideInput], device: torch.device) -> Float[Tensor, "b v"] | None:
    """Return the covariates of a batch, one row per slide; None for a model without them."""
    rows = [each.covariates for each in opened if each.covariates is not None]
    return torch.stack(rows).to(device) if rows else None
