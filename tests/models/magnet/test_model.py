"""MagNet: its tree of squares, its losses, its early answer, and that it learns."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from parfocal.bag import Prediction
from parfocal.features.pixels import SlidePixels
from parfocal.models.magnet import MagNet
from parfocal.slide.errors import NoTissueError
from parfocal.slide.slide import slide_from_array
from parfocal.slide.tissue import Tissue

LIGHT = {
    "backbone": "small",
    "auxiliary": "small",
    "side": 28,
    "leaf_side": 32,
    "hidden_dim": 16,
}


@pytest.fixture
def source():
    """Give a pixel source over an array, and let go of its threads in the end."""
    made = []

    def make(pixels: np.ndarray) -> SlidePixels:
        everywhere = Tissue(np.ones((1, 1), dtype=bool), 1.0, (1, 1), 1.0, (1.0,))
        made.append(SlidePixels(slide_from_array(pixels, mpp=1.0), everywhere))
        return made[-1]

    yield make
    for each in made:
        each.close()


def painted(seed: int, *, lesion: bool = False, size: tuple[int, int] = (256, 256)) -> np.ndarray:
    """Paint pink tissue in speckles, a quarter of it darker where there is a lesion."""
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


def moved(model: MagNet) -> MagNet:
    """Make squares small and various, as training does."""
    for layer in model.layers:
        layer.temperature = 500.0
    return model


def test_two_three_and_three_squares_make_18_leaves_of_26_stacks_or_24_with_frozen_ones(source):
    model = magnet(patches=(2, 3, 3), frozen=False)
    assert [layer.stacks for layer in model.layers] == [2, 6, 18]
    assert [layer.stacks for layer in magnet(patches=(2, 3, 3)).layers] == [2, 4, 18]
    (slide,) = model.eval()([source(painted(0))]).slides
    assert [len(look.rows) for look in slide.looks] == [1, 2, 6, 18]


def test_a_square_tells_its_place_its_parent_and_the_sharpness_it_was_seen_with(source):
    model = moved(magnet(patches=(2, 2))).eval()
    (slide,) = model([source(painted(0, size=(320, 256)))]).slides
    whole, first, leaves = (look.places for look in slide.looks)
    assert whole.boxes.tolist() == [[0, -32, 320, 320]]
    assert whole.mpps.tolist() == pytest.approx([320 / 28])
    assert first.parents.tolist() == [0, 0]
    assert leaves.parents.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(leaves.mpps, leaves.boxes[:, 2] / 32)


def test_the_frozen_square_of_the_second_layer_is_all_of_the_one_around_it(source):
    (slide,) = moved(magnet(patches=(2, 2))).eval()([source(painted(0))]).slides
    _, first, leaves = (look.places.boxes for look in slide.looks)
    torch.testing.assert_close(leaves[::2], first)
    assert not torch.allclose(leaves[1::2], first)


@pytest.mark.parametrize(("gradient", "reaches"), [("chain", True), ("detached", False)])
def test_a_square_moves_those_around_it_only_in_a_chain(source, gradient, reaches):
    model = magnet(patches=(2, 2), gradient=gradient)
    frozen = model._search([source(painted(0))]).squares[2][:, 0]
    (given,) = torch.autograd.grad(frozen[:, 1].sum(), model.layers[0].score.weight)
    assert bool(given.any()) == reaches


@pytest.mark.parametrize("sampler", ["linearized", "bilinear"])
@pytest.mark.parametrize("gradient", ["chain", "detached"])
def test_the_label_reaches_every_stack(source, sampler, gradient):
    model = magnet(patches=(2, 2, 2), sampler=sampler, gradient=gradient)
    answer = model([source(painted(seed, lesion=seed == 1)) for seed in range(2)])
    model.objective(answer, torch.tensor([0, 1])).backward()
    for layer in model.layers:
        assert (layer.score.weight.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_an_answer_does_not_depend_on_the_other_slides_of_its_batch(source):
    model = moved(magnet(patches=(2, 2))).eval()
    slides = [source(painted(seed)) for seed in range(3)]
    torch.testing.assert_close(model(slides).logits[1:2], model(slides[1:2]).logits)


def test_the_same_generator_gives_the_same_gradients(source):
    slide, gradients = source(painted(0)), []
    for _ in range(2):
        model = magnet(patches=(2, 2), generator=torch.Generator().manual_seed(3))
        model.objective(model([slide]), torch.tensor([1])).backward()
        gradients.append(model.layers[0].score.weight.grad)
    assert torch.equal(*gradients)


def test_the_running_answer_ends_in_the_answer(source):
    answer = magnet(patches=(2, 2)).eval()([source(painted(0))])
    (slide,) = answer.slides
    torch.testing.assert_close(slide.running[-1], answer.logits[0].softmax(dim=0))
    predicted = int(answer.logits[0].argmax())
    assert torch.equal(slide.looks[-1].attention, slide.running[:, predicted])


def test_leaves_are_left_out_once_the_answer_has_settled(source):
    slide, model = source(painted(0)), magnet(patches=(2, 2, 2), early_exit_patience=1).eval()
    torch.nn.init.zeros_(model.read.classify[-1].weight)  # settled from the first
    (early,) = model([slide]).slides
    assert early.stop_reason == "settled after 2 of 8 leaves"
    assert len(early.looks[-1].rows) == 2
    assert slide._slide.bill.close().patches == (1, 2, 2)  # of 4 squares around leaves


def test_an_answer_that_does_not_settle_is_that_of_all_leaves(source):
    slides = [source(painted(0)), source(painted(1))]
    model = magnet(patches=(2, 2))
    model.eval().early_exit_patience = 5
    apart = model(slides)
    model.early_exit_patience = 0
    torch.testing.assert_close(apart.logits, model(slides).logits)
    assert {slide.stop_reason for slide in apart.slides} == {"every leaf was read"}


def answer(final: list[float], first: list[float], third: list[float]) -> Prediction:
    """An answer for one slide, from the probabilities of two classes."""
    glances = torch.tensor([[first, third]]).log().requires_grad_()
    return Prediction(torch.tensor([final]).log(), terms={"glances": glances})


@pytest.mark.parametrize(
    ("paradox", "expected"), [("hinge", math.log(0.8 / 0.5)), ("prob", 0.8 - 0.5)]
)
def test_the_objective_is_three_cross_entropies_and_what_layer_three_is_worse_by(paradox, expected):
    model = magnet(patches=(2, 2), paradox=paradox, auxiliary_weight=0.5, paradox_weight=2.0)
    said = answer([0.1, 0.9], [0.2, 0.8], [0.5, 0.5])
    entropy = -math.log(0.9) - 0.5 * (math.log(0.8) + math.log(0.5))
    loss = model.objective(said, torch.tensor([1]))
    assert loss.item() == pytest.approx(entropy + 2 * expected, rel=1e-5)


@pytest.mark.parametrize("paradox", ["hinge", "prob"])
def test_layer_one_is_not_taught_to_be_worse(paradox):
    model = magnet(patches=(2, 2), paradox=paradox, auxiliary_weight=0.0)
    said = answer([0.1, 0.9], [0.2, 0.8], [0.5, 0.5])
    model.objective(said, torch.tensor([1])).backward()
    first, third = said.terms["glances"].grad[0]
    assert first.tolist() == [0, 0]
    assert third[1] < 0 < third[0]


def test_a_layer_three_that_is_better_costs_nothing_more():
    model = magnet(patches=(2, 2))
    better = answer([0.1, 0.9], [0.5, 0.5], [0.2, 0.8])
    loss = model.objective(better, torch.tensor([1])).item()
    assert loss == pytest.approx(-math.log(0.9) - math.log(0.5) - math.log(0.8), rel=1e-5)


def test_without_glances_the_loss_is_that_of_the_answer(source):
    model = magnet(patches=(2, 2), auxiliary=None)
    said = model([source(painted(0))])
    expected = torch.nn.functional.cross_entropy(said.logits, torch.tensor([0]))
    torch.testing.assert_close(model.objective(said, torch.tensor([0])), expected)


def test_with_hindsight_the_objective_adds_what_was_judged_and_what_squares_are_apart(source):
    model = magnet(patches=(2, 2), hindsight=0.3, auxiliary=None)
    said, label = model([source(painted(0)), source(painted(1))]), torch.tensor([0, 1])
    expected = sum(
        torch.nn.functional.cross_entropy(logits, label)
        for logits in (said.logits, said.terms["judged"])
    )
    expected = expected + said.terms["imitation"].mean()
    torch.testing.assert_close(model.objective(said, label), expected)


def test_with_hindsight_squares_are_drawn_in_training_alone(source):
    slide, model = source(painted(0)), magnet(patches=(2, 2), hindsight=0.3)
    assert not torch.equal(
        model._search([slide]).zoom_attention[0], model._search([slide]).taken[0]
    )
    model.set_progress(1.0)
    search = model._search([slide])
    assert all(map(torch.equal, search.zoom_attention, search.taken))
    model.set_progress(0.0)
    search = model.eval()._search([slide])
    assert all(map(torch.equal, search.zoom_attention, search.taken))


def test_after_training_hindsight_makes_no_difference(source):
    slide, model = source(painted(0)), magnet(patches=(2, 2), hindsight=0.3)
    plain = magnet(patches=(2, 2))
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model.eval()([slide]).logits, plain.eval()([slide]).logits)


@pytest.mark.parametrize(
    "size", [(64, 64), (40, 400), (4000, 64)], ids=["small", "thin", "long and thin"]
)
def test_small_and_thin_slides_are_classified(source, size):
    (slide,) = moved(magnet(patches=(2, 2))).eval()([source(painted(0, size=size))]).slides
    assert slide.logits.isfinite().all()


def test_a_slide_without_color_is_refused(source):
    gray = np.full((200, 300, 3), 180, dtype=np.uint8)
    with pytest.raises(NoTissueError, match=r"nothing of the slide of 300 x 200 px is colored"):
        magnet(patches=(2, 2))([source(gray)])


def test_a_slide_thinner_than_what_the_first_look_shows_is_refused(source):
    with pytest.raises(NoTissueError, match=r"4000 x 8 px .* at the 28 px of its first look"):
        magnet(patches=(2, 2))([source(painted(0, size=(4000, 8)))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patches": (3,)}, r"patches=\[3\]: give a number for each of 2 or more layers"),
        ({"sampler": "cubic"}, "sampler='cubic' is unknown; it is one of"),
        ({"gradient": "all"}, "gradient='all' is unknown; it is one of"),
        ({"paradox": "sum"}, "paradox='sum' is unknown; it is one of"),
        ({"scaling": "area"}, "scaling='area' is unknown; it is one of"),
    ],
)
def test_what_is_no_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        magnet(**settings)


def auroc(scores: Tensor, labels: Tensor) -> float:
    above = scores[labels == 1][:, None] > scores[labels == 0]
    return float(above.double().mean())


def test_it_learns_slides_with_a_lesion_from_their_labels(source):
    labels = torch.arange(16) % 2
    slides = [source(painted(seed, lesion=bool(seed % 2))) for seed in range(16)]
    others = [source(painted(100 + seed, lesion=bool(seed % 2))) for seed in range(16)]
    model = magnet(patches=(2, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(6):
        for batch in torch.randperm(16).split(8):
            loss = model.objective(model([slides[at] for at in batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        scores = model.eval()(others).logits.softmax(dim=1)[:, 1]
    assert auroc(scores, labels) >= 0.9
