import pytest
import torch
from torch import nn

from parfocal.prediction import Prediction
from parfocal.tasks.survival import survival_loss
from parfocal.train.folder import RunError
from parfocal.train.joint_step import JointStep

TARGETS = torch.tensor(
    [[3.0, 1.0], [5.0, 0.0], [3.0, 1.0], [7.0, 1.0], [2.0, 0.0], [9.0, 0.0]], dtype=torch.float64
)


class Noisy(nn.Module):
    """A network with random draws of both kinds, and with running statistics."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.head, self.generator = nn.Linear(8, 1), generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.hidden(x)).relu()
        h = nn.functional.dropout(h, 0.5) + torch.randn(h.shape, generator=self.generator)
        return self.head(h)


def make(num_slides=6, size=2):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model, inputs = Noisy(generator), torch.randn(num_slides, 4)
    parts = [list(range(start, start + size)) for start in range(0, num_slides, size)]

    def run(positions):
        members = tuple(Prediction(logits) for logits in model(inputs[positions]))
        logits = torch.stack([each.logits for each in members])
        terms = {"own": (logits**2).mean()}
        return Prediction(logits, terms=terms, members=members), TARGETS[positions]

    return model, run, parts, generator


def objective(prediction, target, loss):
    return loss(prediction.logits, target) + 0.3 * prediction.terms["own"]


def two_streams(prediction, target, loss):
    """As that of DSMIL: the mean over two logits of each slide."""
    streams = (prediction.logits, 2 * prediction.logits)
    return torch.stack([loss(stream, target) for stream in streams]).mean()


def gradients(model):
    return [weights.grad.clone() for weights in model.parameters()]


@pytest.mark.parametrize("goal", [objective, two_streams])
def test_the_gradient_is_that_of_all_slides_together(goal):
    model, run, parts, generator = make()
    runs = [run(positions) for positions in parts]
    logits = torch.cat([prediction.logits for prediction, _ in runs])
    if goal is objective:
        own = torch.stack([prediction.terms["own"] for prediction, _ in runs]).mean()
        joint = survival_loss(logits, TARGETS) + 0.3 * own
    else:
        joint = (survival_loss(logits, TARGETS) + survival_loss(2 * logits, TARGETS)) / 2
    joint.backward()
    expected, statistics = gradients(model), model.norm.running_mean.clone()
    state = torch.get_rng_state(), generator.get_state()

    model, run, parts, generator = make()
    loss, count = JointStep(model, run, goal, survival_loss, (generator,)).compute(parts)
    assert all(weights.grad is None for weights in model.parameters())
    loss.backward()
    assert count == 6
    torch.testing.assert_close(loss.double(), joint.double())
    torch.testing.assert_close(gradients(model), expected)
    torch.testing.assert_close(model.norm.running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert torch.equal(generator.get_state(), state[1])


def test_only_one_part_has_activations_at_a_time():
    model, run, parts, generator = make()
    alive: list[bool] = []

    def watched(positions):
        result = run(positions)
        alive.append(result[0].logits.requires_grad)
        return result

    loss, _ = JointStep(model, watched, objective, survival_loss, (generator,)).compute(parts)
    assert alive == [False] * 3
    loss.backward()
    assert alive == [False] * 3 + [True] * 3


def test_slides_without_an_event_are_no_step():
    model, run, _, generator = make()
    step = JointStep(model, run, objective, survival_loss, (generator,))
    loss, count = step.compute([[1, 4], [4, 5]])
    assert (loss, count) == (None, 4)


def test_a_slide_that_is_lost_between_both_runs_stops_the_training():
    model, run, parts, generator = make()
    calls: list[int] = []

    def fails_later(positions):
        calls.append(1)
        return (None, torch.empty(0)) if len(calls) > 3 else run(positions)

    loss, _ = JointStep(model, fails_later, objective, survival_loss, (generator,)).compute(parts)
    with pytest.raises(RunError, match="could be read for the risks of a step but not"):
        loss.backward()
