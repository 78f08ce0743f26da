"""The sections of a run's settings."""

from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from parfocal.encoders.spec import Output
from parfocal.features.header import SlideSettings
from parfocal.models import MODELS
from parfocal.models.contract import ModelTraits
from parfocal.models.late_fusion import Fusion
from parfocal.models.unit import Per
from parfocal.operating_point import ThresholdRule
from parfocal.tasks import Task, build_task

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

TaskName = Literal["classification", "ordinal", "multilabel", "regression", "survival", "hazards"]
LoggerName = Literal["csv", "tensorboard", "mlflow", "wandb"]
Coefficient = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class EncoderSettings:
    """The encoder that turns patches into features.

    Args:
        name: name of the encoder: one listed by `parfocal encoders`, "timm:NAME", or the address of
            a service, such as "http://HOST:PORT/"; or names by magnification, such as
            {1.25: efficientnet-lite0, 10: NAME}.
        weights: file with the encoder's weights, or folder with the files of its repository; or
            paths by magnification; null for the published weights.
        runtime: library that runs the encoder; "auto" takes ONNX Runtime on a CPU if it is
            installed and supports the encoder, PyTorch otherwise.
        output: output of the network to use as features: "cls", its class token; "mean", the mean
            of its patch tokens; "cls+mean", both; "pooled", its pooled output; or outputs by
            magnification; null for the encoder's default.
        any_mpp: whether to use an encoder outside its range of resolutions; if false, that is an
            error.
        trust_remote_code: whether to run code from the repository of an encoder; if false, an
            encoder that needs this is an error.
    """

    name: str | dict[float, str] = "efficientnet-lite0"
    weights: Path | dict[float, Path] | None = None
    runtime: Literal["auto", "torch", "onnx"] = "auto"
    output: Output | dict[float, Output] | None = None
    any_mpp: bool = False
    trust_remote_code: bool = False

    def name_at(self, magnification: float) -> str:
        """Return the name of the encoder of one magnification, which must have one."""
        return self.name[magnification] if isinstance(self.name, dict) else self.name

    def weights_at(self, magnification: float) -> Path | None:
        """Return the weights file of one magnification; None for the published weights."""
        return self.weights.get(magnification) if isinstance(self.weights, dict) else self.weights

    def output_at(self, magnification: float) -> Output | None:
        """Return the output to use at one magnification; None for the encoder's default."""
        return self.output.get(magnification) if isinstance(self.output, dict) else self.output


@dataclass(frozen=True, config=STRICT)
class ModelSettings:
    """A model and the arguments of its class.

    Args:
        name: name of the model, a key of `MODELS`.
        arguments: arguments of the model's class by name, except those that the run supplies, such
            as `in_dim` and `num_classes`.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def traits(self) -> ModelTraits:
        """What the model takes and does."""
        return MODELS[self.name].traits

    @property
    def skip_unavailable_magnifications(self) -> bool:
        """Whether magnifications that a slide does not have are left out for that slide."""
        return bool(self.arguments.get("skip_unavailable_magnifications", False))


@dataclass(frozen=True, config=STRICT)
class TrainSettings:
    """How a model is trained.

    Args:
        epochs: maximum number of epochs. One epoch draws as many slides as there are training
            slides, with replacement and each class equally often.
        patience: number of epochs without a new best epoch after which training stops. The best
            epoch has the highest weighted F1 on the validation slides, and the lowest validation
            loss in a tie.
        learning_rate: highest learning rate of the schedule.
        weight_decay: weight decay of the optimizer.
        optimizer: optimizer, from `torch.optim`.
        betas: decay rates of the optimizer's running means of the gradient and of its square.
        lookahead: whether to wrap the optimizer in Lookahead: every 6 steps, the slow weights move
            halfway to the weights, which are then reset to the slow weights.
        schedule: learning-rate schedule: "plateau" multiplies the rate by `lr_factor` when
            `monitor` stops improving, "cosine" lowers it to `lr_floor` over all epochs, "constant"
            keeps it.
        monitor: metric on the validation slides that the schedule "plateau" monitors.
        lr_factor: factor by which the schedule "plateau" multiplies the rate.
        lr_patience: number of epochs without improvement that the schedule "plateau" tolerates
            before it lowers the rate.
        lr_floor: final rate of the schedule "cosine", as a fraction of `learning_rate`.
        warmup: fraction of the epochs in which the rate rises linearly before the schedule
            "cosine"; 0 for no warm-up.
        batch_size: number of slides per batch, for a model that takes pixels. A model that takes
            features trains on one slide at a time.
        max_memory_gb: memory that training may use, in GB (1e9 bytes), for a model that takes
            pixels; null for 12 GB on a CPU, or for the free memory of a GPU. Never more than the
            free memory is used. A batch that needs more is run in parts, with the same result up
            to rounding.
        accumulate_grad_batches: number of batches whose gradients are summed before each optimizer
            step.
        devices: number of devices that train the model together: GPUs, or processes on a CPU. They
            share each batch of a model that takes pixels, or the `accumulate_grad_batches` slides
            of a step of a model that takes features; the gradients are those of one device, up to
            rounding.
        gradient_clip_norm: maximum norm of the gradient; a longer gradient is scaled down to it.
            null for no clipping.
        augment: whether to flip and rotate training slides at random (8 orientations), for a model
            that takes pixels.
        random_budgets: whether to end the visits of a model that zooms into patches at a random
            place in half of the training steps, so that it also learns to predict from a part of
            the patches, as with `--budget`.
        bf16: whether to train in bfloat16 mixed precision on a GPU that supports it.
        refit: whether to train a second model on the training and validation slides together, for
            the best number of epochs, and keep that one.
        seed: seed of the split, the initial weights and every random draw.
        init_from: folder of a finished run of the same model, whose weights training starts from;
            null for new weights.
        teacher: folder of a finished run whose model teaches this one, for a model that learns from
            another (coarse-student; topk with ranking: teacher); with folds, that of the same fold
            is used. In a comparison, the name of another model that is compared; null for abmil.
        exclude_strata: strata (values of the cohort's column `stratum`) whose slides are left out
            of training and validation; the test set keeps its slides of these strata.
        val_fraction: fraction of the patients of each class in the validation set.
        test_fraction: fraction of the patients of each class in the test set; 0 for no test set.
        folds: number of cross-validation folds, each with its own model and test set; null for one
            model.
        labels: class labels in the order of the logits, spelled as in the cohort, such as [0, 3+3];
            null for the labels of the cohort, sorted.
        logger: where the metrics of each epoch are written: "csv", only to metrics.csv, or also to
            "tensorboard", "mlflow" or "wandb", which need `pip install 'parfocal[NAME]'`.
        threshold: how to choose a threshold on the probability of a class, on the validation
            slides of the best epoch: "youden" for the highest sensitivity + specificity,
            "sensitivity=0.95" or "specificity=0.95" to reach one, or a number from 0 to 1; null
            for the most probable class. Of two classes, the threshold is on the second one; of
            more, each class has one.
        temperature: whether to fit a temperature on the validation slides of the best epoch, by
            which the logits are divided.
        task: what is predicted of a slide: "classification", one of several classes; "ordinal",
            one of several ordered classes; "multilabel", any of several labels; "regression",
            numbers; "survival", the risk of an event, by Cox's proportional hazards; "hazards", the
            probability of surviving intervals of time.
        target: columns of the cohort with the targets; empty for the column `label`. A column may
            have a task of its own, as in `grade:ordinal`; several tasks are trained at once, and
            cells of some of them may be empty.
        time: column with the time to the event or to the end of observation, for the tasks
            "survival" and "hazards".
        event: column with 1 if the event was observed, or 0 if the time is censored, for the tasks
            "survival" and "hazards".
        time_bins: number of intervals of the task "hazards", with equal numbers of events.
        risk_set: number of slides whose risks are compared in a step of the task "survival". They
            are run one after the other, so a larger number needs no more memory.
        per: what the model makes one prediction for: "slide", or "patient" for all slides of a
            patient together.
        fusion: how the slides of a patient are combined, if not in one bag:
            "mean" for the mean of the probabilities, "max" for the most suspicious slide, or
            "attention" for attention over vectors of the slides; null for one bag of all slides.
        covariates: columns of the cohort with clinical covariates, which enter at the last layer
            of the model; numbers are standardized, categories one-hot. `stage:category` makes
            numbers categories.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int, Field(ge=1)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    optimizer: Literal["adam", "adamw", "radam"] = "adam"
    betas: tuple[Coefficient, Coefficient] = (0.9, 0.999)
    lookahead: bool = False
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    monitor: Literal["loss", "accuracy", "weighted_f1"] = "loss"
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.8
    lr_patience: Annotated[int, Field(ge=0)] = 5
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_size: Annotated[int, Field(ge=1)] = 1
    max_memory_gb: Annotated[float, Field(gt=0)] | None = None
    accumulate_grad_batches: Annotated[int, Field(ge=1)] = 1
    devices: Annotated[int, Field(ge=1)] = 1
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = None
    augment: bool = False
    random_budgets: bool = False
    bf16: bool = False
    refit: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    init_from: Path | None = None
    teacher: Path | None = None
    exclude_strata: tuple[str, ...] = ()
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.15
    folds: Annotated[int, Field(ge=2)] | None = None
    labels: tuple[str, ...] | None = None
    logger: LoggerName = "csv"
    threshold: str | float | None = None
    temperature: bool = False
    task: TaskName = "classification"
    target: tuple[str, ...] = ()
    time: str | None = None
    event: str | None = None
    time_bins: Annotated[int, Field(ge=2)] = 4
    risk_set: Annotated[int, Field(ge=2)] = 16
    per: Per = "slide"
    fusion: Fusion | None = None
    covariates: tuple[str, ...] = ()

    def build_task(self) -> Task:
        """Return the task, before a cohort is read."""
        return build_task(
            self.task,
            target=self.target,
            time=self.time,
            event=self.event,
            time_bins=self.time_bins,
            labels=self.labels,
        )

    def __post_init__(self) -> None:
        """Refuse a warm-up that would have no effect, and a threshold that is no rule."""
        if self.threshold is not None:
            ThresholdRule.parse(str(self.threshold))
        if self.warmup and self.schedule != "cosine":
            raise ValueError(
                f"warmup={self.warmup} has no effect with schedule {self.schedule!r}; set "
                "schedule=cosine, or remove warmup."
            )


@dataclass(frozen=True, config=STRICT)
class RunSettings:
    """The settings of a run, one section per stage.

    Args:
        slide: the patches of a slide.
        model: the model and its arguments.
        encoder: the encoder; None for a model that takes pixels.
        train: how the model is trained.
    """

    slide: SlideSettings
    model: ModelSettings
    encoder: EncoderSettings | None = field(default_factory=EncoderSettings)
    train: TrainSettings = field(default_factory=TrainSettings)

    def model_arguments(
        self, *, in_dim: int | Sequence[int], num_classes: int, num_slides: int
    ) -> dict[str, Any]:
        """Return all arguments of the model's class except the random generator.

        Args:
            in_dim: number of features per patch, one for all magnifications or one for each; 0 for
                a model that takes pixels.
            num_classes: number of classes.
            num_slides: number of training and validation slides.
        """
        supplied = MODELS[self.model.name].run_arguments(
            in_dim=in_dim,
            num_classes=num_classes,
            num_slides=num_slides,
            magnifications=self.slide.magnifications,
            patch_size=self.slide.patch_size,
        )
        return {**supplied, **self.model.arguments}

    def to_yaml(self) -> str:
        """Return all settings, defaults included, as YAML that `load_settings` reads."""
        return yaml.safe_dump(self.to_plain(), sort_keys=False)

    def to_plain(self) -> dict[str, Any]:
        """Return all settings by section and key, as YAML represents them."""
        sections = asdict(self)
        sections["model"] = {"name": self.model.name, **self.model.arguments}
        if self.encoder is None:
            del sections["encoder"]
        plain: dict[str, Any] = _plain(sections)
        return plain


SECTIONS: dict[str, Any] = {
    "slide": SlideSettings,
    "encoder": EncoderSettings,
    "model": ModelSettings,
    "train": TrainSettings,
}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return str(value) if isinstance(value, Path) else value
