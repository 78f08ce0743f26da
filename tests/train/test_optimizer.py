import math

import pytest
import torch
from torch import nn

from parfocal.settings import TrainSettings
from parfocal.train.optimizer import (
    PlateauSchedule,
    add_lookahead,
    build_optimizer,
    scheduled_rates,
)
from parfocal.train.summary import Epoch


def test_a_cosine_rises_in_the_warm_up_and_falls_to_its_floor():
    settings = TrainSettings(
        epochs=10, learning_rate=2.0, schedule="cosine", warmup=0.2, lr_floor=0.1
    )
    rates = scheduled_rates(settings)
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[6] == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert rates[9] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi * 7 / 8)) / 2))


def test_plateau_has_no_rates_in_advance_and_constant_has_equal_ones():
    assert scheduled_rates(TrainSettings()) is None
    rates = scheduled_rates(TrainSettings(epochs=3, learning_rate=0.5, schedule="constant"))
    assert rates == [0.5, 0.5, 0.5]


def epoch_of(value: float | None) -> Epoch:
    return Epoch(1, 1.0, value, value, value, None, 1.0, 0, 0.0)


@pytest.mark.parametrize("monitor", ["loss", "accuracy", "weighted_f1"])
def test_the_rate_falls_after_more_epochs_without_improvement_than_the_patience(monitor):
    settings = TrainSettings(monitor=monitor, lr_factor=0.1, lr_patience=2, learning_rate=1.0)
    optimizer = build_optimizer([nn.Parameter(torch.ones(1))], settings)
    plateau, rates = PlateauSchedule(optimizer, settings), []
    for _ in range(5):
        plateau.step(epoch_of(0.8))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, pytest.approx(0.1), pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("monitor", "step"), [("loss", -0.1), ("accuracy", 0.1), ("weighted_f1", 0.1)]
)
def test_the_rate_stays_while_the_monitored_metric_improves(monitor, step):
    settings = TrainSettings(monitor=monitor, lr_factor=0.1, lr_patience=0, learning_rate=1.0)
    optimizer = build_optimizer([nn.Parameter(torch.ones(1))], settings)
    plateau = PlateauSchedule(optimizer, settings)
    for number in range(4):
        plateau.step(epoch_of(0.5 + number * step))
    assert optimizer.param_groups[0]["lr"] == 1


def test_the_rate_stays_without_validation_slides():
    settings = TrainSettings(lr_patience=0, learning_rate=1.0)
    optimizer = build_optimizer([nn.Parameter(torch.ones(1))], settings)
    for _ in range(3):
        PlateauSchedule(optimizer, settings).step(epoch_of(None))
    assert optimizer.param_groups[0]["lr"] == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("radam", torch.optim.RAdam)],
)
def test_the_optimizer_is_the_one_in_the_settings(name, kind):
    settings = TrainSettings(optimizer=name, betas=(0.5, 0.9), weight_decay=0.1)
    optimizer = build_optimizer([nn.Parameter(torch.ones(1))], settings)
    assert type(optimizer) is kind
    assert optimizer.defaults["betas"] == (0.5, 0.9)
    assert optimizer.defaults["weight_decay"] == 0.1


def take_steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int) -> list[float]:
    weights = []
    for _ in range(steps):
        optimizer.zero_grad()
        (weight**2).backward()
        optimizer.step()
        weights.append(weight.item())
    return weights


def test_lookahead_goes_back_halfway_every_six_steps():
    plain, followed = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    six = take_steps(torch.optim.Adam([plain], lr=0.1), plain, 6)
    optimizer = torch.optim.Adam([followed], lr=0.1)
    add_lookahead(optimizer)
    ours = take_steps(optimizer, followed, 6)
    assert ours[:5] == six[:5]
    assert ours[5] == pytest.approx((1 + six[5]) / 2)


def test_lookahead_continues_from_a_saved_state():
    whole = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.RAdam([whole], lr=0.1)
    add_lookahead(optimizer)
    expected = take_steps(optimizer, whole, 20)

    first = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.RAdam([first], lr=0.1)
    add_lookahead(optimizer)
    take_steps(optimizer, first, 8)
    second = nn.Parameter(first.detach().clone())
    resumed = torch.optim.RAdam([second], lr=0.1)
    add_lookahead(resumed)
    resumed.load_state_dict(optimizer.state_dict())
    assert take_steps(resumed, second, 12) == expected[8:]
