import math

import pytest
import torch
from torch import nn

from parfocal.settings import TrainSettings
from parfocal.train.folder import Epoch
from parfocal.train.optimizer import Plateau, look_ahead, optimizer_of, planned_rates


def test_a_cosine_rises_for_its_share_and_falls_to_its_floor():
    settings = TrainSettings(
        epochs=10, learning_rate=2.0, schedule="cosine", warmup=0.2, lr_floor=0.1
    )
    rates = planned_rates(settings)
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert rates[6] == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert rates[9] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi * 7 / 8)) / 2))


def test_a_plateau_is_not_planned_and_a_constant_rate_stays():
    assert planned_rates(TrainSettings()) is None
    rates = planned_rates(TrainSettings(epochs=3, learning_rate=0.5, schedule="constant"))
    assert rates == [0.5, 0.5, 0.5]


def epoch_of(value: float | None) -> Epoch:
    return Epoch(1, 1.0, value, value, value, None, 1.0, 0, 0.0)


@pytest.mark.parametrize("monitor", ["loss", "accuracy", "weighted_f1"])
def test_a_rate_falls_once_what_is_monitored_has_rested_for_longer_than_its_epochs(monitor):
    settings = TrainSettings(monitor=monitor, lr_factor=0.1, lr_patience=2, learning_rate=1.0)
    optimizer = optimizer_of([nn.Parameter(torch.ones(1))], settings)
    plateau, rates = Plateau(optimizer, settings), []
    for _ in range(5):
        plateau.step(epoch_of(0.8))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, pytest.approx(0.1), pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("monitor", "step"), [("loss", -0.1), ("accuracy", 0.1), ("weighted_f1", 0.1)]
)
def test_a_rate_stays_while_what_is_monitored_gets_better(monitor, step):
    settings = TrainSettings(monitor=monitor, lr_factor=0.1, lr_patience=0, learning_rate=1.0)
    optimizer = optimizer_of([nn.Parameter(torch.ones(1))], settings)
    plateau = Plateau(optimizer, settings)
    for number in range(4):
        plateau.step(epoch_of(0.5 + number * step))
    assert optimizer.param_groups[0]["lr"] == 1


def test_a_rate_stays_where_there_are_no_validation_slides():
    settings = TrainSettings(lr_patience=0, learning_rate=1.0)
    optimizer = optimizer_of([nn.Parameter(torch.ones(1))], settings)
    for _ in range(3):
        Plateau(optimizer, settings).step(epoch_of(None))
    assert optimizer.param_groups[0]["lr"] == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("radam", torch.optim.RAdam)],
)
def test_the_optimizer_is_the_one_asked_for(name, kind):
    settings = TrainSettings(optimizer=name, betas=(0.5, 0.9), weight_decay=0.1)
    optimizer = optimizer_of([nn.Parameter(torch.ones(1))], settings)
    assert type(optimizer) is kind
    assert optimizer.defaults["betas"] == (0.5, 0.9)
    assert optimizer.defaults["weight_decay"] == 0.1


def walk(optimizer: torch.optim.Optimizer, weight: nn.Parameter, steps: int) -> list[float]:
    taken = []
    for _ in range(steps):
        optimizer.zero_grad()
        (weight**2).backward()
        optimizer.step()
        taken.append(weight.item())
    return taken


def test_looking_ahead_goes_back_half_the_way_every_six_steps():
    plain, followed = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    six = walk(torch.optim.Adam([plain], lr=0.1), plain, 6)
    optimizer = torch.optim.Adam([followed], lr=0.1)
    look_ahead(optimizer)
    ours = walk(optimizer, followed, 6)
    assert ours[:5] == six[:5]
    assert ours[5] == pytest.approx((1 + six[5]) / 2)


def test_looking_ahead_goes_on_from_a_saved_state_as_if_never_stopped():
    whole = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.RAdam([whole], lr=0.1)
    look_ahead(optimizer)
    expected = walk(optimizer, whole, 20)

    first = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.RAdam([first], lr=0.1)
    look_ahead(optimizer)
    walk(optimizer, first, 8)
    second = nn.Parameter(first.detach().clone())
    resumed = torch.optim.RAdam([second], lr=0.1)
    look_ahead(resumed)
    resumed.load_state_dict(optimizer.state_dict())
    assert walk(resumed, second, 12) == expected[8:]
