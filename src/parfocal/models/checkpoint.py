"""A trained model with all that prediction needs: `checkpoint.safetensors` and `checkpoint.json`.

The JSON describes the model and holds the hash of the weights, so files of two runs cannot be
mixed. Nothing is pickled.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from parfocal.encoders.encoder import Encoder
from parfocal.encoders.per_magnification import encoder_text
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.header import SlideSettings
from parfocal.features.opener import open_input
from parfocal.features.slide_input import SlideInput
from parfocal.files import write_whole
from parfocal.models import MODELS
from parfocal.models.budget import Budget
from parfocal.models.contract import ModelTraits
from parfocal.models.description import (
    DESCRIPTION_FILE,
    FORMAT,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    CheckpointError,
    description_path,
    parse_labels,
    read_description,
    weights_path,
)
from parfocal.models.provenance import TrainingProvenance
from parfocal.models.renamed import current_name, renamed_weights
from parfocal.models.stopping import StoppingRule
from parfocal.models.trained_encoders import (
    load_trained_encoders,
    one_or_list,
    parse_encoders,
    parse_weights,
)
from parfocal.models.unit import SLIDE, Unit, parse_unit, unit_entry
from parfocal.models.weights_file import read_weights, unfit_weights, weights_bytes
from parfocal.operating_point import OperatingPoint
from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import Slide
from parfocal.validation import validate

SettingValue = str | int | float | bool | None | list[int] | list[float]


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {
        "parfocal": version("parfocal"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model with all that prediction needs.

    Args:
        model: the model with its weights; a loaded one is on the CPU and in evaluation mode.
        model_name: name of the model, a key of `MODELS`.
        model_settings: arguments of the model's class, including `in_dim` and `num_classes`.
        labels: class labels in the order of the logits; for a task without classes, the names of
            its outputs.
        encoders: encoder of the features of each magnification, lowest first; empty for a model
            that takes pixels.
        slide: settings that define the patches of a slide.
        training: where the weights come from.
        encoder_weights: file with the weights of each of `encoders`; None for published weights.
            Empty if all are published.
        versions: versions of the packages that the model was trained with.
        task: what the model predicts, as `parfocal.tasks` describes it; None for one class per
            slide, the label.
        unit: what one prediction is for: a slide or a patient, with covariates or without.
        stopping: the rule by which the model stops visiting a slide, calibrated on validation
            slides and used if the budget says so; None if there is none.
        operating_point: temperature and thresholds, chosen on validation slides; None if the model
            predicts the most probable class.
        budget: how much of a slide the model visits; None for what it visits by itself. Not stored.
        members: models whose answers are averaged, by name, for a run with folds; empty for one
            model. Not stored.
        stored_hash: SHA-256 of the weights file that the model was loaded from; None for a model
            that was not loaded.
        trust_remote_code: whether to run code from the repository of an encoder; not stored.
    """

    model: nn.Module
    model_name: str
    model_settings: dict[str, SettingValue]
    labels: tuple[str, ...]
    encoders: tuple[EncoderSpec, ...]
    slide: SlideSettings
    training: TrainingProvenance
    encoder_weights: tuple[Path | None, ...] = ()
    versions: dict[str, str] = field(default_factory=versions)
    task: Mapping[str, Any] | None = None
    unit: Unit = SLIDE
    stopping: StoppingRule | None = None
    operating_point: OperatingPoint | None = None
    budget: Budget | StoppingRule | None = None
    members: "Mapping[str, Checkpoint]" = field(default_factory=dict)
    stored_hash: str | None = None
    trust_remote_code: bool = False

    @property
    def traits(self) -> ModelTraits:
        """What the model takes and does."""
        return MODELS[self.model_name].traits

    @property
    def magnifications(self) -> tuple[float, ...]:
        """Configured magnifications, lowest first."""
        return self.slide.magnifications

    @property
    def mpps(self) -> tuple[float, ...]:
        """Microns per pixel of the configured magnifications, coarse to fine."""
        return tuple(mpp_of(magnification) for magnification in self.magnifications)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels, the same at every magnification."""
        return self.slide.patch_size

    @property
    def encoder_text(self) -> str | None:
        """Names of the encoders, as `--encoder` takes them; None for a model that takes pixels."""
        return encoder_text([each.name for each in self.encoders], self.magnifications)

    @property
    def skip_unavailable_magnifications(self) -> bool:
        """Whether magnifications that a slide does not have are left out for that slide."""
        return bool(self.model_settings.get("skip_unavailable_magnifications", False))

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the model's weights as they are stored, in safetensors format."""
        return self.stored_hash or sha256(weights_bytes(self.model)).hexdigest()

    @property
    def _task_entry(self) -> dict[str, Any]:
        """The key `task` of the description; none for one class per slide."""
        return {} if self.task is None else {"task": dict(self.task)}

    @property
    def _operating_point_entry(self) -> dict[str, Any]:
        """The key `operating_point` of the description; none if nothing was chosen."""
        point = self.operating_point
        return {} if point is None else {"operating_point": asdict(point)}

    @property
    def _members_entry(self) -> dict[str, Any]:
        """The settings of the members; none for one model."""
        hashes = {name: member.settings_hash for name, member in self.members.items()}
        return {"members": hashes} if hashes else {}

    def calibrated(self, logits: Tensor) -> Tensor:
        """Return logits divided by the temperature; the same object if there is none."""
        point = self.operating_point
        if point is None or point.temperature is None:
            return logits
        return logits / point.temperature

    @property
    def settings_hash(self) -> str:
        """SHA-256 of everything that predictions depend on besides the weights and the slide."""
        settings = {
            "labels": self.labels,
            **self._task_entry,
            **unit_entry(self.unit),
            "model": {"name": self.model_name, "settings": self.model_settings},
            "slide": asdict(self.slide),
            **({} if self.budget is None else {"budget": asdict(self.budget)}),
            **self._operating_point_entry,
            **self._members_entry,
            # Where an encoder runs does not decide its features.
            "encoder": one_or_list([replace(each, address="").to_dict() for each in self.encoders]),
        }
        return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def load_encoders(
        self,
        *,
        device: str = "cpu",
        weights: Path | Sequence[Path | None] | None = None,
        runtime: Literal["auto", "torch", "onnx"] = "auto",
    ) -> tuple[Encoder, ...]:
        """Load the encoders that the model was trained with.

        Args:
            device: device of the encoders.
            weights: file with the weights, if moved; or a file or None per magnification.
            runtime: library that runs the encoders; the features differ by rounding only.

        Returns:
            The encoder of each magnification, lowest first; equal ones are one object. Empty for a
            model that takes pixels.

        Raises:
            CheckpointError: the encoder of a name differs from the one of the training.
        """
        return load_trained_encoders(
            self.encoders,
            self.encoder_weights,
            mpps=self.mpps,
            moved=weights,
            device=device,
            runtime=runtime,
            trust_remote_code=self.trust_remote_code,
        )

    def open(
        self, slide: Slide, *, encoder: Encoder | Sequence[Encoder] | None = None
    ) -> AbstractContextManager[SlideInput]:
        """Open a slide for the model, with the tissue and patches that the run defines.

        Args:
            slide: slide to read from.
            encoder: encoder of the model, one for all magnifications or one for each, if loaded.

        Raises:
            SlideError: the slide has no tissue, or the magnifications do not fit it.
            CheckpointError: see `load_encoders`.
        """
        return open_input(
            slide,
            self.slide,
            encoder or self.load_encoders(),
            skip_unavailable_magnifications=self.skip_unavailable_magnifications,
        )

    def save(self, folder: Path) -> None:
        """Write both files; an interruption leaves no incomplete file.

        Args:
            folder: folder to write to; it is created if needed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        weights, description = self.to_bytes()
        write_whole(folder / WEIGHTS_FILE, weights)
        # Written last: a folder with this file has the weights, too.
        write_whole(folder / DESCRIPTION_FILE, description)

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Return the contents of both files: the weights, and their description."""
        weights = weights_bytes(self.model)
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "versions": self.versions,
            "labels": self.labels,
            **self._task_entry,
            **unit_entry(self.unit),
            "model": {"name": self.model_name, "settings": self.model_settings},
            "weights_sha256": sha256(weights).hexdigest(),
            "slide": asdict(self.slide),
            "encoder": one_or_list([each.to_dict() for each in self.encoders]),
            "encoder_weights": one_or_list(
                [None if each is None else str(each) for each in self.encoder_weights]
            ),
            "training": asdict(self.training),
            **({} if self.stopping is None else {"stopping": asdict(self.stopping)}),
            **self._operating_point_entry,
        }
        return weights, (json.dumps(description, indent=2) + "\n").encode()

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        overrides: Mapping[str, SettingValue] | None = None,
        trust_remote_code: bool = False,
    ) -> "Checkpoint":
        """Load a trained model from a run folder of format version 1 or 2.

        Args:
            folder: folder of a finished run.
            overrides: settings of the model to change, such as the number of patches to read; a
                setting that changes the shape of the weights cannot be changed.
            trust_remote_code: whether to run code from the repository of an encoder.

        Raises:
            CheckpointError: a file is missing, damaged, or written by a newer version.
            ValueError: the value of a changed setting is invalid.
        """
        description = read_description(folder)
        fields = _parse(folder, description)
        name = fields["model_name"]
        settings = _override(name, fields["model_settings"], overrides or {})
        try:
            model = build_model(name, settings)
            fields["unit"].attach(model, len(fields["labels"]))
        except (ValueError, RuntimeError) as error:
            if overrides:
                raise
            raise _damaged(folder, error) from None
        path = weights_path(folder)
        weights = read_weights(path, fields["stored_hash"])
        if description["format_version"] == 1:
            weights = renamed_weights(name, weights)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise unfit_weights(path, error) from None
        fields |= {"model": model.eval(), "model_settings": settings}
        return cls(**fields, trust_remote_code=trust_remote_code)


def stored_model_name(folder: Path) -> str:
    """Return the name of the model in a run folder without loading it.

    Raises:
        CheckpointError: the run has no checkpoint, or it cannot be read.
    """
    return str(_parse(folder, read_description(folder))["model_name"])


def build_model(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Build a model with random weights.

    Args:
        name: name of the model, a key of `MODELS`.
        settings: arguments of its class.

    Raises:
        CheckpointError: the model or a setting is unknown.
        ValueError: the value of a setting is invalid.
    """
    if name not in MODELS:
        raise CheckpointError(
            f"unknown model {name!r}; this parfocal ({version('parfocal')}) has "
            f"{', '.join(MODELS)}."
        )
    try:
        return MODELS[name].build(**settings)
    except TypeError as error:
        raise CheckpointError(f"model {name}: {error}; train again with this version.") from None


def _parse(folder: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Checkpoint` except the model."""
    try:
        encoder, weights = description["encoder"], description["encoder_weights"]
        slide = validate(SlideSettings, description["slide"])
        encoders = parse_encoders(encoder, len(slide.magnifications))
        settings = dict(description["model"]["settings"])
        return {
            "model_name": current_name(description["model"]["name"]),
            "model_settings": settings,
            "labels": parse_labels(description["labels"], settings.get("num_classes")),
            "encoders": encoders,
            "slide": slide,
            "training": validate(TrainingProvenance, description["training"]),
            "encoder_weights": parse_weights(weights, len(encoders)),
            "versions": dict(description["versions"]),
            "stored_hash": description["weights_sha256"],
            "stopping": None
            if description.get("stopping") is None
            else StoppingRule.parse(description["stopping"]),
            "operating_point": None
            if description.get("operating_point") is None
            else OperatingPoint.parse(description["operating_point"]),
            "task": None if description.get("task") is None else dict(description["task"]),
            "unit": parse_unit(description.get("unit")),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{description_path(folder)}: damaged ({type(error).__name__}: {error}); restore it or "
        "train again."
    )


def _override(
    name: str, settings: Mapping[str, SettingValue], overrides: Mapping[str, SettingValue]
) -> dict[str, SettingValue]:
    for key in overrides:
        if key not in settings:
            raise CheckpointError(
                f"model {name} was trained without a setting {key!r}; it has {', '.join(settings)}."
            )
    return {**settings, **overrides}
