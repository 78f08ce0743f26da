"""The traits of each model agree with its class, and `Model` does what they say."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import nn

from parfocal.bag import StoredBag
from parfocal.models import MODELS
from parfocal.models.contract import (
    RUN_ARGUMENTS,
    Model,
    ModelTraits,
    keyword_arguments,
    run_model,
    training_loss,
)
from parfocal.prediction import Prediction

RUN = {"in_dim": 4, "num_classes": 2, "num_slides": 3, "magnifications": (5, 10), "patch_size": 8}
METHODS = {
    "own_objective": "objective",
    "follows_progress": "set_progress",
    "uses_teacher": "set_teacher",
    "pretrained": "load_pretrained",
    "adversarial": "set_slide",
    "runs_in_passes": "set_passes",
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("trait", METHODS)
def test_a_trait_that_names_a_method_is_set_exactly_if_the_class_has_it(name, trait):
    model = MODELS[name]
    assert getattr(model.traits, trait) == hasattr(model.module_class, METHODS[trait])


@pytest.mark.parametrize("name", MODELS)
def test_the_run_supplies_exactly_the_arguments_that_are_no_settings(name):
    model = MODELS[name]
    declared = {each.name for each in keyword_arguments(model.module_class)} & {*RUN_ARGUMENTS}
    supplied = model.run_arguments(**RUN).keys() - {"in_dim", "num_classes"}
    assert declared == supplied | ({"generator"} if model.traits.random else set())


@pytest.mark.parametrize("name", MODELS)
def test_settings_that_a_trait_names_exist_exactly_with_the_trait(name):
    model = MODELS[name]
    names = {setting.name for setting in model.settings}
    assert ("skip_unavailable_magnifications" in names) == model.traits.skips_magnifications
    assert ("negative_class" in names) == model.traits.needs_outlines


def test_the_settings_of_a_model_have_names_types_and_defaults():
    class Example(nn.Module):
        def __init__(
            self, in_dim: int, num_classes: int, *, k: int = 3, num_magnifications: int = 2
        ) -> None:
            super().__init__()

    (setting,) = Model(Example).settings
    assert (setting.name, setting.type, setting.default) == ("k", int, 3)


def test_traits_describe_a_model_of_one_bag_by_default():
    traits = ModelTraits()
    assert traits.takes == "features"
    switched_on = [each.name for each in fields(traits) if getattr(traits, each.name) is True]
    assert switched_on == ["fixed_magnifications"]


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[object] = []

    def forward(self, inputs: object) -> Prediction:
        self.inputs.append(inputs)
        return Prediction(torch.tensor([1.0, 3.0]))


def test_a_bag_is_passed_by_itself():
    model, bag = Constant(), StoredBag([torch.zeros(2, 4)])
    run_model(model, [bag])
    assert model.inputs == [bag]


def test_a_model_without_an_objective_is_trained_with_the_loss_of_the_task():
    model, target = Constant(), torch.tensor(0)
    loss = training_loss(model, ModelTraits(), model(None), target, F.cross_entropy)
    assert loss.equal(F.cross_entropy(torch.tensor([1.0, 3.0]), target))


def test_an_objective_of_the_model_replaces_the_loss_of_the_task():
    class Doubled(Constant):
        def objective(self, prediction, target, loss):
            return 2 * loss(prediction.logits, target)

    model, target = Doubled(), torch.tensor(0)
    loss = training_loss(
        model, ModelTraits(own_objective=True), model(None), target, F.cross_entropy
    )
    assert loss.equal(2 * F.cross_entropy(torch.tensor([1.0, 3.0]), target))
