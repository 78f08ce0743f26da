"""A trained model with all it needs to be used again: `checkpoint.safetensors` and `.json`.

The JSON says what the tensors are of and carries their hash, so the two cannot be mixed up.
Nothing is pickled.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from parfocal.encoders.encoder import Encoder, EncoderSpec, load_encoder
from parfocal.features.header import SlideSettings
from parfocal.files import write_whole
from parfocal.models import MODELS
from parfocal.slide.resolution import mpp_of

FORMAT = "parfocal checkpoint"
FORMAT_VERSION = 1
SETTINGS_FILE, WEIGHTS_FILE = "checkpoint.json", "checkpoint.safetensors"

Setting = str | int | float | bool | None | list[int] | list[float]


class CheckpointError(Exception):
    """A trained model that cannot be used; the message says which, what and what to do."""


def versions() -> dict[str, str]:
    """Give the versions a result depends on."""
    return {
        "parfocal": version("parfocal"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Training:
    """How a model came to be.

    Args:
        seed: of the run.
        epoch: whose weights these are, counted from 1.
        slides: ids by part, `train` and `val`; those that could never be read are not among them.
        patients: ids by part likewise.
        refit: whether the model was trained again on both parts.
        fingerprints: of the files of these slides, by id; of those that could be read.
    """

    seed: int
    epoch: int
    slides: dict[str, list[str]] = field(default_factory=dict)
    patients: dict[str, list[str]] = field(default_factory=dict)
    refit: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model with all it needs to be used again.

    Args:
        model: with its weights, on the CPU and in evaluation mode when loaded.
        model_name: its key in `MODELS`.
        model_settings: the arguments it is built with, `in_dim` and `num_classes` among them.
        labels: the classes, in the order of the logits.
        encoder: what the features are made by; None for a model that encodes by itself.
        slide: which patches of a slide there are.
        training: how it came to be.
        encoder_weights: file the encoder's weights were given in; None for its own.
        versions: of the packages it was made with.
    """

    model: nn.Module
    model_name: str
    model_settings: dict[str, Setting]
    labels: tuple[str, ...]
    encoder: EncoderSpec | None
    slide: SlideSettings
    training: Training
    encoder_weights: Path | None = None
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def magnifications(self) -> tuple[float, ...]:
        """Magnifications as asked for, lowest first."""
        return self.slide.magnifications

    @property
    def mpps(self) -> tuple[float, ...]:
        """Microns per pixel as asked for, coarse to fine."""
        return tuple(mpp_of(magnification) for magnification in self.magnifications)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels, the same at every magnification."""
        return self.slide.patch_size

    @property
    def by_magnification(self) -> bool:
        """Whether each look is at a magnification asked for, and not at any other."""
        return "in_dim" in self.model_settings or "magnifications" in self.model_settings

    @property
    def skip_unavailable_magnifications(self) -> bool:
        """Whether magnifications that do not fit a slide are left out."""
        return bool(self.model_settings.get("skip_unavailable_magnifications", False))

    @property
    def weights_hash(self) -> str:
        """sha256 of the model's weights, as they are stored."""
        return sha256(_weights(self.model)).hexdigest()

    def load_encoder(
        self,
        *,
        device: str = "cpu",
        weights: Path | None = None,
        runtime: Literal["auto", "torch", "onnx"] = "auto",
    ) -> Encoder | None:
        """Load the encoder this model was trained with; None where it encodes by itself.

        Args:
            device: where it shall run.
            weights: its weights, where they have moved since training.
            runtime: what runs it; all agree to rounding.

        Raises:
            CheckpointError: what is found under its name is another encoder.
        """
        if self.encoder is None:
            return None
        found = load_encoder(
            self.encoder.name,
            device=device,
            weights=weights or self.encoder_weights,
            runtime=runtime,
        )
        for name in ("weights_hash", "input_size", "mean", "std"):
            trained, now = getattr(self.encoder, name), getattr(found.spec, name)
            if trained != now:
                raise CheckpointError(
                    f"the model was trained on features of {self.encoder.name} with {name} "
                    f"{trained}, and the encoder found has {now}; give the weights it was "
                    "trained with, or train again."
                )
        return found

    def save(self, folder: Path) -> None:
        """Write both files whole; whatever interrupts, no half of one is left under its name."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = _weights(self.model)
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "versions": self.versions,
            "labels": self.labels,
            "model": {"name": self.model_name, "settings": self.model_settings},
            "weights_sha256": sha256(weights).hexdigest(),
            "slide": asdict(self.slide),
            "encoder": None if self.encoder is None else asdict(self.encoder),
            "encoder_weights": None if self.encoder_weights is None else str(self.encoder_weights),
            "training": asdict(self.training),
        }
        write_whole(folder / WEIGHTS_FILE, weights)
        # Last: with its hash it vouches for the weights.
        write_whole(folder / SETTINGS_FILE, (json.dumps(description, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: Path, *, changed: Mapping[str, "Setting"] | None = None) -> "Checkpoint":
        """Read a trained model from the folder of a run.

        Args:
            folder: of the run.
            changed: arguments of the model to be used in place of those it was trained with, such
                as how many patches it looks at; those that shape its weights cannot be changed.

        Raises:
            CheckpointError: a file is missing or damaged, or made by a newer version.
            ValueError: a changed argument is none of those allowed.
        """
        description = _description(folder)
        try:
            labels = tuple(description["labels"])
            name, settings = description["model"]["name"], description["model"]["settings"]
            settings = _changed(name, settings, changed or {})
            weights_hash, weights_path = (
                description["weights_sha256"],
                description["encoder_weights"],
            )
            slide = SlideSettings(**_tuples(description["slide"]))
            encoded = description["encoder"]
            encoder = None if encoded is None else EncoderSpec(**_tuples(encoded))
            training = Training(**description["training"])
            made_with = dict(description["versions"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / SETTINGS_FILE}: damaged ({type(error).__name__}: {error}); restore it "
                "or train again."
            ) from None
        model = build_model(name, settings)
        _load_weights(model, folder / WEIGHTS_FILE, weights_hash)
        return cls(
            model=model.eval(),
            model_name=name,
            model_settings=settings,
            labels=labels,
            encoder=encoder,
            slide=slide,
            training=training,
            encoder_weights=None if weights_path is None else Path(weights_path),
            versions=made_with,
        )


def _changed(
    name: str, settings: Mapping[str, Setting], changed: Mapping[str, Setting]
) -> dict[str, Setting]:
    for key in changed:
        if key not in settings:
            raise CheckpointError(
                f"model {name} was trained without a setting {key!r}; it has {', '.join(settings)}."
            )
    return {**settings, **changed}


def build_model(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Build an untrained model by its name in `MODELS`.

    Raises:
        CheckpointError: there is no such model, or it has no such settings.
    """
    if name not in MODELS:
        raise CheckpointError(
            f"unknown model {name!r}; this parfocal ({version('parfocal')}) has "
            f"{', '.join(MODELS)}."
        )
    try:
        return MODELS[name](**settings)
    except TypeError as error:
        raise CheckpointError(f"model {name}: {error}; train again with this version.") from None


def _description(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if folds := sorted(folder.glob(f"fold-*/{SETTINGS_FILE}")):
            raise CheckpointError(
                f"{folder}: a run of {len(folds)} folds; give one of them, as {folds[0].parent}."
            ) from None
        raise CheckpointError(
            f"{folder}: no {SETTINGS_FILE}, so this is not the folder of a finished run; give one "
            "that `parfocal train` wrote, or finish it with --resume."
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error}); restore it or train again.") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of parfocal; give a run folder.")
    if int(description.get("format_version", 0)) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format {description['format_version']}, and this parfocal "
            f"({version('parfocal')}) reads up to {FORMAT_VERSION}. Update parfocal."
        )
    return description


def _load_weights(model: nn.Module, path: Path, weights_hash: str) -> None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; restore it or train again.") from None
    if sha256(content).hexdigest() != weights_hash:
        raise CheckpointError(
            f"{path}: not the weights that {SETTINGS_FILE} beside it describes (their hashes "
            "differ); restore both from one run, or train again."
        )
    try:
        model.load_state_dict(safetensors.torch.load(content))
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the model ({' '.join(str(error).split())}); use the "
            "parfocal version named in checkpoint.json, or train again."
        ) from None


def _weights(model: nn.Module) -> bytes:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(tensors)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what JSON does to tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
