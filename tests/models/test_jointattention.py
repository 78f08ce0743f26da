"""JSMA: one attention over places and magnifications, and patches sampled from it."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor

from parfocal.grid import GridError
from parfocal.models.jointattention import JointAttention
from parfocal.prediction import Prediction
from sources import picture, source

CELLS = 2 * 3 + 4 * 6  # in 96 x 64 pixels, for patches of 16 pixels at 5x and 10x


def model_of(**options) -> JointAttention:
    torch.manual_seed(0)
    settings = {"magnifications": (5.0, 10.0), "patch_size": 16, "backbone": "small"}
    settings |= {"thumbnail_px": 48, "k": 3}
    return JointAttention(2, **{**settings, **options}).eval()


def predict(model: JointAttention, *sources) -> tuple[Prediction, ...]:
    with torch.no_grad():
        return model(sources).slides


def probabilities(prediction: Prediction) -> Tensor:
    return torch.cat([look.score for look in prediction.looks])


@pytest.mark.parametrize("normalize", ["sigmoid", "softmax"])
def test_attention_is_one_distribution_over_all_magnifications(normalize):
    (prediction,) = predict(model_of(normalize=normalize), source(picture()))
    assert [len(look.score) for look in prediction.looks] == [6, 24]
    assert probabilities(prediction).sum().item() == pytest.approx(1)
    assert {look.score_kind for look in prediction.looks} == {"sampling_probability"}


def test_sigmoid_attention_divides_each_sigmoid_by_the_sum_of_all():
    model, pixels = model_of(), source(picture())
    thumbnail = pixels.request(torch.tensor([[0.0, 0, 96, 64]]), (32, 48)).result().float() / 255
    with torch.no_grad():
        h = model.thumbnail_encoder.feature_maps(thumbnail)
        scores = [
            convolution(F.adaptive_avg_pool2d(h, shape)).flatten()
            for convolution, shape in zip(model.attention, [(2, 3), (4, 6)], strict=True)
        ]
    sigmoids = torch.cat(scores).sigmoid()
    torch.testing.assert_close(probabilities(*predict(model, pixels)), sigmoids / sigmoids.sum())


def test_encoding_all_cells_gives_the_attention_weighted_mean():
    model, pixels = model_of(inference="all"), source(picture())
    (prediction,) = predict(model, pixels)
    boxes = torch.cat([look.places.boxes for look in prediction.looks])
    patches = pixels.request(boxes, (16, 16)).result().float() / 255
    with torch.no_grad():
        mean = probabilities(prediction) @ model.encoder(patches)
        expected = model.patch_classifier.classifier(mean)
    torch.testing.assert_close(prediction.logits, expected)
    assert prediction.stop_reason == f"all {CELLS} cells with attention were visited"


def test_the_mean_over_many_samples_is_the_prediction_from_all_cells():
    """Each logit agrees within four standard errors."""
    pixels = source(picture())
    (whole,) = predict(model_of(inference="all"), pixels)
    model, logits = model_of(), []
    for seed in range(100):
        classifier = model.patch_classifier
        classifier.sampling = replace(classifier.sampling, seed=seed)
        logits.append(predict(model, pixels)[0].logits)
    sampled = torch.stack(logits)
    error = sampled.std(dim=0) / len(sampled) ** 0.5
    assert ((sampled.mean(dim=0) - whole.logits).abs() < 4 * error).all()


def test_a_prediction_contains_the_sampled_cells_and_their_order():
    slide = picture()
    (prediction,) = predict(model_of(k=5), source(slide))
    order = torch.cat([look.places.order for look in prediction.looks])
    assert sorted(order[order >= 0].tolist()) == [0, 1, 2, 3, 4]
    for look in prediction.looks:
        assert look.selected.tolist() == (look.places.order >= 0).nonzero().flatten().tolist()
    assert sum(slide.cost_meter.total().patches) == 5
    assert prediction.stop_reason == "the limit of 5 patches was reached"


def test_running_probabilities_are_those_of_models_that_sample_fewer_patches():
    pixels = source(picture())
    (prediction,) = predict(model_of(k=4), pixels)
    fewer = [predict(model_of(k=k), pixels)[0].logits.softmax(dim=0) for k in range(1, 5)]
    torch.testing.assert_close(prediction.running, torch.stack(fewer))


@pytest.mark.parametrize("options", [{"estimator": "partial_sum"}, {"inference": "topk"}])
def test_only_the_unbiased_estimator_has_running_probabilities(options):
    (prediction,) = predict(model_of(**options), source(picture()))
    assert prediction.running is None


def test_when_all_cells_are_sampled_the_last_running_probabilities_are_exact():
    (prediction,) = predict(model_of(max_patches=CELLS), source(picture()))
    assert len(prediction.running) == CELLS
    assert torch.equal(prediction.running[-1], prediction.logits.softmax(dim=0))


def test_predictions_depend_only_on_the_seed():
    pixels = source(picture())
    first, again = (predict(model_of(), pixels)[0].logits for _ in range(2))
    other = predict(model_of(sampling_seed=1), pixels)[0].logits
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_gives_the_predictions_of_its_slides_alone():
    sources = [
        source(picture(seed=1)),
        source(picture(64, 96, seed=2)),
        source(picture(160, 64, seed=3)),
        source(picture(seed=4)),
    ]
    batch = predict(model_of(), *sources)
    for prediction, each in zip(batch, sources, strict=True):
        torch.testing.assert_close(prediction.logits, predict(model_of(), each)[0].logits)


def test_cells_of_glass_get_no_attention():
    (prediction,) = predict(model_of(inference="all"), source(picture(), glass=32))
    low, high = prediction.looks
    assert low.rows.tolist() == [1, 2, 4, 5]
    assert [row % 6 for row in high.rows.tolist()] == [2, 3, 4, 5] * 4
    assert probabilities(prediction).sum().item() == pytest.approx(1)


def test_a_slide_without_any_tissue_is_refused():
    with pytest.raises(GridError, match="no cell contains tissue; give a file with the tissue"):
        predict(model_of(), source(picture(), glass=96))


def test_with_fewer_cells_than_k_all_are_encoded_and_the_result_is_exact():
    pixels = source(picture())
    (prediction,) = predict(model_of(k=100), pixels)
    torch.testing.assert_close(
        prediction.logits, predict(model_of(inference="all"), pixels)[0].logits
    )
    assert prediction.stop_reason == f"all {CELLS} cells with attention were visited"


def test_topk_encodes_the_cells_of_highest_attention():
    (prediction,) = predict(model_of(inference="topk", k=4), source(picture()))
    order = torch.cat([look.places.order for look in prediction.looks])
    selected = probabilities(prediction)[order >= 0]
    assert selected.min() >= probabilities(prediction)[order < 0].max()


def test_attention_dropout_never_leaves_fewer_than_k_cells():
    model = model_of(attention_dropout=0.7, k=7)
    uniform = torch.full((CELLS,), 1 / CELLS)
    uniform[:4] = 0
    remaining = []
    for seed in range(50):
        torch.manual_seed(seed)
        remaining.append(int(model.train()._drop_cells(uniform / uniform.sum()).count_nonzero()))
    assert min(remaining) == 7
    assert max(remaining) > 7


def test_attention_dropout_drops_its_share_and_the_rest_sums_to_1():
    model = model_of(attention_dropout=0.2).train()
    uniform = torch.full((1000,), 1 / 1000)
    torch.manual_seed(0)
    dropped = model._drop_cells(uniform)
    error = (0.2 * 0.8 / 1000) ** 0.5
    assert abs((dropped == 0).float().mean().item() - 0.2) < 4 * error
    assert dropped.sum().item() == pytest.approx(1)
    assert model.eval()._drop_cells(uniform) is uniform


def test_the_objective_is_the_loss_minus_the_weighted_entropy():
    model, labels = model_of(entropy_weight=0.5), torch.tensor([1, 0])
    with torch.no_grad():
        prediction = model([source(picture()), source(picture(seed=1))])
        found = model.objective(prediction, labels, F.cross_entropy)
    expected = [
        F.cross_entropy(each.logits, label) + 0.5 * (p * p.log()).sum()
        for each, label in zip(prediction.slides, labels, strict=True)
        for p in [probabilities(each)]
    ]
    torch.testing.assert_close(found, sum(expected) / 2)


def have_gradients(**options) -> dict[str, bool]:
    """Return whether each weight gets a gradient, by its name."""
    model = model_of(**options).train()
    prediction = model([source(picture()), source(picture(64, 64, seed=1))])
    model.objective(prediction, torch.tensor([0, 1]), F.cross_entropy).backward()
    return {
        name: weight.grad is not None and bool(weight.grad.abs().sum() > 0)
        for name, weight in model.named_parameters()
    }


def test_every_weight_gets_a_gradient():
    assert all(have_gradients().values())


def test_frozen_backbones_get_no_gradient():
    trained = {name for name, exists in have_gradients(freeze_backbone=True).items() if exists}
    assert {name.split(".")[0] for name in trained} == {"attention", "patch_classifier"}
    assert not any("network" in name for name in trained)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for gradient_checkpointing in (False, True):
        model = model_of(gradient_checkpointing=gradient_checkpointing).train()
        torch.manual_seed(1)
        prediction = model([source(picture())])
        prediction.logits.sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_adaptive_sampling_stops_once_the_probability_is_precise():
    (loose,) = predict(model_of(ci_half_width=0.5), source(picture()))
    assert loose.stop_reason.startswith("converged: the probability is known to ±")
    (strict,) = predict(model_of(ci_half_width=1e-9), source(picture()))
    assert strict.stop_reason == f"all {CELLS} cells with attention were visited"
    torch.testing.assert_close(
        strict.logits, predict(model_of(inference="all"), source(picture()))[0].logits
    )


def test_adaptive_sampling_stops_at_its_limit_of_patches():
    slide = picture()
    (prediction,) = predict(model_of(ci_half_width=1e-9, max_patches=8), source(slide))
    assert prediction.stop_reason == "the limit of 8 patches was reached"
    assert sum(slide.cost_meter.total().patches) == 8


def test_adaptive_sampling_stops_at_its_limit_of_seconds():
    (prediction,) = predict(model_of(ci_half_width=1e-9, max_seconds=1e-9), source(picture()))
    assert prediction.stop_reason == "the limit of 1e-09 seconds was reached"


def test_adaptive_sampling_starts_with_the_patches_of_a_fixed_k():
    orders = []
    for options in ({"k": 4}, {"k": 2, "ci_half_width": 1e-9, "max_patches": 4}):
        (prediction,) = predict(model_of(**options), source(picture()))
        orders.append(torch.cat([look.places.order for look in prediction.looks]).tolist())
    assert orders[0] == orders[1]


def test_unavailable_magnifications_are_refused_or_skipped():
    with pytest.raises(GridError, match=r"20x .* is sharper than the scan, which is 10x"):
        predict(model_of(magnifications=(5, 10, 20)), source(picture()))
    skipping = model_of(magnifications=(1.25, 5, 10, 20), skip_unavailable_magnifications=True)
    (prediction,) = predict(skipping, source(picture()))
    assert [len(look.rows) for look in prediction.looks] == [6, 24]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "max"}, "normalize='max' is unknown; use one of sigmoid, softmax"),
        ({"estimator": "mean"}, "estimator='mean' is unknown; use one of"),
        ({"inference": "most"}, "inference='most' is unknown; use one of"),
        ({"k": 0}, "k=0: at least 1 patch must be sampled"),
        (
            {"ci_half_width": 0.0},
            r"ci_half_width=0\.0, .* set each to a number above 0",
        ),
        (
            {"ci_half_width": 0.1, "estimator": "partial_sum"},
            "require estimator=unbiased and inference=sample, not partial_sum and sample",
        ),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model_of(**options)


def test_the_order_of_samples_is_the_same_for_every_k():
    orders = []
    for k in (2, 3, 4):
        (prediction,) = predict(model_of(k=k), source(picture()))
        order = torch.cat([look.places.order for look in prediction.looks])
        orders.append([int((order == rank).nonzero()) for rank in range(k)])
    for shorter, longer in pairwise(orders):
        assert longer[: len(shorter)] == shorter
