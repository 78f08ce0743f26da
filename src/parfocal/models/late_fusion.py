"""Late fusion: run a model on each slide of a patient, and join the predictions.

- "mean": mean of the class probabilities; for a task without classes, of the logits.
- "max": the prediction for the most suspicious slide: the one with the lowest probability of the
  first class, which is the one without a finding; for a task without classes, the highest value of
  each logit, because a patient has every finding that any slide has.
- "attention": gated attention over the vectors of the slides, which are what enters the last layer
  of the model; the last layer then classifies their weighted mean. It is trained with the model.

Mean and max need no training: any model of slides can be asked so.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import Bag, PixelSource, SeparateSlides
from parfocal.features.patient_looks import join_looks
from parfocal.models.layers.attention import GatedAttention
from parfocal.prediction import Prediction

Fusion = Literal["mean", "max", "attention"]
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
OF_OUTPUTS = "-logits"  # suffix of a fusion for a task without classes
HEAD = "fusion_head"  # name of the attention in a model
HIDDEN_DIM = 128  # of the attention


def attach_fusion(model: nn.Module, fusion: str | None) -> None:
    """Add the attention over slides to a model, if the fusion needs it.

    Args:
        model: the model; it stays of its class.
        fusion: how predictions are fused; None for one bag.

    Raises:
        ValueError: the model has no last layer whose input is the vector of a slide.
    """
    if fusion is None or not fusion.startswith("attention"):
        return
    last = getattr(model, "classifier", None)
    if not isinstance(last, nn.Linear):
        raise ValueError(
            f"{type(model).__name__} has no single linear last layer, so there is no vector of a "
            "slide to attend to; use fusion mean or max, or one bag per patient."
        )
    model.add_module(HEAD, GatedAttention(last.in_features, HIDDEN_DIM, dropout=0.0))


def run_separately(
    model: Callable[..., Prediction],
    inputs: SeparateSlides,
    *,
    added: Float[Tensor, " c"] | None = None,
) -> Prediction:
    """Run a model on each slide of a patient, and fuse the predictions into one.

    Args:
        model: a model of `MODELS`, or any callable like it.
        inputs: the slides.
        added: what the covariates of the patient add to the logits, of each slide before the
            fusion; None for a model without covariates.

    Raises:
        ValueError: the fusion is attention, and the model has a training objective over the patches
            of one slide, or no last layer that is called.
    """
    extra = 0.0 if added is None else added
    predictions, vectors = [], []
    for position, slide in enumerate(inputs.slides):
        with inputs.reading(position), _LastLayerInput(model, inputs.fusion) as last:
            predictions.append(_run_slide(model, slide))
        vectors += last.vectors
    if inputs.fusion.startswith("attention"):
        logits, weights = _attend(model, predictions, vectors)
        logits = logits + extra
    else:
        logits, weights = fuse_logits(
            torch.stack([each.logits + extra for each in predictions]), inputs.fusion
        )
    looks = join_looks([each.looks for each in predictions], weights=weights.tolist())
    return Prediction(
        logits,
        looks,
        stop_reason=predictions[0].stop_reason,
        terms=_mean_terms(predictions) if inputs.fusion.startswith("attention") else {},
    )


def fuse_logits(
    logits: Float[Tensor, "s c"], fusion: str
) -> tuple[Float[Tensor, " c"], Float[Tensor, " s"]]:
    """Return the logits of a patient, and the share of each slide in them.

    The softmax of the result is the fused probability of each class.

    Args:
        logits: logits of each slide.
        fusion: "mean" or "max", with the suffix "-logits" for a task without classes.
    """
    count = len(logits)
    kind = fusion.removesuffix(OF_OUTPUTS)
    if kind == "mean":
        shares = logits.new_full((count,), 1 / count)
        if fusion.endswith(OF_OUTPUTS):
            return logits.mean(dim=0), shares
        if count == 1:
            return logits[0], shares  # unchanged to the last bit
        return logits.log_softmax(dim=1).logsumexp(dim=0) - torch.tensor(count).log(), shares
    if fusion.endswith(OF_OUTPUTS):
        highest = logits.max(dim=0)
        return highest.values, F.one_hot(highest.indices, count).to(logits).mean(dim=0)
    position = int(logits.softmax(dim=1)[:, 0].argmin())
    return logits[position], F.one_hot(torch.tensor(position), count).to(logits)


class _LastLayerInput:
    """Keeps what enters the last layer of a model while it is run.

    Args:
        model: the model.
        fusion: how predictions are fused; only attention needs the vectors.
    """

    def __init__(self, model: Callable[..., Prediction], fusion: str) -> None:
        self.vectors: list[Tensor] = []
        self._layer = getattr(model, "classifier", None) if fusion.startswith("att") else None

    def __enter__(self) -> "_LastLayerInput":
        if isinstance(self._layer, nn.Module):
            self._hook = self._layer.register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._layer, nn.Module):
            self._hook.remove()

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.vectors = [inputs[0]]  # the last call counts


def _run_slide(model: Callable[..., Prediction], slide: Bag | PixelSource) -> Prediction:
    """Run a model on one slide."""
    prediction = model([slide]) if isinstance(slide, PixelSource) else model(slide)
    (alone,) = prediction.slides
    return replace(alone, terms=prediction.terms) if prediction.members else alone


def _attend(
    model: Callable[..., Prediction], predictions: Sequence[Prediction], vectors: list[Tensor]
) -> tuple[Float[Tensor, " c"], Float[Tensor, " s"]]:
    """Classify the attention-weighted mean of the slides' vectors."""
    assert isinstance(model, nn.Module)
    if len(vectors) < len(predictions):
        raise ValueError(
            f"{type(model).__name__} does not call its last layer on a vector of the slide, so "
            "slides cannot be fused by attention; use fusion mean or max, or one bag per patient."
        )
    stacked = torch.stack([vector.reshape(-1) for vector in vectors])  # s c
    weights = model.get_submodule(HEAD)(stacked).softmax(dim=0)  # s
    return model.get_submodule("classifier")(weights @ stacked), weights.detach()


def _mean_terms(predictions: Sequence[Prediction]) -> dict[str, Tensor]:
    """Return the mean over slides of what the training objective needs."""
    terms = {}
    for name, first in predictions[0].terms.items():
        if first.ndim:
            raise ValueError(
                f"the model's training objective ({name}) is defined for the patches of one slide, "
                "so slides cannot be fused by attention; use fusion mean or max, or one bag per "
                "patient."
            )
        terms[name] = torch.stack([each.terms[name] for each in predictions]).mean()
    return terms
