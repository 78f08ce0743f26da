"""Settings and weights of models that have new names since format version 1.

This is the only table of them. A checkpoint of version 1 is translated when it is read; an old name
in a YAML file or in `--set` is refused, and the message gives the new name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Renamed:
    """What has a new name in one model.

    Args:
        settings: new name of each renamed setting, by its old name.
        weights: new prefix of the renamed entries of the state dict, by the old prefix.
        values: new value of each renamed value, by the old value, by the new name of the setting.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


EMBEDDING = {"embed.": "embedder.", "classify.": "classifier."}
ATTENTION = EMBEDDING | {"attend.": "attention."}

SAMPLING_SETTINGS = {
    "alpha": "entropy_weight",
    "seed": "sampling_seed",
    "settle": "ci_half_width",
    "checkpointing": "gradient_checkpointing",
}
PATCH_CLASSIFIER = {
    "read.encode.": "patch_classifier.encoder.",
    "read.classify.": "patch_classifier.classifier.",
    "read.centre": "patch_classifier.feature_mean",  # codespell:ignore centre
}
ESTIMATORS = {
    "replacement": "with_replacement",
    "literal": "partial_sum",
    "published": "published_gradient",
    "renormalised": "renormalized",
}

# New name of each renamed model, by the old name. Checkpoints and run folders with the old one are
# read; in a recipe or in `--set` it is refused.
RENAMED_MODELS = {"meanmlp": "mean-mlp", "coarsestudent": "coarse-student"}
RENAMED: dict[str, Renamed] = {
    "zoommil": Renamed(
        weights={
            "embeds.": "embedders.",
            "attends.": "attention.",
            "aims.": "zoom_attention.",
            "classify.": "classifier.",
        },
    ),
    "abmil": Renamed(weights=ATTENTION),
    "clam": Renamed(weights=ATTENTION | {"judge.": "instance_classifiers."}),
    "transmil": Renamed(
        settings={
            "heads": "num_heads",
            "landmarks": "num_landmarks",
            "iterations": "pinv_iterations",
        },
        weights={
            **EMBEDDING,
            "slide": "class_token",
            "attends.0.split.": "attention.0.qkv.",
            "attends.0.join.": "attention.0.output_projection.",
            "attends.0.near.": "attention.0.value_convolution.",
            "attends.1.split.": "attention.1.qkv.",
            "attends.1.join.": "attention.1.output_projection.",
            "attends.1.near.": "attention.1.value_convolution.",
            "place.": "position_convolutions.",
        },
    ),
    "dsmil": Renamed(
        settings={"normalise": "normalize"},
        weights={"score.": "instance_classifier.", "classify.": "classifier."},
    ),
    "msmil": Renamed(
        settings={"adversary_weight": "adversary_growth"},
        weights=ATTENTION,
    ),
    "sparseconvmil": Renamed(
        weights={
            "convolve.0.spread.": "convolutions.0.projection.",
            "convolve.1.spread.": "convolutions.1.projection.",
            "convolve.": "convolutions.",
            "classify.": "classifier.",
        },
    ),
    "ips": Renamed(
        settings={"m": "num_selected", "chunk": "chunk_size", "heads": "num_heads"},
        weights={
            **EMBEDDING,
            "ask.": "query_projection.",
            "key.": "key_projection.",
            "value.": "value_projection.",
            "join.": "output_projection.",
            "think.": "mlp.",
        },
    ),
    "patchsupervised": Renamed(
        settings={"top": "top_k", "clear": "negative_class"}, weights=EMBEDDING
    ),
    "mean": Renamed(weights=EMBEDDING),
    "max": Renamed(weights=EMBEDDING),
    "jsma": Renamed(
        settings={
            **SAMPLING_SETTINGS,
            "fitting": "skip_unavailable_magnifications",
            "frozen": "freeze_backbone",
            "normalise": "normalize",
        },
        weights={
            **PATCH_CLASSIFIER,
            "overview.": "thumbnail_encoder.",
            "attends.": "attention.",
        },
        values={"estimator": ESTIMATORS},
    ),
    "attentionsampling": Renamed(
        settings={
            **SAMPLING_SETTINGS,
            "widths": "attention_widths",
            "smoothing": "attention_smoothing",
            "unit_length": "normalize_features",
        },
        weights={**PATCH_CLASSIFIER, "attend.": "attention."},
        values={"estimator": ESTIMATORS},
    ),
    "magnet": Renamed(
        settings={
            "frozen": "frozen_patch",
            "scaling": "scale_estimator",
            "temperature": "logit_scale",
            "gradient": "nested_gradient",
            "side": "picture_px",
            "leaf_side": "leaf_px",
            "literal": "low_resolution_leaves",
            "grey_spread": "gray_spread",
            "auxiliary": "auxiliary_backbone",
            "paradox_weight": "paradoxical_weight",
            "paradox": "paradoxical_loss",
            "settle": "early_exit_patience",
            "checkpointing": "gradient_checkpointing",
        },
        weights={
            "layers.": "search.layers.",
            "read.encode.": "aggregator.encoder.",
            "read.remember.": "aggregator.gru.",
            "read.classify.": "aggregator.classifier.",
            "explorer.attend.": "explorer.attention.",
            "explorer.classify.": "explorer.classifier.",
            "glances.0.encode.": "auxiliary.0.encoder.",  # codespell:ignore glances
            "glances.0.classify.": "auxiliary.0.classifier.",  # codespell:ignore glances
            "glances.1.encode.": "auxiliary.1.encoder.",  # codespell:ignore glances
            "glances.1.classify.": "auxiliary.1.classifier.",  # codespell:ignore glances
        },
    ),
    "meanrgb": Renamed(
        settings={"side": "thumbnail_px", "grey_spread": "gray_spread"},
        weights={"classify.": "classifier."},
    ),
}


def current_name(model_name: Any) -> Any:
    """Return the name of a model in `MODELS`; what is not an old name is unchanged.

    Args:
        model_name: value of a key that names a model, as it is stored.
    """
    return RENAMED_MODELS.get(model_name, model_name) if isinstance(model_name, str) else model_name


def renamed_settings(model_name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a model under their new names, with the new values.

    Args:
        model_name: name of the model in `MODELS`.
        settings: settings as format version 1 has them.
    """
    renamed = RENAMED.get(model_name, Renamed())
    translated = {}
    for old_name, old_value in settings.items():
        name = renamed.settings.get(old_name, old_name)
        values = renamed.values.get(name, {})
        translated[name] = values.get(old_value, old_value) if values else old_value
    return translated


def renamed_weights(model_name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a model under their new names.

    Args:
        model_name: name of the model in `MODELS`.
        state_dict: weights as format version 1 has them.
    """
    renamed = RENAMED.get(model_name, Renamed())
    return {_new_name(name, renamed.weights): weight for name, weight in state_dict.items()}


def _new_name(name: str, prefixes: Mapping[str, str]) -> str:
    # The longest prefix wins.
    for old in sorted(prefixes, key=len, reverse=True):
        if name.startswith(old):
            return prefixes[old] + name.removeprefix(old)
    return name
