"""Budgets of models that take pixels, and of bags that no budget fits."""

from dataclasses import replace

import pytest

from parfocal.bag import SeparateSlides
from parfocal.cost import CostMeter
from parfocal.features.patient_input import PatientInput
from parfocal.models.budget import Budget, BudgetError
from parfocal.models.checkpoint import Checkpoint, build_model
from parfocal.models.visit import answer, given_budget, with_budget


@pytest.fixture
def sampling(untrained: Checkpoint) -> Checkpoint:
    """A model that takes pixels and samples patches."""
    settings = {
        "num_classes": 2,
        "magnifications": [5.0],
        "patch_size": 32,
        "backbone": "small",
        "thumbnail_px": 32,
        "k": 2,
        "max_patches": None,
        "max_seconds": None,
        "ci_half_width": None,
    }
    model = build_model("jsma", settings).eval()
    return replace(untrained, model=model, model_name="jsma", model_settings=settings, encoders=())


def test_a_model_that_samples_patches_takes_a_budget_as_its_own_limit(sampling: Checkpoint):
    limited = with_budget(sampling, Budget("patches", 7))
    assert limited.model_settings["max_patches"] == 7
    assert limited.budget == Budget("patches", 7)
    assert limited.model.patch_classifier.sampling.max_patches == 7  # type: ignore[union-attr]
    assert limited.settings_hash != sampling.settings_hash
    assert with_budget(sampling, Budget("seconds", 0.5)).model_settings["max_seconds"] == 0.5
    weights, own = (each.model.state_dict() for each in (limited, sampling))
    assert all(weights[name].equal(own[name]) for name in own)


@pytest.mark.parametrize("budget", ["share=5%", "macs=5G", "settled"])
def test_a_model_that_takes_pixels_refuses_other_budgets(sampling: Checkpoint, budget: str):
    expected = (
        "jsma takes pixels and cannot follow this budget; its budgets are patches and seconds, and "
        "its own stopping rule is the setting model.ci_half_width."
    )
    with pytest.raises(BudgetError, match=expected):
        given_budget(sampling, budget)


def test_a_model_without_limits_has_no_budget(sampling: Checkpoint):
    settings = {"num_classes": 2, "early_exit_patience": 0}
    magnet = replace(sampling, model_name="magnet", model_settings=settings)
    expected = r"it has no budget, and its own stopping rule is .*model\.early_exit_patience\."
    with pytest.raises(BudgetError, match=expected):
        given_budget(magnet, "patches=5")
    plain = replace(sampling, model_name="meanrgb", model_settings={"num_classes": 2})
    with pytest.raises(BudgetError, match=r"it has no budget\.$"):
        given_budget(plain, "patches=5")


def test_slides_of_a_patient_that_are_answered_one_by_one_have_no_budget(
    untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
):
    limited = given_budget(untrained, "patches=5")
    joined = SeparateSlides((), "mean", lambda _: None)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(PatientInput, "sharpest", None)  # there is no slide to ask
    slide = PatientInput((), (), joined, CostMeter())
    with pytest.raises(BudgetError, match="no order of visits"):
        answer(limited, slide)
