"""The coarse student against a plain version, and what it reads."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor

from parfocal.bag import StoredBag
from parfocal.models.abmil import ABMIL
from parfocal.models.coarsestudent import CoarseStudent


class CountingTable:
    """A feature table that counts the rows that are read."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.count = table, 0

    @property
    def shape(self) -> torch.Size:
        return self.table.shape

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        self.count += len(rows)
        return self.table[rows]


def tables(widths: tuple[int, int] = (5, 5)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    counts = zip((6, 24), widths, strict=True)
    return [torch.randn(n, width, generator=generator).double() for n, width in counts]


def build(in_dim=5, **settings) -> CoarseStudent:
    torch.manual_seed(0)
    small = {"dim": 7, "hidden_dim": 4, "dropout": 0.0}
    return CoarseStudent(in_dim, 3, **{**small, **settings}).double()


def teacher(in_dim: int = 5) -> ABMIL:
    torch.manual_seed(1)
    return ABMIL(in_dim, 3, dim=4, hidden_dim=3).double()


def plain_attention(model: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention of an ABMIL and its logits, from the equations."""
    embed, attend = model.embedder[0], model.attention
    h = (x @ embed.weight.T + embed.bias).clamp(min=0)
    tanh = torch.tanh(h @ attend.value.weight.T + attend.value.bias)
    gate = 1 / (1 + (-(h @ attend.gate.weight.T + attend.gate.bias)).exp())
    scores = ((tanh * gate) @ attend.score.weight.T + attend.score.bias)[:, 0].exp()
    attention = scores / scores.sum()
    return attention, model.classifier(attention @ h)


def divergence(target: Tensor, own: Tensor) -> Tensor:
    return sum(t * (t / o).log() for t, o in zip(target, own, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_objective_equals_a_plain_version(temperature):
    model = build(logit_weight=0.7, attention_weight=0.4, temperature=temperature)
    model.set_teacher(teacher())
    low, high = tables()
    target = torch.tensor(2)
    prediction = model.train()(StoredBag([low, high]))
    own, logits = plain_attention(model, low)
    answer, teacher_logits = plain_attention(teacher(), high)
    by_parent = [sum(answer[4 * n + child] for child in range(4)) for n in range(6)]
    probabilities = [(each / temperature).softmax(0) for each in (teacher_logits, logits)]
    expected = (
        -logits.log_softmax(dim=0)[2]
        + 0.7 * temperature**2 * divergence(*probabilities)
        + 0.4 * divergence(torch.stack(by_parent), own)
    ).detach()
    loss = model.objective(prediction, target, F.cross_entropy)
    torch.testing.assert_close(loss.detach(), expected)
    torch.testing.assert_close(prediction.logits, logits)


def test_of_another_task_the_outputs_are_compared():
    model = build(logit_weight=0.5, attention_weight=0.0)
    model.set_teacher(teacher())
    prediction = model.train()(StoredBag(tables()))
    answer = plain_attention(teacher(), tables()[1])[1]
    loss = model.objective(prediction, torch.zeros(3).double(), F.l1_loss)
    expected = prediction.logits.abs().mean() + 0.5 * (prediction.logits - answer).square().mean()
    torch.testing.assert_close(loss, expected)


def test_the_objective_without_a_teacher_is_the_loss_of_the_task():
    model, target = build(), torch.tensor(1)
    prediction = model.train()(StoredBag(tables()))
    expected = F.cross_entropy(prediction.logits, target)
    assert model.objective(prediction, target, F.cross_entropy).equal(expected)


def test_the_higher_magnification_is_read_in_training_only():
    model = build()
    model.set_teacher(teacher())
    for training, counts in ((True, [6, 24]), (False, [6, 0])):
        read = [CountingTable(table) for table in tables()]
        model.train(training)(StoredBag(read))
        assert [table.count for table in read] == counts


def test_the_teacher_is_not_changed_and_no_part_of_the_student():
    model, trained = build(), teacher()
    before = {name: weight.clone() for name, weight in trained.state_dict().items()}
    names = list(model.state_dict())
    model.set_teacher(trained)
    prediction = model.train()(StoredBag(tables()))
    model.objective(prediction, torch.tensor(0), F.cross_entropy).backward()
    assert list(model.state_dict()) == names
    assert not trained.training
    assert all(weight.grad is None for weight in trained.parameters())
    assert all(weight.equal(before[name]) for name, weight in trained.state_dict().items())
    assert all(weight.grad is not None for weight in model.parameters())


def test_a_patch_that_does_not_exist_gets_no_attention_to_learn():
    model = build()
    model.set_teacher(teacher())
    valid = [torch.arange(6) != 2, torch.arange(24) % 4 != 1]
    valid[1] &= valid[0].repeat_interleave(4)
    prediction = model.train()(StoredBag(tables(), valid=valid))
    assert prediction.terms["teacher_attention"][2] == 0
    assert prediction.terms["teacher_attention"].sum().item() == pytest.approx(1)
    loss = model.objective(prediction, torch.tensor(0), F.cross_entropy)
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_student_and_teacher_may_have_encoders_of_their_own():
    model = build([4, 6])
    model.set_teacher(teacher(6))
    assert model.train()(StoredBag(tables((4, 6)))).terms["teacher_logits"].shape == (3,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_magnifications": 1}, "num_magnifications=1: the student reads the lowest"),
        ({"logit_weight": -1.0}, "logit_weight=-1.0, attention_weight=1.0, temperature=1.0"),
        ({"temperature": 0.0}, "a temperature is more than 0"),
    ],
)
def test_invalid_settings_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
