"""Cox's loss against a plain version, and against numbers of R's survival package.

R: `coxph(Surv(time, status) ~ x)` with Efron's rule, on the data of the package's validation
vignette (Therneau and Grambsch, "Modeling Survival Data", appendix E, test data 1): without a
coefficient the log-likelihood is -4.276666, and the coefficient is 1.676857.
"""

import math

import numpy as np
import pytest
import torch

from parfocal.tasks.cox import cox_loss

# time, event, x
TEST_1 = [(1, 1, 1), (1, 0, 1), (6, 1, 1), (6, 1, 0), (8, 0, 0), (9, 1, 0)]


def plain_loss(risk, time, event):
    """Efron's partial likelihood, written as in a textbook."""
    total = 0.0
    for moment in sorted({t for t, e in zip(time, event, strict=True) if e}):
        dying = [r for r, t, e in zip(risk, time, event, strict=True) if e and t == moment]
        at_risk = sum(math.exp(r) for r, t in zip(risk, time, strict=True) if t >= moment)
        for turn, own in enumerate(dying):
            gone = turn / len(dying) * sum(math.exp(each) for each in dying)
            total += own - math.log(at_risk - gone)
    return -total / sum(event)


def test_the_loss_of_equal_risks_is_that_of_r_with_ties():
    time, event, _ = torch.tensor(TEST_1, dtype=torch.float64).T
    loss = cox_loss(torch.zeros(6, dtype=torch.float64), time, event == 1)
    assert loss.item() * 4 == pytest.approx(4.276666, abs=1e-6)


def test_the_loss_is_lowest_at_the_coefficient_of_r():
    time, event, x = torch.tensor(TEST_1, dtype=torch.float64).T
    beta = torch.tensor(1.676857, dtype=torch.float64, requires_grad=True)
    cox_loss(beta * x, time, event == 1).backward()
    assert beta.grad.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_a_plain_version(seed):
    rng = np.random.default_rng(seed)
    risk, time = rng.normal(0, 2, 30), rng.integers(1, 8, 30).astype(float)
    event = rng.random(30) < 0.6
    loss = cox_loss(torch.tensor(risk), torch.tensor(time), torch.tensor(event))
    assert loss.item() == pytest.approx(plain_loss(risk, time, event))


def test_the_gradient_is_that_of_differences():
    time, event, x = torch.tensor(TEST_1, dtype=torch.float64).T
    risk = (0.3 * x + torch.arange(6) / 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: cox_loss(r, time, event == 1), risk)


def test_censored_times_alone_give_no_gradient():
    risk = torch.tensor([1.0, -2.0], requires_grad=True)
    loss = cox_loss(risk, torch.tensor([3.0, 4.0]), torch.tensor([False, False]))
    loss.backward()
    assert loss.item() == 0
    assert risk.grad.tolist() == [0, 0]


@pytest.mark.parametrize("event", [[False, False], [False, True]])
def test_a_loss_without_anything_to_compare_is_not_minus_zero(event: list[bool]):
    loss = cox_loss(torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 4.0]), torch.tensor(event))
    assert f"{loss.item():.3f}" == "0.000"


def test_one_event_among_constant_risks_raises_its_own():
    risk = torch.zeros(4, requires_grad=True)
    loss = cox_loss(risk, torch.tensor([2.0, 1.0, 3.0, 4.0]), torch.tensor([1, 0, 0, 0]) == 1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    torch.testing.assert_close(risk.grad, torch.tensor([-2 / 3, 0, 1 / 3, 1 / 3]))


def test_risks_that_are_far_apart_stay_finite():
    risk = torch.tensor([500.0, -500.0, 0.0], requires_grad=True)
    loss = cox_loss(risk, torch.tensor([1.0, 2.0, 2.0]), torch.tensor([True, True, True]))
    loss.backward()
    assert torch.isfinite(loss)
    assert risk.grad.isfinite().all()
