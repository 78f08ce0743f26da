"""JSMA: one attention over places and magnifications, and patches drawn by it."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor

from parfocal.bag import Prediction
from parfocal.grid import GridError
from parfocal.models.jointattention import JointAttention
from sources import picture, source

CELLS = 2 * 3 + 4 * 6  # of 96 x 64 pixels, in patches of 16 at 5x and 10x


def model_of(**options) -> JointAttention:
    torch.manual_seed(0)
    settings = {"magnifications": (5.0, 10.0), "patch_size": 16, "backbone": "small"}
    settings |= {"thumbnail_px": 48, "k": 3}
    return JointAttention(2, **{**settings, **options}).eval()


def asked(model: JointAttention, *sources) -> tuple[Prediction, ...]:
    with torch.no_grad():
        return model(sources).slides


def probabilities(prediction: Prediction) -> Tensor:
    return torch.cat([look.attention for look in prediction.looks])


@pytest.mark.parametrize("normalize", ["sigmoid", "softmax"])
def test_attention_is_one_distribution_over_all_magnifications(normalize):
    (prediction,) = asked(model_of(normalize=normalize), source(picture()))
    assert [len(look.attention) for look in prediction.looks] == [6, 24]
    assert probabilities(prediction).sum().item() == pytest.approx(1)
    assert {look.score_kind for look in prediction.looks} == {"probability"}


def test_sigmoid_attention_is_each_sigmoid_over_the_sum_of_all():
    model, pixels = model_of(), source(picture())
    thumbnail = pixels.request(torch.tensor([[0.0, 0, 96, 64]]), (32, 48)).result().float() / 255
    with torch.no_grad():
        h = model.overview.maps(thumbnail)
        scores = [
            attend(F.adaptive_avg_pool2d(h, shape)).flatten()
            for attend, shape in zip(model.attends, [(2, 3), (4, 6)], strict=True)
        ]
    chances = torch.cat(scores).sigmoid()
    torch.testing.assert_close(probabilities(*asked(model, pixels)), chances / chances.sum())


def test_looking_at_everything_is_the_attention_weighted_mean():
    model, pixels = model_of(inference="all"), source(picture())
    (prediction,) = asked(model, pixels)
    boxes = torch.cat([look.places.boxes for look in prediction.looks])
    patches = pixels.request(boxes, (16, 16)).result().float() / 255
    with torch.no_grad():
        wanted = model.read.classify(probabilities(prediction) @ model.encode(patches))
    torch.testing.assert_close(prediction.logits, wanted)
    assert prediction.stop_reason == f"all {CELLS} cells with attention looked at"


def test_the_mean_of_many_draws_is_looking_at_everything():
    """Within four standard errors, dimension by dimension."""
    pixels = source(picture())
    (whole,) = asked(model_of(inference="all"), pixels)
    model, answers = model_of(), []
    for seed in range(100):
        model.read.drawing = replace(model.read.drawing, seed=seed)
        answers.append(asked(model, pixels)[0].logits)
    drawn = torch.stack(answers)
    error = drawn.std(dim=0) / len(drawn) ** 0.5
    assert ((drawn.mean(dim=0) - whole.logits).abs() < 4 * error).all()


def test_a_prediction_tells_what_was_drawn_and_in_which_order():
    slide = picture()
    (prediction,) = asked(model_of(k=5), source(slide))
    order = torch.cat([look.places.order for look in prediction.looks])
    assert sorted(order[order >= 0].tolist()) == [0, 1, 2, 3, 4]
    for look in prediction.looks:
        assert look.selected.tolist() == (look.places.order >= 0).nonzero().flatten().tolist()
    assert sum(slide.bill.close().patches) == 5
    assert prediction.stop_reason == "the 5 patches allowed are drawn"


def test_the_answer_after_each_patch_is_that_of_a_model_that_draws_no_more():
    pixels = source(picture())
    (prediction,) = asked(model_of(k=4), pixels)
    fewer = [asked(model_of(k=k), pixels)[0].logits.softmax(dim=0) for k in range(1, 5)]
    torch.testing.assert_close(prediction.running, torch.stack(fewer))


@pytest.mark.parametrize("options", [{"estimator": "literal"}, {"inference": "topk"}])
def test_only_unbiased_draws_have_an_answer_after_each_patch(options):
    (prediction,) = asked(model_of(**options), source(picture()))
    assert prediction.running is None


def test_when_all_is_drawn_the_last_answer_is_the_exact_one():
    (prediction,) = asked(model_of(max_patches=CELLS), source(picture()))
    assert len(prediction.running) == CELLS
    assert torch.equal(prediction.running[-1], prediction.logits.softmax(dim=0))


def test_answers_depend_on_the_seed_alone():
    pixels = source(picture())
    first, again = (asked(model_of(), pixels)[0].logits for _ in range(2))
    other = asked(model_of(seed=1), pixels)[0].logits
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_slides_asked_together_answer_as_they_do_alone():
    sources = [
        source(picture(seed=1)),
        source(picture(64, 96, seed=2)),
        source(picture(160, 64, seed=3)),
        source(picture(seed=4)),
    ]
    together = asked(model_of(), *sources)
    for prediction, each in zip(together, sources, strict=True):
        torch.testing.assert_close(prediction.logits, asked(model_of(), each)[0].logits)


def test_cells_of_glass_alone_get_no_attention():
    (prediction,) = asked(model_of(inference="all"), source(picture(), glass=32))
    low, high = prediction.looks
    assert low.rows.tolist() == [1, 2, 4, 5]
    assert [row % 6 for row in high.rows.tolist()] == [2, 3, 4, 5] * 4
    assert probabilities(prediction).sum().item() == pytest.approx(1)


def test_a_slide_without_any_tissue_is_refused():
    with pytest.raises(GridError, match=r"no cell has any tissue; check how tissue is found"):
        asked(model_of(), source(picture(), glass=96))


def test_fewer_cells_than_k_are_all_looked_at_exactly():
    pixels = source(picture())
    (prediction,) = asked(model_of(k=100), pixels)
    torch.testing.assert_close(
        prediction.logits, asked(model_of(inference="all"), pixels)[0].logits
    )
    assert prediction.stop_reason == f"all {CELLS} cells with attention looked at"


def test_topk_looks_at_the_cells_of_most_attention():
    (prediction,) = asked(model_of(inference="topk", k=4), source(picture()))
    order = torch.cat([look.places.order for look in prediction.looks])
    drawn = probabilities(prediction)[order >= 0]
    assert drawn.min() >= probabilities(prediction)[order < 0].max()


def test_attention_dropout_never_leaves_fewer_than_k_cells():
    model = model_of(attention_dropout=0.7, k=7)
    even = torch.full((CELLS,), 1 / CELLS)
    even[:4] = 0
    left = []
    for seed in range(50):
        torch.manual_seed(seed)
        left.append(int(model.train()._drop_cells(even / even.sum()).count_nonzero()))
    assert min(left) == 7
    assert max(left) > 7


def test_attention_dropout_takes_its_share_and_what_is_left_sums_to_1():
    model = model_of(attention_dropout=0.2).train()
    even = torch.full((1000,), 1 / 1000)
    torch.manual_seed(0)
    thinned = model._drop_cells(even)
    error = (0.2 * 0.8 / 1000) ** 0.5
    assert abs((thinned == 0).float().mean().item() - 0.2) < 4 * error
    assert thinned.sum().item() == pytest.approx(1)
    assert model.eval()._drop_cells(even) is even


def test_the_objective_is_cross_entropy_less_alpha_times_entropy():
    model, labels = model_of(alpha=0.5), torch.tensor([1, 0])
    with torch.no_grad():
        prediction = model([source(picture()), source(picture(seed=1))])
        found = model.objective(prediction, labels)
    wanted = [
        F.cross_entropy(each.logits, label) + 0.5 * (p * p.log()).sum()
        for each, label in zip(prediction.slides, labels, strict=True)
        for p in [probabilities(each)]
    ]
    torch.testing.assert_close(found, sum(wanted) / 2)


def learned(**options) -> dict[str, bool]:
    model = model_of(**options).train()
    prediction = model([source(picture()), source(picture(64, 64, seed=1))])
    model.objective(prediction, torch.tensor([0, 1])).backward()
    return {
        name: weight.grad is not None and bool(weight.grad.abs().sum() > 0)
        for name, weight in model.named_parameters()
    }


def test_every_weight_learns_end_to_end():
    assert all(learned().values())


def test_frozen_backbones_do_not_learn():
    taught = learned(frozen=True)
    assert {name.split(".")[0] for name, learns in taught.items() if learns} == {"attends", "read"}
    assert not any(learns for name, learns in taught.items() if "network" in name)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for gradient_checkpointing in (False, True):
        model = model_of(gradient_checkpointing=gradient_checkpointing).train()
        torch.manual_seed(1)
        prediction = model([source(picture())])
        prediction.logits.sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_drawing_on_stops_once_the_answer_is_settled():
    (loose,) = asked(model_of(ci_half_width=0.5), source(picture()))
    assert loose.stop_reason.startswith("settled: the winner's probability is known to ±")
    (strict,) = asked(model_of(ci_half_width=1e-9), source(picture()))
    assert strict.stop_reason == f"all {CELLS} cells with attention looked at"
    torch.testing.assert_close(
        strict.logits, asked(model_of(inference="all"), source(picture()))[0].logits
    )


def test_drawing_on_stops_when_its_patches_are_spent():
    slide = picture()
    (prediction,) = asked(model_of(ci_half_width=1e-9, max_patches=8), source(slide))
    assert prediction.stop_reason == "the 8 patches allowed are drawn"
    assert sum(slide.bill.close().patches) == 8


def test_drawing_on_stops_when_its_seconds_are_spent():
    (prediction,) = asked(model_of(ci_half_width=1e-9, max_seconds=1e-9), source(picture()))
    assert prediction.stop_reason == "the 1e-09 seconds allowed are spent"


def test_the_first_patches_drawn_are_those_of_a_fixed_k():
    drawn = []
    for options in ({"k": 4}, {"k": 2, "ci_half_width": 1e-9, "max_patches": 4}):
        (prediction,) = asked(model_of(**options), source(picture()))
        drawn.append(torch.cat([look.places.order for look in prediction.looks]).tolist())
    assert drawn[0] == drawn[1]


def test_magnifications_that_do_not_fit_a_slide_are_refused_or_left_out():
    with pytest.raises(GridError, match=r"20x .* is sharper than the scan, which is 10x"):
        asked(model_of(magnifications=(5, 10, 20)), source(picture()))
    skipping = model_of(magnifications=(1.25, 5, 10, 20), skip_unavailable_magnifications=True)
    (prediction,) = asked(skipping, source(picture()))
    assert [len(look.rows) for look in prediction.looks] == [6, 24]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "max"}, r"normalize='max' is unknown; it is one of \('sigmoid', 'softmax'"),
        ({"estimator": "mean"}, "estimator='mean' is unknown; it is one of"),
        ({"inference": "most"}, "inference='most' is unknown; it is one of"),
        ({"k": 0}, "k=0: at least 1 patch is looked at"),
        ({"ci_half_width": 0.0}, r"ci_half_width=0\.0, .* give numbers above 0, or leave them out"),
        (
            {"ci_half_width": 0.1, "estimator": "literal"},
            "go with estimator unbiased and inference sample, not literal and sample",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model_of(**options)


def test_gumbel_order_is_shared_by_all_sizes_of_k():
    orders = []
    for k in (2, 3, 4):
        (prediction,) = asked(model_of(k=k), source(picture()))
        order = torch.cat([look.places.order for look in prediction.looks])
        orders.append([int((order == turn).nonzero()) for turn in range(k)])
    for shorter, longer in pairwise(orders):
        assert longer[: len(shorter)] == shorter
