"""What the rest of parfocal has to know about a model: its class, its traits, its extra methods.

Training, prediction and settings read `ModelTraits` and nothing else about a model. A trait that
names a method (such as `own_objective`) promises that the class has it; the protocols below define
these methods.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard, get_type_hints, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import ModelInput, PixelSource, SeparateSlides
from parfocal.models.covariates import add_to_logits, covariate_logits
from parfocal.models.late_fusion import run_separately
from parfocal.models.layers.passes import Passes, StepMemory
from parfocal.prediction import Prediction

# Logits and target, both of one slide or of a batch -> a scalar.
Loss = Callable[[Tensor, Tensor], Tensor]

# Keyword-only arguments of a model that are not settings, because the run supplies them.
RUN_ARGUMENTS = ("num_magnifications", "num_slides", "magnifications", "patch_size", "generator")


@dataclass(frozen=True)
class ModelTraits:
    """What a model takes and does.

    Args:
        takes: "features" if the model is called with the `Bag` of one slide, whose patch features
            come from an encoder; "pixels" if it is called with a list of `PixelSource`, one per
            slide, and encodes by itself; "nothing" if it opens no slide.
        multiple_magnifications: whether the model uses several magnifications; if False, a run
            configures exactly one.
        zooms: whether the model reads higher magnifications only inside the patches that it
            selects.
        fixed_magnifications: whether every patch is read at one of the configured magnifications;
            if False, the model chooses the size of what it reads, and its looks are numbered
            instead.
        skips_magnifications: whether the model has the setting `skip_unavailable_magnifications`.
        needs_outlines: whether training needs outlines of lesions; see `PatchSupervision`.
        has_leaves: whether the last look consists of squares inside squares, as of `SquareReader`.
        adversarial: whether the model has to know which training slide comes next; see
            `Adversarial`.
        own_objective: whether the model has a training objective of its own; see `OwnObjective`. If
            False, it is trained with the loss of the task alone.
        follows_progress: whether the model changes as training advances; see `ProgressAware`.
        uses_teacher: whether the model can learn from a trained model; see `UsesTeacher`.
        pretrained: whether the model has backbones with published weights; see `Pretrained`.
        random: whether the model draws random numbers from an argument `generator`.
        runs_in_passes: whether the model can run its networks on a few slides of a batch at a time,
            to save memory; see `RunsInPasses`.
        class_settings: settings that are defined for classes only, as an instance loss is, each
            with the value that leaves it out.
        slide_loss_settings: settings that need the loss of each slide alone, which a loss that
            compares slides does not have, each with the value that leaves it out.
    """

    takes: Literal["features", "pixels", "nothing"] = "features"
    multiple_magnifications: bool = False
    zooms: bool = False
    fixed_magnifications: bool = True
    skips_magnifications: bool = False
    needs_outlines: bool = False
    has_leaves: bool = False
    adversarial: bool = False
    own_objective: bool = False
    follows_progress: bool = False
    uses_teacher: bool = False
    pretrained: bool = False
    random: bool = False
    runs_in_passes: bool = False
    class_settings: tuple[tuple[str, object], ...] = ()
    slide_loss_settings: tuple[tuple[str, object], ...] = ()

    @property
    def takes_pixels(self) -> bool:
        """Whether the model is called with pixels and encodes by itself."""
        return self.takes == "pixels"

    @property
    def takes_features(self) -> bool:
        """Whether the model is called with the features of patches."""
        return self.takes == "features"


@dataclass(frozen=True)
class Model:
    """A model as it is listed in `MODELS`.

    Args:
        module_class: class of the model.
        traits: what it takes and does.
    """

    module_class: type[nn.Module]
    traits: ModelTraits = ModelTraits()

    @property
    def settings(self) -> tuple["Setting", ...]:
        """The settings of the model: its keyword-only arguments, except `RUN_ARGUMENTS`."""
        arguments = keyword_arguments(self.module_class)
        return tuple(each for each in arguments if each.name not in RUN_ARGUMENTS)

    def run_arguments(
        self,
        *,
        in_dim: int | Sequence[int],
        num_classes: int,
        num_slides: int,
        magnifications: Sequence[float],
        patch_size: int,
    ) -> dict[str, Any]:
        """Return the arguments that a run supplies to the model, according to its traits.

        The generator is not among them, because a checkpoint does not store it.

        Args:
            in_dim: number of features per patch, one for all magnifications or one for each;
                ignored for a model that takes pixels.
            num_classes: number of classes.
            num_slides: number of training slides, for an adversarial model.
            magnifications: configured magnifications, lowest first.
            patch_size: side of a patch in pixels.
        """
        traits = self.traits
        arguments: dict[str, Any] = {"num_classes": num_classes}
        if traits.takes_pixels:
            if traits.fixed_magnifications:
                arguments |= {"magnifications": tuple(magnifications), "patch_size": patch_size}
        elif traits.takes_features:
            arguments["in_dim"] = in_dim if isinstance(in_dim, int) else list(in_dim)
            if not isinstance(in_dim, int) and not traits.multiple_magnifications:
                (arguments["in_dim"],) = in_dim
            if traits.multiple_magnifications:
                arguments["num_magnifications"] = len(magnifications)
        if traits.adversarial:
            arguments["num_slides"] = num_slides
        return arguments

    def build(self, **arguments: Any) -> nn.Module:
        """Build the model with random weights.

        Raises:
            TypeError: an argument is unknown or missing.
            ValueError: the value of an argument is invalid.
        """
        return self.module_class(**arguments)


@dataclass(frozen=True)
class Setting:
    """A keyword-only argument of a class.

    Args:
        name: name of the argument.
        type: its annotation, resolved.
        default: its default value.
    """

    name: str
    type: Any
    default: Any


def keyword_arguments(described: type) -> tuple[Setting, ...]:
    """Return the keyword-only arguments of a class, in the order of its `__init__`."""
    constructor = inspect.unwrap(described.__init__)  # type: ignore[misc]
    types = get_type_hints(constructor)
    defaults = constructor.__kwdefaults__ or {}
    return tuple(Setting(name, types[name], default) for name, default in defaults.items())


def run_model(
    model: Callable[..., Prediction],
    inputs: Sequence[ModelInput],
    *,
    covariates: Float[Tensor, "b v"] | None = None,
) -> Prediction:
    """Run a model: on all pixel sources together, on one bag, or on the slides of one patient.

    Args:
        model: a model of `MODELS`, or any callable like it.
        inputs: pixel sources, one per slide; or a single bag or `SeparateSlides`.
        covariates: clinical covariates, one row per input; None for a model without them.

    Raises:
        CovariateError: the model has covariates, and none are given.
    """
    added = covariate_logits(model, covariates)  # b c
    if all(isinstance(source, PixelSource) for source in inputs):
        return add_to_logits(model(inputs), added)
    if all(isinstance(each, SeparateSlides) for each in inputs):
        rows = [None] * len(inputs) if added is None else added
        patients = [
            run_separately(model, each, added=row)
            for each, row in zip(inputs, rows, strict=True)
            if _is_separate(each)
        ]
        return patients[0] if len(patients) == 1 else Prediction.stack(patients)
    (bag,) = inputs
    return add_to_logits(model(bag), added)


def _is_separate(given: ModelInput) -> TypeGuard[SeparateSlides]:
    return isinstance(given, SeparateSlides)


class OutputNotFiniteError(ValueError):
    """A prediction that is not a number, as from damaged weights or features."""


def require_finite(prediction: Prediction, name: str) -> None:
    """Check the logits and scores of a prediction.

    Args:
        prediction: prediction of one slide.
        name: name of the slide, for the message.

    Raises:
        OutputNotFiniteError: one of them is not a finite number.
    """
    if not all(each.isfinite().all() for each in (prediction.logits, *prediction.scores)):
        raise OutputNotFiniteError(
            f"{name}: the model's output is not a finite number, so the slide has no prediction. "
            "Check the slide and the weights of the encoder; if all slides fail, train again with "
            "a lower train.learning_rate."
        )


def training_loss(
    model: nn.Module, traits: ModelTraits, prediction: Prediction, target: Tensor, loss: Loss
) -> Float[Tensor, ""]:
    """Return the scalar that training minimizes.

    It is the model's own objective if it has one, and the loss of the task otherwise.

    Args:
        model: the model that made the prediction.
        traits: its traits.
        prediction: output of the model, for one slide or a batch.
        target: target of the slide, a class for classification; or one per slide of a batch.
        loss: loss of the task on logits and target.
    """
    if not traits.own_objective:
        return loss(prediction.logits, target)
    assert isinstance(model, OwnObjective)
    return model.objective(prediction, target, loss)


@runtime_checkable
class OwnObjective(Protocol):
    """A model with a training objective of its own (trait `own_objective`)."""

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Tensor:
        """Return the scalar to minimize.

        Args:
            prediction: output of the model in training mode; `terms` holds what `forward` computed
                for this method.
            target: target of the slide, a class for classification; or one per slide of a batch.
            loss: loss of the task on logits and target.
        """


@runtime_checkable
class ProgressAware(Protocol):
    """A model that changes as training advances (trait `follows_progress`)."""

    def set_progress(self, fraction: float) -> None:
        """Set the completed fraction of the training, from 0 to 1; called before each epoch."""


@runtime_checkable
class Pretrained(Protocol):
    """A model with backbones that have published weights (trait `pretrained`)."""

    def load_pretrained(self) -> None:
        """Load the published weights; called once, before training."""


@runtime_checkable
class UsesTeacher(Protocol):
    """A model that can learn from a trained model of one magnification (trait `uses_teacher`)."""

    @property
    def needs_teacher(self) -> bool:
        """Whether the model, with its settings, is trained with a teacher."""

    @property
    def teacher_magnification(self) -> int:
        """Position of the teacher's magnification among those of the model; -1 is the highest."""

    def set_teacher(self, teacher: nn.Module) -> None:
        """Set the trained model; called once, before training.

        Raises:
            ValueError: the model does not fit.
        """


@runtime_checkable
class Adversarial(Protocol):
    """A model trained to hide which slide a patch comes from (trait `adversarial`)."""

    def set_slide(self, slide: int) -> None:
        """Set the position of the next training slide, from 0; called before each step."""


@runtime_checkable
class PatchSupervision(Protocol):
    """A model trained on labels of patches, derived from outlines (trait `needs_outlines`).

    In training, `prediction.terms["touching"]` holds whether each valid patch touches a lesion.
    """

    @property
    def negative_class(self) -> int:
        """Position of the label of slides without a lesion."""


@runtime_checkable
class PixelEncoder(Protocol):
    """A model that encodes patches by itself (trait `takes="pixels"`)."""

    @property
    def encoder(self) -> nn.Module:
        """The network that encodes a patch, for counting its operations."""


@runtime_checkable
class SquareReader(Protocol):
    """A model that reads squares inside squares (trait `has_leaves`)."""

    @property
    def gray_spread(self) -> int:
        """Range of a pixel's red, green and blue below which it is gray; 0 to keep all pixels."""


@runtime_checkable
class RunsInPasses(Protocol):
    """A model that can run its networks on a batch in passes (trait `runs_in_passes`).

    The passes change the output, the gradients, the running statistics and the state of the random
    generators by no more than rounding.
    """

    gradient_checkpointing: bool

    def set_passes(self, passes: Passes) -> None:
        """Set how the networks are run on a batch of slides in training."""

    def step_memory(self) -> StepMemory:
        """Measure the memory that the activations of a training step need."""
