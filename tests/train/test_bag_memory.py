"""A training whose largest bag of features does not fit into memory is refused before it starts."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from parfocal.bag import Bag
from parfocal.dataset.cohort import CohortSlide
from parfocal.models import MODELS
from parfocal.models.checkpoint import build_model
from parfocal.prediction import Prediction
from parfocal.settings import load_settings
from parfocal.train import RunError, bag_memory, train
from parfocal.train.bag_memory import bytes_per_patch, refuse_large_bags

GB = 10**9
FEATURE_MODELS = [name for name, model in MODELS.items() if model.traits.takes_features]


@dataclass(frozen=True)
class Counted:
    """Inputs of which only the numbers of patches are known."""

    patches: dict[str, tuple[int, ...]]

    def count_patches(self, slide: CohortSlide) -> tuple[int, ...]:
        return self.patches[slide.slide_id]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measure on small bags."""
    monkeypatch.setattr(bag_memory, "PROBE_PATCHES", 256)


@pytest.fixture
def free(monkeypatch):
    """Set the memory that is free."""

    def set_free(size: float) -> None:
        monkeypatch.setattr(bag_memory, "memory_in_use", lambda _: GB)
        monkeypatch.setattr(bag_memory, "available_memory", lambda _: GB + round(size))

    return set_free


def build(name: str, in_dim: int, magnifications: int = 1) -> torch.nn.Module:
    traits = MODELS[name].traits
    arguments = {"in_dim": in_dim, "num_classes": 2}
    if traits.multiple_magnifications:
        arguments["num_magnifications"] = magnifications
    if traits.adversarial:
        arguments["num_slides"] = 3
    return build_model(name, arguments)


def slides(*names: str) -> list[CohortSlide]:
    return [
        CohortSlide(name, Path(f"{name}.svs"), "a", name, row) for row, name in enumerate(names, 2)
    ]


def check(name: str, patches: dict[str, tuple[int, ...]], in_dim: int = 1536) -> None:
    refuse_large_bags(
        slides(*patches),
        Counted(patches),
        lambda: build(name, in_dim),
        in_dims=[in_dim],
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("name", ["transmil", "clam"])
def test_a_million_patches_are_refused_with_the_slide_and_what_to_do(free, name):
    free(8 * GB)
    message = (
        r"^slide large: 1,000,000 patches of 1536 features need about [0-9.]+ GB in a training "
        r"step, and 8\.0 GB are free\. Train at a lower magnification .* remove the slide, or "
    )
    with pytest.raises(RunError, match=message):
        check(name, {"small": (1000,), "large": (1_000_000,)})


def test_slides_that_fit_are_not_refused(free):
    free(8 * GB)
    check("transmil", {"small": (1000,), "larger": (20_000,)})


def test_few_patches_are_not_measured(free):
    free(8 * GB)
    refuse_large_bags(
        slides("small"),
        Counted({"small": (1000,)}),
        lambda: pytest.fail("a model was built"),
        in_dims=[1536],
        device=torch.device("cpu"),
    )


def test_a_zooming_model_needs_memory_for_its_lowest_magnification_alone():
    model = build("zoommil", 64, magnifications=2)
    few, many = (bytes_per_patch(model, [64, 64], [times]) for times in (4, 16))
    assert few == pytest.approx(many, rel=0.5)


class Embedding(torch.nn.Module):
    """Keeps the features (for the gradient of the weights) and the output of ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, bag: Bag) -> Prediction:
        return Prediction(self.linear(bag.features()).relu().mean(0), looks=())


def test_the_bytes_of_a_linear_layer_and_relu_are_counted():
    kept = bytes_per_patch(Embedding(), [64], []) / bag_memory.PEAK_FACTOR
    assert kept == pytest.approx((64 + 10) * 4, rel=0.01)


@pytest.mark.parametrize("name", FEATURE_MODELS)
def test_every_model_of_features_is_measured_and_the_generator_is_left_alone(name):
    two = name in ("topk", "coarse-student")  # which need two magnifications
    model = build(name, 64, magnifications=2 if two else 1)
    state = torch.get_rng_state()
    assert bytes_per_patch(model, [64, 64] if two else [64], [4] if two else []) >= 64 * 4
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_on_stored_features_is_refused_and_leaves_no_folder(cohort, free):
    free(1000)
    features, out = cohort.source.parent / "features", cohort.source.parent / "run"
    settings = load_settings(
        "zoommil",
        overrides=["slide.magnifications=[2.5, 5]", "slide.patch_size=16", "encoder.name=tiny"],
    )
    with pytest.raises(RunError, match=r"^slide \w+: \d+ and \d+ patches of 32 features need"):
        train(cohort, settings, out, features=features, device="cpu", progress=False)
    assert not out.exists()
