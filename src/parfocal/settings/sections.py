"""The sections of a run's settings."""

import inspect
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from parfocal.features.header import SlideSettings
from parfocal.models import MODELS

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class EncoderSettings:
    """What encodes patches.

    Args:
        name: of the encoder.
        weights: file of its weights; None for its own.
        runtime: what runs it.
    """

    name: str = "efficientnet-lite0"
    weights: Path | None = None
    runtime: Literal["auto", "torch", "onnx"] = "auto"


@dataclass(frozen=True, config=STRICT)
class ModelSettings:
    """Which model, and the arguments of its class.

    Args:
        name: its key in `MODELS`.
        arguments: by name; what the run decides (`in_dim`, `num_classes`) is not among them.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def zooms(self) -> bool:
        """Whether the model looks at several magnifications."""
        return self.takes("num_magnifications") or self.takes("magnifications")

    @property
    def takes_pixels(self) -> bool:
        """Whether the model encodes by itself, and so is given pixels."""
        return not self.takes("in_dim")

    @property
    def skip_unavailable_magnifications(self) -> bool:
        """Whether magnifications that do not fit a slide are left out."""
        return bool(self.arguments.get("skip_unavailable_magnifications", False))

    def takes(self, argument: str) -> bool:
        """Tell whether the model has such an argument."""
        return argument in inspect.signature(MODELS[self.name]).parameters


@dataclass(frozen=True, config=STRICT)
class TrainSettings:
    """How a model is trained.

    Args:
        epochs: at most; each draws as many slides as there are to learn from.
        patience: stop after so many epochs without a better one.
        learning_rate: at its highest.
        weight_decay: of the optimizer.
        optimizer: of the weights.
        betas: of the optimizer.
        lookahead: slow weights follow the optimizer's.
        schedule: of the rate: "plateau" lowers it when `monitor` stops improving, "cosine" to `lr_floor` over
            all epochs, "constant" not at all.
        monitor: the validation loss, or the accuracy or weighted F1 there.
        lr_factor: what a plateau multiplies the rate by.
        lr_patience: epochs that make a plateau.
        lr_floor: the share of the rate at which the cosine ends.
        warmup: share of the epochs in which the rate rises, before the cosine.
        batch_size: slides asked together, by a model of pixels.
        accumulate_grad_batches: batches whose gradients are added up before a step.
        gradient_clip_norm: length to which longer gradients are shortened; None for none.
        augment: mirror and turn the slides a model of pixels learns from.
        bf16: compute in bfloat16 on a device that has it.
        refit: train again, on train and validation slides, for as many epochs as were best.
        seed: of the split, the weights and every draw.
        init_from: folder of a run of the same model whose weights this one starts from; None for new
            ones.
        exclude_strata: whose slides are neither learned from nor chosen by, nor tested on where
            their patient is not; a test has those of its own.
        val_fraction: share of each class's patients to choose the epoch by.
        test_fraction: share to test on; 0 for none.
        folds: train so many models, each tested on another part; None for one model.
        labels: the classes in order; None for sorted.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int, Field(ge=1)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    optimizer: Literal["adam", "adamw", "radam"] = "adam"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    lookahead: bool = False
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    monitor: Literal["loss", "accuracy", "weighted_f1"] = "loss"
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.8
    lr_patience: Annotated[int, Field(ge=0)] = 5
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_size: Annotated[int, Field(ge=1)] = 1
    accumulate_grad_batches: Annotated[int, Field(ge=1)] = 1
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = None
    augment: bool = False
    bf16: bool = False
    refit: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    init_from: Path | None = None
    exclude_strata: tuple[str, ...] = ()
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.15
    folds: Annotated[int, Field(ge=2)] | None = None
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a warm-up that would do nothing."""
        if self.warmup and self.schedule != "cosine":
            raise ValueError(
                f"warmup={self.warmup} is of the cosine, and the schedule is {self.schedule!r}; "
                "leave it out, or give schedule=cosine."
            )


@dataclass(frozen=True, config=STRICT)
class RunSettings:
    """The settings of a run, a section for each stage."""

    slide: SlideSettings
    model: ModelSettings
    encoder: EncoderSettings | None = field(default_factory=EncoderSettings)
    train: TrainSettings = field(default_factory=TrainSettings)

    def model_arguments(self, *, in_dim: int, num_classes: int, num_slides: int) -> dict[str, Any]:
        """Give all arguments the model is built with, but for a generator."""
        known = {
            "in_dim": in_dim,
            "num_classes": num_classes,
            "num_slides": num_slides,
            "num_magnifications": len(self.slide.magnifications),
            "magnifications": self.slide.magnifications,
            "patch_size": self.slide.patch_size,
        }
        taken = {name: value for name, value in known.items() if self.model.takes(name)}
        return {**taken, **self.model.arguments}

    def to_yaml(self) -> str:
        """Write every setting, defaults included, as `load_settings` reads it."""
        sections = asdict(self)
        sections["model"] = {"name": self.model.name, **self.model.arguments}
        if self.encoder is None:
            del sections["encoder"]
        return yaml.safe_dump(_plain(sections), sort_keys=False)


SECTIONS: dict[str, Any] = {
    "slide": SlideSettings,
    "encoder": EncoderSettings,
    "model": ModelSettings,
    "train": TrainSettings,
}


def _plain(value: Any) -> Any:
    """Give settings as YAML has them."""
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return str(value) if isinstance(value, Path) else value
