"""Run a trained model on one slide within its budget.

Without a budget, the model is run once, as ever. With one, its bag is wrapped, so that it asks
which of the patches it wants may be visited (`parfocal.models.layers.choosing`).
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from parfocal.bag import Bag, ModelInput
from parfocal.cost import CostMeter
from parfocal.features.slide_input import SlideInput
from parfocal.models.allowance import Allowance, Tariff
from parfocal.models.budget import SETTLED, Budget, BudgetError, parse_budget
from parfocal.models.checkpoint import Checkpoint, build_model
from parfocal.models.contract import run_model
from parfocal.models.ensemble import each_member
from parfocal.models.limited_bag import LimitedBag, Visited
from parfocal.models.rounds import Deadline, Rounds, RunModel
from parfocal.models.stopping import StoppingRule
from parfocal.models.unit import Unit
from parfocal.prediction import Prediction

logger = logging.getLogger(__name__)

ONE_CLASS = ("classification", "ordinal")  # tasks with one class per slide
NO_CLASS = (
    "the model does not predict one class per slide, so there is no class that could settle; "
    "predict with a fixed budget, such as --budget share=5%."
)
COUNTS_ENCODING = ("seconds", "macs")  # units of budgets
NO_RULE = StoppingRule((), 1, 0.0)  # for a model that is refused
# Settings of models that take pixels and sample patches until a limit.
PIXEL_LIMITS = {"patches": "max_patches", "seconds": "max_seconds"}
PIXEL_RULES = ("ci_half_width", "early_exit_patience")  # their settings with a stopping rule


@runtime_checkable
class EncodesPatches(Protocol):
    """The input of a slide whose patches are encoded as they are visited."""

    @property
    def macs_per_patch(self) -> tuple[int | None, ...]:
        """Multiply-accumulates of encoding a patch of each magnification; empty if stored."""


@dataclass(frozen=True)
class Visit:
    """The prediction for a slide, and a way to visit the rest.

    Args:
        prediction: the prediction within the budget.
        finish: visits what the rule left out, and returns the answer with the full budget; None if
            there is no rule.
    """

    prediction: Prediction
    finish: Callable[[], Prediction] | None = None


def answer(
    trained: Checkpoint,
    slide_input: SlideInput,
    model_input: ModelInput | None = None,
    *,
    models_left: int = 1,
) -> Visit:
    """Run a trained model on one slide, within its budget if it has one.

    Args:
        trained: the model.
        slide_input: the slide.
        model_input: what the model is called with, such as a wrapped bag; None for that of
            `slide_input`.
        models_left: number of models, this one included, that have equal parts of the seconds that
            are left of a budget.

    Raises:
        BudgetError: the budget cannot be followed on this slide.
    """
    given = slide_input.model_input if model_input is None else model_input
    run, limit = runner(trained, slide_input), trained.budget
    if limit is None:
        return Visit(run(given))
    if trained.traits.takes_pixels:
        assert isinstance(limit, Budget)
        return Visit(_sampled_within(limit, given, run))
    if not isinstance(given, Bag):
        raise _fused(budget_text(limit))
    if isinstance(limit, StoppingRule):
        rounds = Rounds(run, given, round_patches=limit.round_patches)
        prediction = rounds.until(limit)
        _require_rounds(trained, rounds)
        return Visit(prediction, rounds.finish)
    if limit.unit != "seconds":
        return Visit(_within(trained, limit, slide_input, given, run))
    rounds = Rounds(run, given, random_seed=limit.random_seed)
    prediction = _until_deadline(rounds, limit.amount, slide_input.cost_meter, models_left)
    _require_rounds(trained, rounds)
    return Visit(prediction)


def runner(trained: Checkpoint, slide_input: SlideInput) -> Callable[[ModelInput], Prediction]:
    """Return a function that runs a model on an input of a slide, with its covariates."""

    def run(given: ModelInput) -> Prediction:
        covariates = slide_input.covariates
        rows = None if covariates is None else covariates[None]
        (prediction,) = run_model(trained.model, [given], covariates=rows).slides
        return prediction

    return run


def with_budget(trained: Checkpoint, budget: Budget | StoppingRule) -> Checkpoint:
    """Return a model that follows a budget.

    Raises:
        BudgetError: the model cannot follow it.
    """
    name, traits = trained.model_name, trained.traits
    if traits.takes_pixels:
        return _with_pixel_budget(trained, budget)
    if not traits.zooms or len(trained.magnifications) == 1:
        raise BudgetError(
            f"model {name} visits every patch, so it has no budget; use the run of a model that "
            "zooms, or predict without --budget."
        )
    return replace(trained, budget=budget)


def budget_text(budget: Budget | StoppingRule) -> str:
    """Return a budget as `--budget` takes it."""
    return SETTLED if isinstance(budget, StoppingRule) else str(budget)


def given_budget(
    trained: Checkpoint, budget: str | Budget | None, *, stored: bool = False
) -> Checkpoint:
    """Return a model that follows the budget of a text such as `share=5%` or `settled`.

    Args:
        trained: the model.
        budget: the budget; None for what the model visits by itself.
        stored: whether features are read from files, so that nothing is encoded.

    Raises:
        BudgetError: the text is not a budget, or the model cannot follow it.
    """
    if budget is None:
        return trained
    if trained.members:
        return each_member(trained, lambda member: given_budget(member, budget, stored=stored))
    parsed = parse_budget(budget) if isinstance(budget, str) else budget
    following = with_budget(trained, parsed or NO_RULE)
    if stored and parsed is not None and parsed.unit in COUNTS_ENCODING:
        raise BudgetError(_of_stored(str(parsed)))
    if parsed is None:
        return replace(following, budget=stored_rule(trained))
    return following


def refuse_fused(unit: Unit, budget: str | Budget | None) -> None:
    """Refuse a budget for patients whose slides are predicted one by one.

    Raises:
        BudgetError: the predictions for the slides of a patient are fused.
    """
    if budget is not None and unit.fusion is not None:
        raise _fused(budget)


def has_one_class(trained: Checkpoint) -> bool:
    """Return whether a model predicts one of several classes for a slide."""
    return trained.task is None or trained.task.get("name") in ONE_CLASS


def stored_rule(trained: Checkpoint) -> StoppingRule:
    """Return the rule that was calibrated for a model.

    Raises:
        BudgetError: there is none.
    """
    if trained.stopping is None and not has_one_class(trained):
        raise BudgetError(f"budget settled: {NO_CLASS}")
    if trained.stopping is None:
        raise BudgetError(
            "budget settled: the run has no stopping rule; make one on its validation slides with "
            "`parfocal calibrate RUN COHORT`, or give a fixed budget such as share=5%."
        )
    now = zoom_counts(trained)
    if trained.stopping.k and trained.stopping.k != now:
        raise BudgetError(
            f"budget settled: the rule was calibrated for {_k_text(trained.stopping.k)}, and the "
            f"model now has {_k_text(now)}; leave model.k as it was, or give a fixed budget, such "
            "as share=5%."
        )
    if not trained.stopping.can_stop:
        logger.warning(
            "budget settled: by the rule of the run, no class ever settles, so all rounds are "
            "visited; calibrate it on more slides, or give a fixed budget such as share=5%."
        )
    return trained.stopping


def _with_pixel_budget(trained: Checkpoint, budget: Budget | StoppingRule) -> Checkpoint:
    """Return a model that takes pixels with the setting that limits it."""
    unit = SETTLED if isinstance(budget, StoppingRule) else budget.unit
    setting = PIXEL_LIMITS.get(unit)
    if setting is None or setting not in trained.model_settings:
        raise BudgetError(_of_pixels(trained))
    assert isinstance(budget, Budget)
    amount = int(budget.amount) if unit == "patches" else budget.amount
    settings = {**trained.model_settings, setting: amount}
    model = build_model(trained.model_name, settings)
    model.load_state_dict(trained.model.state_dict())
    return replace(trained, model=model.eval(), model_settings=settings, budget=budget)


def _sampled_within(
    budget: Budget, given: ModelInput, run: Callable[[ModelInput], Prediction]
) -> Prediction:
    """Run a model that samples patches until a limit, which is its budget.

    A limit in patches is never exceeded. One in seconds can be, as it is checked after k patches.
    """
    started = time.perf_counter()
    prediction = run(given)
    seconds = time.perf_counter() - started
    return replace(prediction, budget_met=budget.unit == "patches" or seconds <= budget.amount)


def _within(
    trained: Checkpoint, budget: Budget, slide_input: SlideInput, bag: Bag, run: RunModel
) -> Prediction:
    """Run a model once, on as many patches as fit into a budget."""
    steps = len(trained.magnifications)
    if budget.unit == "macs":
        amount, prices = budget.amount, _macs_per_patch(budget, slide_input, steps)
    else:
        amount, prices = _patch_limit(budget, slide_input), (1.0,) * steps
    counts = zoom_counts(trained) or (1,) * (steps - 1)
    allowance = Allowance(
        amount,
        Tariff.of_zooms(prices, counts, trained.magnifications),
        random_seed=budget.random_seed,
    )
    prediction = run(LimitedBag(bag, allowance, Visited()))
    if not allowance.spent:
        raise _unlimited(trained)
    if not allowance.met:
        times = allowance.lowest / allowance.amount
        factor = f"{times:.3g}" if times < 100 else f"{times:,.0f}"
        reason = (
            f"the budget {budget} was not met: the lowest magnification alone costs {factor} times "
            "as much"
        )
    elif allowance.wants_more:
        zoomed = any(len(look.rows) for look in prediction.looks[1:])
        where = "" if zoomed else " on the lowest magnification"
        reason = f"the budget {budget} was spent{where}"
    else:
        reason = "every patch was visited"
    return replace(prediction, stop_reason=reason, budget_met=allowance.met)


def _until_deadline(
    rounds: Rounds, seconds: float, meter: CostMeter, models_left: int
) -> Prediction:
    """Visit rounds in an equal part of the seconds that are left for all models."""
    elapsed = meter.elapsed()
    end = min(seconds, elapsed + (seconds - elapsed) / models_left)  # which may be in the past
    prediction = rounds.until(Deadline(end, meter.elapsed))
    return replace(prediction, budget_met=meter.elapsed() <= seconds)


def _patch_limit(budget: Budget, slide_input: SlideInput) -> float:
    if budget.unit == "patches":
        return budget.amount
    sharpest = slide_input.sharpest
    if sharpest is None:
        raise BudgetError(
            f"budget {budget}: the number of patches of this slide at the highest magnification is "
            "unknown, because the features have a higher one; give patches=N instead."
        )
    return budget.amount * sharpest.patches


def _macs_per_patch(budget: Budget, slide_input: SlideInput, steps: int) -> tuple[float, ...]:
    known = slide_input.macs_per_patch if isinstance(slide_input, EncodesPatches) else ()
    if len(known) != steps:
        raise BudgetError(_of_stored(str(budget)))
    counts = [each for each in known if each is not None]
    if len(counts) != steps:
        raise BudgetError(
            f"budget {budget}: the encoder does not report its multiply-accumulates; give "
            "patches=N or share=P%."
        )
    return tuple(float(each) for each in counts)


def zoom_counts(trained: Checkpoint) -> tuple[int, ...]:
    """Return how many patches a model zooms into by itself, at each zoom; empty if it is not K."""
    k, zooms = trained.model_settings.get("k"), len(trained.magnifications) - 1
    if isinstance(k, int):
        return (k,) * zooms
    return tuple(int(each) for each in k) if isinstance(k, list) and len(k) == zooms else ()


def _k_text(k: Sequence[int]) -> str:
    return f"k={','.join(map(str, k))}"


def _require_rounds(trained: Checkpoint, rounds: Rounds) -> None:
    if not rounds.asked:
        raise _unlimited(trained)


def _of_pixels(trained: Checkpoint) -> str:
    """Return why a model that takes pixels cannot follow a budget, and what it has instead."""
    budgets = [unit for unit, setting in PIXEL_LIMITS.items() if setting in trained.model_settings]
    rules = [f"model.{each}" for each in PIXEL_RULES if each in trained.model_settings]
    text = f"its budgets are {' and '.join(budgets)}" if budgets else "it has no budget"
    if rules:
        text = f"{text}, and its own stopping rule is the setting {rules[0]}"
    return f"model {trained.model_name} takes pixels and cannot follow this budget; {text}."


def _of_stored(budget: str) -> str:
    return (
        f"budget {budget}: it counts the encoding of patches, and stored features are already "
        "encoded; give patches=N or share=P%, or leave --features out."
    )


def _fused(budget: str | Budget) -> BudgetError:
    return BudgetError(
        f"budget {budget}: the model answers for each slide of a patient by itself (train.fusion), "
        "so a patient has no order of visits; leave --budget out."
    )


def _unlimited(trained: Checkpoint) -> BudgetError:
    return BudgetError(
        f"model {trained.model_name} does not ask its bag what to visit, so it cannot follow a "
        "budget; its forward has to call `parfocal.models.layers.choosing.choose`."
    )
