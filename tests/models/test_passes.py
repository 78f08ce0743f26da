"""A batch in passes equals the whole batch: output, gradients, running statistics, generators."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor, nn

from parfocal.models import MODELS, AttentionSampling, JointAttention, MagNet, MeanRGB
from parfocal.models.contract import RunsInPasses, training_loss
from parfocal.models.layers.backbone import Backbone
from parfocal.models.layers.passes import Passes
from sources import picture, source

SIZES = ((96, 64), (64, 96), (96, 64), (80, 80), (64, 64))
TARGET = torch.tensor([0, 1, 1, 0, 1])
PASSES = [Passes(slides, True) for slides in (None, 1, 2, 3, 99)] + [Passes(2)]


def magnet(generator: torch.Generator, **settings: object) -> MagNet:
    light = {"picture_px": 14, "leaf_px": 32, "hidden_dim": 8, "patches": (2, 2)}
    light |= {"backbone": "small", "auxiliary_backbone": "small", **settings}
    return MagNet(2, **light, generator=generator)


def jsma(generator: torch.Generator, **settings: object) -> JointAttention:
    light = {"magnifications": (5.0, 10.0), "patch_size": 16, "thumbnail_px": 32, "k": 3}
    light |= {"backbone": "small", **settings}
    return JointAttention(2, **light, generator=generator)


def attentionsampling(generator: torch.Generator, **settings: object) -> AttentionSampling:
    light = {"patch_size": 16, "thumbnail_px": 12, "k": 3, "dropout": 0.5, **settings}
    return AttentionSampling(2, **light, generator=generator)


def meanrgb(generator: torch.Generator) -> MeanRGB:
    return MeanRGB(2, thumbnail_px=28, bins=2)


def outcome(build, passes: Passes | None, **settings: object) -> dict[str, Tensor]:
    """Train a model for two steps of one batch, and return all that may have changed."""
    name = build.__name__
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(3)
    model = build(generator, **settings).train()
    if passes is not None:
        assert isinstance(model, RunsInPasses)
        model.set_passes(passes)
    slides = [source(picture(*size, seed=seed)) for seed, size in enumerate(SIZES)]
    found: dict[str, Tensor] = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        prediction = model(slides)
        loss = training_loss(model, MODELS[name].traits, prediction, TARGET, F.cross_entropy)
        loss.backward()
        gradients = {key: weight.grad for key, weight in model.named_parameters()}
        found |= {f"{step} {key}": grad for key, grad in gradients.items() if grad is not None}
        found |= {f"{step} logits": prediction.logits.detach(), f"{step} loss": loss.detach()}
        optimizer.step()
    found |= {f"buffer {key}": value for key, value in model.named_buffers()}
    found |= {"generator": generator.get_state(), "global": torch.get_rng_state()}
    for each in slides:
        each.close()
    return found


def assert_equal_to_rounding(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    floats = [key for key, value in expected.items() if value.is_floating_point()]
    largest = max(float(expected[key].abs().max()) for key in floats)
    assert math.isfinite(largest)
    for key, value in expected.items():
        if key not in floats:  # generators and counts of batches
            assert torch.equal(found[key], value), key
            continue
        # The gradient of a bias before a batch norm is 0 except for rounding.
        tolerance = 2e-4 * float(value.abs().max()) + 5e-5 * largest
        assert float((found[key] - value).abs().max()) <= tolerance, key


STEM = {"backbone": "efficientnet-lite0-stem"}
CASES = [
    (magnet, {}),
    (magnet, {"hindsight": 0.3, "fixed_bias": False}),
    (magnet, {**STEM, "auxiliary_backbone": "efficientnet-lite0-stem"}),
    (jsma, {}),
    (jsma, STEM),
    (jsma, {"freeze_backbone": True}),
    (attentionsampling, {}),
    (attentionsampling, STEM),
]


def case_name(case: object) -> str:
    return getattr(case, "__name__", None) or ",".join(case) or "default"


@pytest.mark.parametrize(("build", "settings"), CASES, ids=case_name)
def test_passes_change_nothing_but_rounding(build, settings):
    whole = outcome(build, None, **settings)
    for passes in PASSES:
        assert_equal_to_rounding(outcome(build, passes, **settings), whole)


def test_statistics_of_a_part_would_be_noticed(monkeypatch):
    settings = {**STEM, "auxiliary_backbone": None}
    whole = outcome(magnet, None, **settings)
    monkeypatch.setattr(Backbone, "forward", norm_of_each_part)
    parts = outcome(magnet, Passes(2, True), **settings)
    with pytest.raises(AssertionError, match="weight"):
        assert_equal_to_rounding(parts, whole)


def norm_of_each_part(backbone: Backbone, images: Tensor) -> Tensor:
    return backbone._run(lambda part: backbone.network.norm(backbone._pooled(part)), images)


def test_mean_rgb_of_slides_one_by_one_sums_to_the_gradient_of_the_batch():
    whole, parts = outcome(meanrgb, None)["0 classifier.weight"], []
    for seed, size in enumerate(SIZES):
        torch.manual_seed(5)
        model, slide = meanrgb(torch.Generator()), source(picture(*size, seed=seed))
        F.cross_entropy(model([slide]).logits, TARGET[seed : seed + 1]).backward()
        parts.append(model.classifier.weight.grad)
        slide.close()
    torch.testing.assert_close(torch.stack(parts).mean(dim=0), whole)


class Coupled(nn.Module):
    """A network like some of timm: batch norms of other kinds, and random layers."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3, stride=2), nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.conv(x).mean((2, 3))))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.dropout(self.conv(x))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("build", [magnet, jsma, attentionsampling])
def test_networks_of_timm_with_other_norms_and_random_layers_are_run_alike(
    build, rate, monkeypatch
):
    def load(name: str, **_: object) -> object:
        return type(
            "Loaded",
            (),
            {"network": Coupled(rate), "dim": 5, "mean": (0.5,) * 3, "std": (0.5,) * 3},
        )

    monkeypatch.setattr("parfocal.models.layers.backbone.load_timm", load)
    settings = {"backbone": "timm:any"}
    if build is magnet:
        settings["auxiliary_backbone"] = "timm:any"
    whole = outcome(build, None, **settings)
    for passes in PASSES:
        assert_equal_to_rounding(outcome(build, passes, **settings), whole)


@pytest.mark.parametrize("build", [magnet, jsma, attentionsampling])
def test_gradient_checkpointing_keeps_less_than_the_networks(build):
    step = build(torch.Generator()).step_memory()
    assert all(network.activations > 0 for network in step.networks)
    parts, whole = (step.total(40, Passes(slides, True)) for slides in (1, None))
    assert parts < whole < step.total(40, Passes())


@pytest.mark.parametrize("build", [magnet, jsma, attentionsampling])
def test_measuring_memory_changes_nothing(build):
    model = build(torch.Generator())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    model.step_memory()
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(weight.grad is None for weight in model.parameters())
