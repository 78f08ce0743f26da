"""MagNet: its tree of squares, its losses, its early exit, and that it learns."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor

from parfocal.features.pixels import SlidePixels
from parfocal.models.magnet import MagNet
from parfocal.prediction import Prediction
from parfocal.slide.errors import NoTissueError
from parfocal.slide.slide import slide_from_array
from parfocal.slide.tissue import Tissue

LIGHT = {
    "backbone": "small",
    "auxiliary_backbone": "small",
    "picture_px": 28,
    "leaf_px": 32,
    "hidden_dim": 16,
}


@pytest.fixture
def source():
    """Make pixel sources from arrays, and close them after the test."""
    made = []

    def make(pixels: np.ndarray) -> SlidePixels:
        everywhere = Tissue(np.ones((1, 1), dtype=bool), 1.0, (1, 1), 1.0, (1.0,))
        made.append(SlidePixels(slide_from_array(pixels, mpp=1.0), everywhere))
        return made[-1]

    yield make
    for each in made:
        each.close()


def painted(seed: int, *, lesion: bool = False, size: tuple[int, int] = (256, 256)) -> np.ndarray:
    """Paint speckled pink tissue, with a darker lesion on request."""
    draw = np.random.default_rng(seed)
    speckled = draw.random((size[1] // 8, size[0] // 8)) < 0.3

    def stained(spots, ground):
        return np.where(speckled[..., None], spots, ground).astype(np.uint8)

    pixels = stained((170, 80, 150), (220, 150, 190))
    if lesion:
        across, down = draw.integers(2, np.array(size) // 16 - 2)
        place = np.s_[down : down + size[1] // 32 * 2, across : across + size[0] // 32 * 2]
        pixels[place] = stained((60, 20, 120), (120, 60, 170))[place]
    return pixels.repeat(8, axis=0).repeat(8, axis=1)


def magnet(**settings) -> MagNet:
    torch.manual_seed(0)
    return MagNet(2, **{**LIGHT, **settings})


def with_small_squares(model: MagNet) -> MagNet:
    """Make squares small and different from each other, as training does."""
    for layer in model.search.layers:
        layer.logit_scale = 500.0
    return model


def test_two_three_and_three_squares_make_18_leaves_of_26_stacks_or_24_with_frozen_ones(source):
    model = magnet(patches=(2, 3, 3), frozen_patch=False)
    assert [layer.stacks for layer in model.search.layers] == [2, 6, 18]
    assert [layer.stacks for layer in magnet(patches=(2, 3, 3)).search.layers] == [2, 4, 18]
    (slide,) = model.eval()([source(painted(0))]).slides
    assert [len(look.rows) for look in slide.looks] == [1, 2, 6, 18]


def test_looks_contain_the_position_parent_and_resolution_of_each_square(source):
    model = with_small_squares(magnet(patches=(2, 2))).eval()
    (slide,) = model([source(painted(0, size=(320, 256)))]).slides
    whole, first, leaves = (look.places for look in slide.looks)
    assert whole.boxes.tolist() == [[0, -32, 320, 320]]
    assert whole.mpps.tolist() == pytest.approx([320 / 28])
    assert first.parents.tolist() == [0, 0]
    assert leaves.parents.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(leaves.mpps, leaves.boxes[:, 2] / 32)


def test_the_frozen_square_of_the_second_layer_is_equal_to_its_parent(source):
    (slide,) = with_small_squares(magnet(patches=(2, 2))).eval()([source(painted(0))]).slides
    _, first, leaves = (look.places.boxes for look in slide.looks)
    torch.testing.assert_close(leaves[::2], first)
    assert not torch.allclose(leaves[1::2], first)


@pytest.mark.parametrize(("nested_gradient", "reaches"), [("chain", True), ("detached", False)])
def test_the_gradient_of_a_square_reaches_its_parent_only_with_chain(
    source, nested_gradient, reaches
):
    model = magnet(patches=(2, 2), nested_gradient=nested_gradient)
    frozen = model.search([source(painted(0))]).squares[2][:, 0]
    weight = model.search.layers[0].score.weight
    (gradient,) = torch.autograd.grad(frozen[:, 1].sum(), weight)
    assert bool(gradient.any()) == reaches


@pytest.mark.parametrize("sampler", ["linearized", "bilinear"])
@pytest.mark.parametrize("nested_gradient", ["chain", "detached"])
def test_every_stack_gets_a_gradient(source, sampler, nested_gradient):
    model = magnet(patches=(2, 2, 2), sampler=sampler, nested_gradient=nested_gradient)
    prediction = model([source(painted(seed, lesion=seed == 1)) for seed in range(2)])
    model.objective(prediction, torch.tensor([0, 1]), F.cross_entropy).backward()
    for layer in model.search.layers:
        assert (layer.score.weight.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_a_prediction_does_not_depend_on_the_other_slides_of_its_batch(source):
    model = with_small_squares(magnet(patches=(2, 2))).eval()
    slides = [source(painted(seed)) for seed in range(3)]
    torch.testing.assert_close(model(slides).logits[1:2], model(slides[1:2]).logits)


def test_the_same_generator_gives_the_same_gradients(source):
    slide, gradients = source(painted(0)), []
    for _ in range(2):
        model = magnet(patches=(2, 2), generator=torch.Generator().manual_seed(3))
        model.objective(model([slide]), torch.tensor([1]), F.cross_entropy).backward()
        gradients.append(model.search.layers[0].score.weight.grad)
    assert torch.equal(*gradients)


def test_the_last_running_probabilities_are_those_of_the_prediction(source):
    prediction = magnet(patches=(2, 2)).eval()([source(painted(0))])
    (slide,) = prediction.slides
    torch.testing.assert_close(slide.running[-1], prediction.logits[0].softmax(dim=0))
    predicted = int(prediction.logits[0].argmax())
    assert torch.equal(slide.looks[-1].score, slide.running[:, predicted])


def test_early_exit_skips_leaves_once_the_probabilities_are_stable(source):
    slide, model = source(painted(0)), magnet(patches=(2, 2, 2), early_exit_patience=1).eval()
    torch.nn.init.zeros_(model.aggregator.classifier[-1].weight)  # constant probabilities
    (early,) = model([slide]).slides
    assert early.stop_reason == "early exit after 2 of 8 leaves"
    assert len(early.looks[-1].rows) == 2
    assert slide._slide.cost_meter.total().patches == (1, 2, 2)  # of 4 parents of leaves


def test_without_stable_probabilities_all_leaves_are_read(source):
    slides = [source(painted(0)), source(painted(1))]
    model = magnet(patches=(2, 2))
    model.eval().early_exit_patience = 5
    with_early_exit = model(slides)
    model.early_exit_patience = 0
    torch.testing.assert_close(with_early_exit.logits, model(slides).logits)
    assert {slide.stop_reason for slide in with_early_exit.slides} == {"every leaf was read"}


def prediction_of(final: list[float], first: list[float], third: list[float]) -> Prediction:
    """Return a prediction for one slide, from the probabilities of two classes."""
    auxiliary = torch.tensor([[first, third]]).log().requires_grad_()
    return Prediction(torch.tensor([final]).log(), terms={"auxiliary_logits": auxiliary})


@pytest.mark.parametrize(
    ("paradoxical_loss", "expected"), [("hinge", math.log(0.8 / 0.5)), ("prob", 0.8 - 0.5)]
)
def test_the_objective_is_the_sum_of_three_cross_entropies_and_the_paradoxical_loss(
    paradoxical_loss, expected
):
    weights = {"auxiliary_weight": 0.5, "paradoxical_weight": 2.0}
    model = magnet(patches=(2, 2), paradoxical_loss=paradoxical_loss, **weights)
    prediction = prediction_of([0.1, 0.9], [0.2, 0.8], [0.5, 0.5])
    entropy = -math.log(0.9) - 0.5 * (math.log(0.8) + math.log(0.5))
    loss = model.objective(prediction, torch.tensor([1]), F.cross_entropy)
    assert loss.item() == pytest.approx(entropy + 2 * expected, rel=1e-5)


@pytest.mark.parametrize("paradoxical_loss", ["hinge", "prob"])
def test_the_paradoxical_loss_has_no_gradient_for_layer_one(paradoxical_loss):
    model = magnet(patches=(2, 2), paradoxical_loss=paradoxical_loss, auxiliary_weight=0.0)
    prediction = prediction_of([0.1, 0.9], [0.2, 0.8], [0.5, 0.5])
    model.objective(prediction, torch.tensor([1]), F.cross_entropy).backward()
    first, third = prediction.terms["auxiliary_logits"].grad[0]
    assert first.tolist() == [0, 0]
    assert third[1] < 0 < third[0]


def test_the_paradoxical_loss_is_zero_if_layer_three_is_better():
    model = magnet(patches=(2, 2))
    better = prediction_of([0.1, 0.9], [0.5, 0.5], [0.2, 0.8])
    loss = model.objective(better, torch.tensor([1]), F.cross_entropy).item()
    assert loss == pytest.approx(-math.log(0.9) - math.log(0.5) - math.log(0.8), rel=1e-5)


def test_without_auxiliary_classifiers_the_objective_is_the_loss(source):
    model = magnet(patches=(2, 2), auxiliary_backbone=None)
    prediction = model([source(painted(0))])
    expected = F.cross_entropy(prediction.logits, torch.tensor([0]))
    torch.testing.assert_close(
        model.objective(prediction, torch.tensor([0]), F.cross_entropy), expected
    )


def test_with_hindsight_the_objective_adds_the_leaf_loss_and_the_imitation_loss(source):
    model = magnet(patches=(2, 2), hindsight=0.3, auxiliary_backbone=None)
    prediction, label = model([source(painted(0)), source(painted(1))]), torch.tensor([0, 1])
    expected = sum(
        F.cross_entropy(logits, label)
        for logits in (prediction.logits, prediction.terms["leaf_logits"])
    )
    expected = expected + prediction.terms["imitation"].mean()
    torch.testing.assert_close(model.objective(prediction, label, F.cross_entropy), expected)


def test_with_hindsight_random_squares_are_visited_until_late_in_training(source):
    slide, model = source(painted(0)), magnet(patches=(2, 2), hindsight=0.3)
    result = model.search([slide], model.explorer)
    assert not torch.equal(result.chosen[0], result.visited[0])
    model.set_progress(1.0)
    result = model.search([slide], model.explorer)
    assert all(map(torch.equal, result.chosen, result.visited))


def test_after_training_hindsight_has_no_effect(source):
    slide, model = source(painted(0)), magnet(patches=(2, 2), hindsight=0.3)
    plain = magnet(patches=(2, 2))
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model.eval()([slide]).logits, plain.eval()([slide]).logits)


@pytest.mark.parametrize(
    "size", [(64, 64), (40, 400), (4000, 64)], ids=["small", "thin", "long and thin"]
)
def test_small_and_thin_slides_are_classified(source, size):
    (slide,) = (
        with_small_squares(magnet(patches=(2, 2))).eval()([source(painted(0, size=size))]).slides
    )
    assert slide.logits.isfinite().all()


def test_a_gray_slide_is_refused(source):
    gray = np.full((200, 300, 3), 180, dtype=np.uint8)
    with pytest.raises(NoTissueError, match="all of the slide of 300 x 200 px is gray"):
        magnet(patches=(2, 2))([source(gray)])


def test_a_slide_too_thin_to_be_visible_in_the_thumbnail_is_refused(source):
    with pytest.raises(NoTissueError, match="4000 x 8 px is gray in its thumbnail of 28 px"):
        magnet(patches=(2, 2))([source(painted(0, size=(4000, 8)))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patches": (3,)}, r"patches=\[3\]: set one number of squares for each layer"),
        ({"sampler": "cubic"}, "sampler='cubic' is unknown; use one of"),
        ({"nested_gradient": "all"}, "nested_gradient='all' is unknown; use one of"),
        ({"paradoxical_loss": "sum"}, "paradoxical_loss='sum' is unknown; use one of"),
        ({"scale_estimator": "area"}, "scale_estimator='area' is unknown; use one of"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        magnet(**settings)


def auroc(scores: Tensor, labels: Tensor) -> float:
    above = scores[labels == 1][:, None] > scores[labels == 0]
    return float(above.double().mean())


@pytest.mark.slow
def test_it_learns_slides_with_a_lesion_from_their_labels(source):
    labels = torch.arange(16) % 2
    slides = [source(painted(seed, lesion=bool(seed % 2))) for seed in range(16)]
    others = [source(painted(100 + seed, lesion=bool(seed % 2))) for seed in range(16)]
    model = magnet(patches=(2, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(6):
        for batch in torch.randperm(16).split(8):
            loss = model.objective(
                model([slides[at] for at in batch]), labels[batch], F.cross_entropy
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        scores = model.eval()(others).logits.softmax(dim=1)[:, 1]
    assert auroc(scores, labels) >= 0.9
