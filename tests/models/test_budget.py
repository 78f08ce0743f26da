"""Budgets: what they are, and how they are spent."""

import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.models.allowance import Allowance, Tariff
from parfocal.models.budget import Budget, BudgetError, parse_budget
from parfocal.models.limited_bag import LimitedBag, Visited
from parfocal.models.zoommil import ZoomMIL
from parfocal.prediction import Prediction

MAGNIFICATIONS = (2.5, 5.0, 10.0)


def painted_bag(seed: int = 0, roots: int = 9) -> StoredBag:
    """Return a bag of three magnifications with some patches that do not exist."""
    generator = torch.Generator().manual_seed(seed)
    counts = (roots, 4 * roots, 16 * roots)
    tables = [torch.randn(count, 6, generator=generator) for count in counts]
    exists = torch.rand(counts[2], generator=generator) < 0.8
    exists[::16] = True
    middle = exists.view(counts[1], 4).any(dim=1)
    valid = [middle.view(roots, 4).any(dim=1), middle, exists]
    for table, each in zip(tables, valid, strict=True):
        table[~each] = 0
    return StoredBag(tables, valid=valid)


def zooming_model(**settings: object) -> ZoomMIL:
    """Return a small model with random weights."""
    torch.manual_seed(0)
    model = ZoomMIL(6, 2, dim=8, **{"k": 3, **settings})  # type: ignore[arg-type]
    return model.eval()


def visit(amount: float, *, prices: tuple[float, ...] = (1, 1, 1), seed: int | None = None):
    """Return the prediction and the allowance of a budget."""
    allowance = Allowance(amount, Tariff.of_zooms(prices, (3, 3), MAGNIFICATIONS), random_seed=seed)
    with torch.no_grad():
        prediction = zooming_model()(LimitedBag(painted_bag(), allowance, Visited()))
    return prediction, allowance


def num_visited(prediction: Prediction) -> list[int]:
    """Return the number of existing patches at each magnification."""
    bag, counts = painted_bag(), []
    valid = [painted_bag()._valid[step] for step in range(3)]  # type: ignore[index]
    for step, look in enumerate(prediction.looks):
        counts.append(int(valid[step][look.rows].sum()))
    assert bag.rows.tolist() == prediction.looks[0].rows.tolist()
    return counts


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("patches=100", Budget("patches", 100)),
        ("share=5%", Budget("share", 0.05)),
        ("share = 5", Budget("share", 0.05)),
        ("share=0.5%", Budget("share", 0.005)),
        ("seconds=0.5", Budget("seconds", 0.5)),
        ("macs=5e9", Budget("macs", 5e9)),
        ("macs=1.5T", Budget("macs", 1.5e12)),
        ("macs=12345M", Budget("macs", 12345e6)),
        ("patches=1234567", Budget("patches", 1234567)),
        ("share=33.333331%", Budget("share", 0.33333331)),
        ("share=7", Budget("share", 0.07)),
        ("settled", None),
    ],
)
def test_a_budget_is_parsed(text: str, budget: Budget | None):
    assert parse_budget(text) == budget
    assert budget is None or parse_budget(str(budget)) == budget


@pytest.mark.parametrize("text", ["macs=15G", "macs=1.5T", "macs=123.456M", "macs=2k", "macs=7"])
def test_macs_are_printed_with_the_largest_prefix_that_fits(text: str):
    assert str(parse_budget(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patches=0", "patches=0: a budget is more than 0"),
        ("share=101", "share=101%: a share of the patches is at most 100%"),
        ("share=-5%", "share=-5%: a budget is more than 0"),
        ("share=0.05", "a share is in percent; write share=5% or share=0.05%"),
        ("share=5%,patches=100", "budgets cannot be combined; give only one"),
        ("dollars=5", "'dollars' is not a unit; write patches=100, share=5%, seconds=2"),
        ("100", "'100': it has no unit"),
        ("", "'': it has no unit; write .*macs=50G or settled"),
        (
            "macs=50g",
            "'50g' is not a finite number; write macs=50G, with the prefix k, M, G, T",
        ),
        ("patches=many", "'many' is not a finite number; write patches=100"),
        ("patches=1.5", "give a whole number of patches, such as patches=100"),
        ("patches=inf", "'inf' is not a finite number; write patches=100"),
        ("patches=1e400", "patches=1e400': '1e400' is not a finite number"),
        ("seconds=2m", "'2m' is not a finite number; write seconds=2, without a unit"),
        ("patches=", "it has no number; write patches=100"),
        ("macs=1e308T", "macs=inf: use a finite number, such as macs=50G"),
        ("seconds=nan", "'nan' is not a finite number; write seconds=2"),
        ("settled=1", "budget 'settled=1': settled takes no value; write settled"),
        ("macs=inf", "'inf' is not a finite number; write macs=50G"),
    ],
)
def test_an_invalid_budget_is_refused(text: str, message: str):
    with pytest.raises(BudgetError, match=message):
        parse_budget(text)


def test_a_budget_is_never_exceeded_and_what_it_visits_grows_with_it():
    before = 0
    for amount in range(9, 200, 7):
        prediction, allowance = visit(amount)
        visited = sum(num_visited(prediction))
        assert visited == allowance.spent <= amount
        assert visited >= before - 16  # one parent more in the middle may cost one at the end
        before = visited
    assert not allowance.wants_more  # the last budget is more than the whole slide


def test_all_budgets_together_visit_every_patch_at_most_once():
    prediction, allowance = visit(1e6)
    everything = [int(each.sum()) for each in painted_bag()._valid]  # type: ignore[union-attr]
    assert num_visited(prediction) == everything
    assert allowance.spent == sum(everything)


def test_a_budget_below_the_lowest_magnification_is_not_met():
    prediction, allowance = visit(8)
    assert not allowance.met
    assert len(prediction.looks) == 1
    assert prediction.looks[0].selected is None


def test_the_patches_that_the_model_wants_most_are_visited_first():
    prediction, _ = visit(60)
    first = prediction.looks[0]
    assert first.selected is not None
    assert first.zoom_attention is not None
    chosen = first.zoom_attention[first.selected]
    others = torch.ones(len(first.rows), dtype=torch.bool)
    others[first.selected] = False
    assert chosen.min() >= first.zoom_attention[others].max()


def test_a_random_order_is_the_same_each_time_and_not_that_of_the_model():
    chosen = [visit(60, seed=seed)[0].looks[0].selected for seed in (0, 0, 1, 2)]
    assert torch.equal(chosen[0], chosen[1])  # type: ignore[arg-type]
    assert len({tuple(each.tolist()) for each in chosen}) > 1  # type: ignore[union-attr]


def test_prices_count_what_a_patch_of_each_magnification_costs():
    prediction, allowance = visit(500, prices=(1.0, 2.0, 10.0))
    counts = num_visited(prediction)
    assert allowance.spent == counts[0] + 2 * counts[1] + 10 * counts[2] <= 500
