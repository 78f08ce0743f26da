"""The settings of a run: a recipe, a file over it, and single values over both.

Each model's own settings are the arguments of its class, so they are declared once, there.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.dataclasses import dataclass

from parfocal.cells import octaves
from parfocal.features.header import SlideSettings
from parfocal.models import MODELS

RECIPES = Path(__file__).parent / "recipes"
GIVEN_BY_THE_RUN = (
    *("in_dim", "num_classes", "num_magnifications", "num_slides", "generator"),
    *("magnifications", "patch_size"),
)
STRICT = ConfigDict(extra="forbid")


class SettingsError(ValueError):
    """Settings that make no run; the message says which, what and what to do."""


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
    def fitting(self) -> bool:
        """Whether magnifications that do not fit a slide are left out."""
        return bool(self.arguments.get("fitting", False))

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
        weight_decay: of the optimiser.
        optimizer: of the weights.
        betas: of the optimiser.
        lookahead: slow weights follow the optimiser's.
        schedule: of the rate: "plateau" lowers it when `watch` rests, "cosine" to `lr_floor` over
            all epochs, "constant" not at all.
        watch: the validation loss, or the weighted F1.
        lr_factor: what a plateau multiplies the rate by.
        lr_patience: epochs that make a plateau.
        lr_floor: the share of the rate at which the cosine ends.
        warmup: share of the epochs in which the rate rises, before the cosine.
        batch: slides asked together, by a model of pixels.
        accumulate: batches whose gradients are added up before a step.
        clip_norm: length to which longer gradients are shortened; None for none.
        augment: mirror and turn the slides a model of pixels learns from.
        half: compute in bfloat16 on a device that has it.
        refit: train again, on train and validation slides, for as many epochs as were best.
        seed: of the split, the weights and every draw.
        left_out_strata: whose slides are neither learned from nor chosen by, nor tested on where
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
    watch: Literal["loss", "weighted_f1"] = "loss"
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.8
    lr_patience: Annotated[int, Field(ge=0)] = 5
    lr_floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch: Annotated[int, Field(ge=1)] = 1
    accumulate: Annotated[int, Field(ge=1)] = 1
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    augment: bool = False
    half: bool = False
    refit: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    left_out_strata: tuple[str, ...] = ()
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


def load_settings(
    recipe: str | Path,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
) -> RunSettings:
    """Put the settings of a run together; what comes later wins.

    Args:
        recipe: name of one of ours, or a YAML file.
        config: a YAML file over it, with some of its sections and keys.
        overrides: single values over both, as `train.epochs=3`.
        flags: single values over all, as `{"train.epochs": 3}`; None is no value.

    Raises:
        SettingsError: a file, key or value is wrong.
    """
    layers = [_read(_recipe_path(recipe))]
    if config is not None:
        layers.append(_read(config))
    layers += [_override(text) for text in overrides]
    layers += [_nested(key, value) for key, value in (flags or {}).items() if value is not None]
    return _validated(reduce(_merge, layers))


def recipe_names() -> list[str]:
    """Give the names of the recipes that come with parfocal."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipe_path(recipe: str | Path) -> Path:
    if Path(recipe).suffix in (".yaml", ".yml"):
        return Path(recipe)
    if str(recipe) not in recipe_names():
        raise SettingsError(_unknown("recipe", str(recipe), [*recipe_names(), "FILE.yaml"]))
    return RECIPES / f"{recipe}.yaml"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise SettingsError(
            f"{path.name}: settings stand in sections ({', '.join(SECTIONS)}), each with keys "
            "and values below it."
        )
    return content


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or key.count(".") != 1:
        raise SettingsError(f"{text!r} is not section.key=value, as train.epochs=3.")
    try:
        return _nested(key, yaml.safe_load(value))
    except yaml.YAMLError:
        raise SettingsError(f"{text!r}: the value is not YAML; put it in quotes.") from None


def _nested(key: str, value: object) -> dict[str, Any]:
    section, _, name = key.partition(".")
    return {section: {name: value}}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay sections over sections; another model takes none of the settings of the first."""
    merged = {section: dict(values) for section, values in below.items()}
    for section, values in above.items():
        old = merged.get(section, {})
        if section == "model" and values.get("name", old.get("name")) != old.get("name"):
            old = {}
        merged[section] = {**old, **values}
    return merged


def _validated(content: dict[str, Any]) -> RunSettings:
    _check_keys("section", content, list(SECTIONS))
    for section in ("slide", "model"):
        if section not in content:
            raise SettingsError(f"no section {section}; a run needs it.")
    for section, values in content.items():
        if section != "model":
            _check_keys(
                f"{section} setting", values, [member.name for member in fields(SECTIONS[section])]
            )
    magnifications = content["slide"].get("magnifications")
    if isinstance(magnifications, str):  # 1.25,2.5 or 2.5-20 on a command line is no YAML list
        content = _with_magnifications(content, magnifications)
    model = _model(content["model"])
    if model.takes_pixels and "encoder" in content:
        raise SettingsError(
            f"encoder: model {model.name} encodes by itself, so it takes none; leave it out (its "
            "own network is model.backbone)."
        )
    alone = {"encoder": None} if model.takes_pixels else {}
    try:
        settings = TypeAdapter(RunSettings).validate_python({**content, **alone, "model": model})
    except ValidationError as error:
        raise SettingsError(_first_error(error, "")) from None
    _check_slide(settings)
    _check_train(settings)
    _check_model(settings)
    return settings


def _with_magnifications(content: dict[str, Any], text: str) -> dict[str, Any]:
    """Read magnifications from a command line; of a range, a slide has those that fit it."""
    lowest, dash, highest = text.replace("x", "").partition("-")
    if not dash:
        return {**content, "slide": {**content["slide"], "magnifications": text.split(",")}}
    try:
        ladder = octaves(float(lowest), float(highest))
    except ValueError as error:
        raise SettingsError(f"slide.magnifications: {text!r} is refused: {error}.") from None
    slide = {**content["slide"], "magnifications": ladder}
    return {**content, "slide": slide, "model": {**content["model"], "fitting": True}}


def _model(values: dict[str, Any]) -> ModelSettings:
    """Check a model's settings against the signature of its class, and fill in its defaults."""
    name = values.get("name")
    if name not in MODELS:
        raise SettingsError(_unknown("model", str(name), list(MODELS)))
    parameters = [
        parameter
        for parameter in inspect.signature(MODELS[name]).parameters.values()
        if parameter.name not in GIVEN_BY_THE_RUN
    ]
    given = {key: value for key, value in values.items() if key != "name"}
    _check_keys(f"{name} setting", given, [parameter.name for parameter in parameters])
    members: dict[str, Any] = {
        parameter.name: (parameter.annotation, parameter.default) for parameter in parameters
    }
    try:
        return ModelSettings(name, create_model(name, **members)(**given).model_dump())
    except ValidationError as error:
        raise SettingsError(_first_error(error, "model.")) from None


def _check_slide(settings: RunSettings) -> None:
    magnifications = settings.slide.magnifications
    names = ", ".join(f"{magnification:g}" for magnification in magnifications)
    ratios = [high / low for low, high in pairwise(magnifications)]
    nested = all(round(r) >= 2 and abs(r - round(r)) <= 1e-6 * r for r in ratios)
    if not (nested or settings.model.takes_pixels):
        raise SettingsError(
            f"slide.magnifications: [{names}] are not whole multiples, each of the one before, so "
            "patches would not nest; as 1.25,2.5,10."
        )
    if len(magnifications) > 1 and not settings.model.zooms:
        raise SettingsError(
            f"slide.magnifications: [{names}], and model {settings.model.name} looks at one only; "
            "give one."
        )


def _check_train(settings: RunSettings) -> None:
    train, model = settings.train, settings.model
    for name, asked in (("batch", train.batch > 1), ("augment", train.augment)):
        if asked and not model.takes_pixels:
            raise SettingsError(
                f"train.{name}: model {model.name} is given features of one slide at a time; leave "
                "it out (train.accumulate adds up several slides)."
            )


def _check_model(settings: RunSettings) -> None:
    """Build the model without weights, because it checks its own arguments."""
    arguments = settings.model_arguments(in_dim=1, num_classes=2, num_slides=1)
    try:
        with torch.device("meta"):
            MODELS[settings.model.name](**arguments)
    except ValueError as error:
        raise SettingsError(f"model {settings.model.name}: {error}") from None


def _check_keys(what: str, found: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in found:
        if key not in known:
            raise SettingsError(_unknown(what, str(key), known))


def _unknown(what: str, found: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(found, known, 1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"unknown {what} {found!r}; known: {', '.join(known)}.{hint}"


def _first_error(error: ValidationError, section: str) -> str:
    """Say in one line what pydantic found first."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # in our own words
        return f"{section}{'.'.join(map(str, first['loc']))}.{first['ctx']['error']}"
    place = ".".join(
        str(part) for part in first["loc"] if not str(part).startswith(("function-", "tuple"))
    )
    return f"{section}{place}: {first['input']!r} is refused: {first['msg'].lower()}."


def _plain(value: Any) -> Any:
    """Give settings as YAML has them."""
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return str(value) if isinstance(value, Path) else value
