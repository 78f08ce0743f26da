"""The model of ranked patches against a plain version, and how many patches it encodes."""

import pytest
import torch
from torch import Tensor

from parfocal.bag import ExhaustiveBag, StoredBag
from parfocal.models.abmil import ABMIL
from parfocal.models.topk import RankedPatches


def tables(low: int = 5, high: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((12, low), (48, high))
    return [torch.randn(*shape, generator=generator).double() for shape in shapes]


def build(in_dim=5, **settings) -> RankedPatches:
    torch.manual_seed(0)
    small = {"hidden_dim": 6, "dropout": 0.0, "k": 13}
    return RankedPatches(in_dim, 2, **{**small, **settings}).double()


def plain_distances(x: Tensor) -> list[float]:
    means = [sum(column) / len(x) for column in x.T.tolist()]
    spreads = [
        (sum((value - mean) ** 2 for value in column) / len(x)) ** 0.5
        for column, mean in zip(x.T.tolist(), means, strict=True)
    ]
    return [
        (sum(((v - m) / s) ** 2 for v, m, s in zip(row, means, spreads, strict=True)) / len(row))
        ** 0.5
        for row in x.tolist()
    ]


def plain_logits(model: RankedPatches, scores: list[float], high: Tensor, parents: int) -> Tensor:
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[:parents]
    mean = torch.stack([high[4 * i + child] for i in best for child in range(4)]).mean(dim=0)
    hidden = (model.hidden[0].weight @ mean + model.hidden[0].bias).clamp(min=0)
    return model.classifier(hidden)


@pytest.mark.parametrize("training", [True, False])
def test_the_ranking_by_distance_equals_a_plain_version(training):
    model, (low, high) = build().train(training), tables()
    prediction = model(StoredBag([low, high]))
    distances = plain_distances(low)
    torch.testing.assert_close(prediction.logits, plain_logits(model, distances, high, 3))
    expected = torch.tensor(distances).double() / sum(distances)
    torch.testing.assert_close(prediction.looks[0].zoom_attention, expected)


@pytest.mark.parametrize(("k", "parents"), [(25, 6), (4, 1), (1, 1), (7, 1), (1000, 12)])
def test_at_most_k_patches_are_encoded_but_the_children_of_one(k, parents):
    looks = build(k=k).eval()(StoredBag(tables())).looks
    assert [len(look.rows) for look in looks] == [12, 4 * parents]
    assert len(looks[0].selected) == parents


def test_the_ranking_of_a_teacher_is_its_attention():
    model, (low, high) = build(ranking="teacher").eval(), tables()
    torch.manual_seed(3)
    trained = ABMIL(5, 2).double()
    model.set_teacher(trained)
    attention = trained.eval()(StoredBag([low])).looks[0].score
    prediction = model(StoredBag([low, high]))
    torch.testing.assert_close(prediction.looks[0].score, attention)
    torch.testing.assert_close(prediction.logits, plain_logits(model, attention.tolist(), high, 3))
    prediction.logits.sum().backward()
    assert all(weight.grad is None for weight in model.ranker.parameters())
    assert any(name.startswith("ranker.") for name in model.state_dict())


def test_in_training_the_ranking_has_no_dropout():
    model = build(ranking="teacher").train()
    scores = [model(StoredBag(tables())).looks[0].score for _ in range(2)]
    assert scores[0].equal(scores[1])


def test_patches_that_do_not_exist_change_nothing():
    def results_with(placeholder: float) -> tuple[Tensor, ...]:
        levels = tables()
        valid = [torch.arange(12) % 3 != 1, torch.arange(48) % 5 != 1]
        valid[1] &= valid[0].repeat_interleave(4)
        for level, exists in zip(levels, valid, strict=True):
            level[~exists] = placeholder
        prediction = build().eval()(StoredBag(levels, valid=valid))
        return prediction.logits, *prediction.scores

    for one, other in zip(results_with(0.0), results_with(100.0), strict=True):
        assert one.equal(other)


def test_each_magnification_may_have_an_encoder_of_its_own():
    looks = build([4, 6]).eval()(StoredBag(tables(4, 6))).looks
    assert [len(look.rows) for look in looks] == [12, 12]


def test_an_exhaustive_bag_encodes_all_patches():
    looks = build().eval()(ExhaustiveBag(StoredBag(tables()))).looks
    assert len(looks[1].rows) == 48


def test_patches_that_are_all_alike_are_ranked_in_their_order():
    levels = [torch.ones(12, 5).double(), torch.ones(48, 5).double()]
    prediction = build().eval()(StoredBag(levels))
    assert prediction.looks[0].selected.tolist() == [0, 1, 2]
    assert prediction.logits.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_magnifications": 3}, "num_magnifications=3: patches are ranked at one"),
        ({"ranking": "beauty"}, "ranking='beauty' is unknown; use one of"),
        ({"k": 0}, "k=0: at least 1 patch"),
    ],
)
def test_invalid_settings_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_teacher_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match="only an abmil with the default dim, hidden_dim"):
        build(ranking="teacher").set_teacher(ABMIL(5, 2, dim=8))


class SpentBag(StoredBag):
    """A bag whose budget is spent."""

    def choose(self, topk: object, scores: Tensor, valid: Tensor) -> None:
        return None


def test_without_a_budget_for_the_higher_magnification_the_answer_is_that_of_no_patch():
    model = build().eval()
    prediction = model(SpentBag(tables()))
    hidden = model.hidden[0].bias.clamp(min=0)
    torch.testing.assert_close(prediction.logits, model.classifier(hidden))
    assert [len(look.rows) for look in prediction.looks] == [12]
    assert prediction.looks[0].selected is None
