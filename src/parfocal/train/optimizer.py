"""Optimizers and rates as the authors of the methods set them, from the settings of a run."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from parfocal.settings import TrainSettings
from parfocal.train.folder import Epoch

FOLLOWED, SHARE = 6, 0.5  # of look-ahead: after so many steps, so much of the way


def optimizer_of(
    parameters: Iterable[nn.Parameter], settings: TrainSettings
) -> torch.optim.Optimizer:
    """Give the optimizer that is asked for."""
    kinds: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "radam": torch.optim.RAdam,
    }
    optimizer: torch.optim.Optimizer = kinds[settings.optimizer](
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    if settings.lookahead:
        look_ahead(optimizer)
    return optimizer


def look_ahead(optimizer: torch.optim.Optimizer) -> None:
    """Let slow weights go half the way to the fast ones every 6 steps, and these start from there.

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019. The
    slow weights are part of the optimizer's state, so they are saved and loaded with it.
    """
    starts: dict[Tensor, Tensor] = {}

    def remember(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for weight in _weights(optimizer):
            if "slow" not in optimizer.state[weight]:
                starts[weight] = weight.detach().clone()

    def follow(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for weight in _weights(optimizer):
            state = optimizer.state[weight]
            if weight in starts:
                state["slow"] = starts.pop(weight)
            if state and int(state["step"]) % FOLLOWED == 0:
                with torch.no_grad():
                    weight.copy_(state["slow"].lerp_(weight, SHARE))

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(follow)


class Plateau:
    """Lowers the rate when what is watched rests.

    Args:
        optimizer: whose rate it is.
        settings: what is watched, for how many epochs it may rest, and the factor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: TrainSettings) -> None:
        self._watch = settings.monitor
        self._plateau = ReduceLROnPlateau(
            optimizer, factor=settings.lr_factor, patience=settings.lr_patience
        )

    def step(self, epoch: Epoch) -> None:
        """Take note of an epoch; of one without validation slides there is nothing to note."""
        if epoch.val_loss is None or epoch.val_accuracy is None or epoch.val_weighted_f1 is None:
            return
        # What is short of 1, for torch takes a negative number that rests for one that still falls.
        watched = {
            "loss": epoch.val_loss,
            "accuracy": 1 - epoch.val_accuracy,
            "weighted_f1": 1 - epoch.val_weighted_f1,
        }
        self._plateau.step(watched[self._watch])


def planned_rates(settings: TrainSettings) -> list[float] | None:
    """Give the learning rate of each epoch; None where it depends on how the training goes."""
    rate, epochs = settings.learning_rate, range(settings.epochs)
    match settings.schedule:
        case "plateau":
            return None
        case "constant":
            return [rate for _ in epochs]
        case "cosine":
            return [rate * _cosine(epoch, settings) for epoch in epochs]


def _cosine(epoch: int, settings: TrainSettings) -> float:
    """Rise in equal steps, then fall along half a cosine to the floor."""
    warmup, floor = int(settings.warmup * settings.epochs), settings.lr_floor
    if epoch < warmup:
        return (epoch + 1) / warmup
    fallen = (1 + math.cos(math.pi * (epoch - warmup) / (settings.epochs - warmup))) / 2
    return floor + (1 - floor) * fallen


def _weights(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return [weight for weight in weights if weight.grad is not None]
