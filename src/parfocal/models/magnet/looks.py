"""Turn the squares and logits of MagNet into predictions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from parfocal.bag import PixelSource
from parfocal.models.layers.squares import places_of
from parfocal.models.magnet.search import SearchConfig
from parfocal.prediction import Look, Prediction


def predictions_of(
    sources: Sequence[PixelSource],
    squares: Sequence[Float[Tensor, "b _ 3"]],
    logits: Float[Tensor, "b n c"],
    config: SearchConfig,
) -> tuple[Prediction, ...]:
    """Return one prediction per slide, with its looks and running probabilities.

    Args:
        sources: pixels of the slides.
        squares: the whole slide, then the squares of each layer, in coordinates of the slide.
        logits: logits after each leaf that was read.
        config: settings of the search.
    """
    running = logits.detach().softmax(dim=-1).cpu()
    num_read, num_leaves = logits.shape[1], squares[-1].shape[1]
    reason = "every leaf was read"
    if num_read < num_leaves:
        reason = f"early exit after {num_read} of {num_leaves} leaves"
    predictions = []
    for number, source in enumerate(sources):
        own = [layer[number] for layer in squares]
        looks = _looks(source, own, running[number], config)
        predictions.append(
            Prediction(logits[number, -1], looks, stop_reason=reason, running=running[number])
        )
    return tuple(predictions)


def _looks(
    source: PixelSource,
    squares: Sequence[Float[Tensor, "_ 3"]],
    running: Float[Tensor, "n c"],
    config: SearchConfig,
) -> tuple[Look, ...]:
    """Return a look for the whole slide, and one for the squares of each layer."""
    looks, predicted, last = [], running[-1].argmax(), len(squares) - 1
    for layer, chosen in enumerate(squares):
        count = len(running) if layer == last else len(chosen)
        rows = torch.arange(count)
        parents = rows // config.patches[layer - 1] if layer else None
        side_px = config.sides_px[layer]
        places = places_of(source, chosen[:count], side_px=side_px, parents=parents)
        if layer == last:
            probability = running[:, predicted]
            looks.append(Look(rows, probability, places=places, score_kind="class_probability"))
        else:
            uniform = torch.full((count,), 1 / count)
            looks.append(Look(rows, uniform, rows, places=places, score_kind="uniform"))
    return tuple(looks)
