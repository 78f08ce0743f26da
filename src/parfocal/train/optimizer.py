"""Optimizers and learning-rate schedules of a run."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from parfocal.settings import TrainSettings
from parfocal.train.summary import Epoch

LOOKAHEAD_STEPS, LOOKAHEAD_STEP_SIZE = 6, 0.5  # k and alpha of the paper


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: TrainSettings
) -> torch.optim.Optimizer:
    """Build the optimizer of a run.

    Args:
        parameters: parameters to optimize.
        settings: settings of the training.
    """
    parameters = list(parameters)
    # On a CPU, updating the weights one by one takes a third of a step with stored features. On a
    # GPU, Lightning refuses to clip gradients of fused optimizers in mixed precision.
    on_cpu = all(weight.device.type == "cpu" for weight in parameters)
    fused: dict[str, Any] = {"fused": True} if on_cpu else {}
    classes: dict[str, Any] = {
        "adam": partial(torch.optim.Adam, **fused),
        "adamw": partial(torch.optim.AdamW, **fused),
        "radam": torch.optim.RAdam,
    }
    optimizer: torch.optim.Optimizer = classes[settings.optimizer](
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    if settings.lookahead:
        add_lookahead(optimizer)
    return optimizer


def add_lookahead(optimizer: torch.optim.Optimizer) -> None:
    """Add Lookahead: every 6 steps, move slow weights halfway to the weights, and copy them back.

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019. The
    slow weights are part of the optimizer's state, so they are saved and loaded with it.

    Args:
        optimizer: optimizer to change in place.
    """
    initial: dict[Tensor, Tensor] = {}

    def save_initial(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for weight in _weights_with_gradient(optimizer):
            if "slow" not in optimizer.state[weight]:
                initial[weight] = weight.detach().clone()

    def update_slow(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for weight in _weights_with_gradient(optimizer):
            state = optimizer.state[weight]
            if weight in initial:
                state["slow"] = initial.pop(weight)
            if state and int(state["step"]) % LOOKAHEAD_STEPS == 0:
                with torch.no_grad():
                    weight.copy_(state["slow"].lerp_(weight, LOOKAHEAD_STEP_SIZE))

    optimizer.register_step_pre_hook(save_initial)
    optimizer.register_step_post_hook(update_slow)


class PlateauSchedule:
    """Lowers the learning rate when the monitored metric stops improving.

    Args:
        optimizer: optimizer whose learning rate is lowered.
        settings: monitored metric, patience and factor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: TrainSettings) -> None:
        self._monitor = settings.monitor
        self._plateau = ReduceLROnPlateau(
            optimizer, factor=settings.lr_factor, patience=settings.lr_patience
        )

    def step(self, epoch: Epoch, *, measured: bool = True) -> None:
        """Update the learning rate after an epoch; an epoch without validation has no effect.

        Args:
            epoch: metrics of the epoch.
            measured: whether the validation slides can measure the loss.
        """
        monitored = {
            "loss": epoch.val_loss,
            "accuracy": epoch.val_accuracy,
            "weighted_f1": epoch.val_weighted_f1,
        }[self._monitor]
        if monitored is None or not measured:
            return
        # 1 - metric, because the relative threshold of torch does not suit negative numbers.
        self._plateau.step(monitored if self._monitor == "loss" else 1 - monitored)


def scheduled_rates(settings: TrainSettings) -> list[float] | None:
    """Return the learning rate of each epoch; None for "plateau", which depends on the metrics."""
    rate, epochs = settings.learning_rate, range(settings.epochs)
    match settings.schedule:
        case "plateau":
            return None
        case "constant":
            return [rate for _ in epochs]
        case "cosine":
            return [rate * _cosine_factor(epoch, settings) for epoch in epochs]


def _cosine_factor(epoch: int, settings: TrainSettings) -> float:
    """Return the factor of a linear warm-up followed by half a cosine down to `lr_floor`."""
    warmup, floor = int(settings.warmup * settings.epochs), settings.lr_floor
    if epoch < warmup:
        return (epoch + 1) / warmup
    cosine = (1 + math.cos(math.pi * (epoch - warmup) / (settings.epochs - warmup))) / 2
    return floor + (1 - floor) * cosine


def _weights_with_gradient(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return [weight for weight in weights if weight.grad is not None]
