"""PATHS against a slow plain version, patch by patch."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from parfocal.bag import ExhaustiveBag, StoredBag
from parfocal.models.layers.place_encoding import encode_places
from parfocal.models.paths import PATHS

COLUMNS = 6  # of the lowest magnification, whose children are 2 x 2


def cells(step: int, rows: np.ndarray) -> np.ndarray:
    """Return the places of nested patches: each has its children in the order of rows."""
    if step == 0:
        return np.stack([rows % COLUMNS, rows // COLUMNS], axis=1)
    corner = 2 * cells(step - 1, rows // 4)
    return corner + np.stack([rows % 2, rows % 4 // 2], axis=1)


def tables(width: int = 8, *, counts: tuple[int, ...] = (12, 48, 192)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, width, generator=generator, dtype=torch.float64) for n in counts]


def build(in_dim=8, **settings) -> PATHS:
    torch.manual_seed(0)
    small = {"dim": 8, "num_heads": 2, "importance_dim": 5, "memory_dim": 6, "dropout": 0.0}
    return PATHS(in_dim, 2, **{"num_magnifications": 3, "k": 3, **small, **settings}).double()


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def plain_memory(model: PATHS, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    memory, xh = model.memory, torch.cat([x, h])
    new = sigmoid(linear(memory.input_gate, xh)) * torch.tanh(linear(memory.candidate, xh))
    c = c * sigmoid(linear(memory.forget, xh)) + new
    return sigmoid(linear(memory.output_gate, xh)) * torch.tanh(linear(memory.project, c)), c


def plain_place(column: int, row: int, dim: int) -> list[float]:
    values = []
    for place in (column, row):
        for i in range(0, dim // 2, 2):
            angle = place / 10_000 ** (i / dim)
            values += [math.sin(angle), math.cos(angle)]
    return values


def normalized(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    centered = x - x.mean(dim=1, keepdim=True)
    return (
        centered / (centered.square().mean(dim=1, keepdim=True) + layer.eps).sqrt() * (layer.weight)
        + layer.bias
    )


def plain_transformer(summary: torch.nn.Module, tokens: Tensor, heads: int) -> Tensor:
    """Compute a transformer with normalization after each block, head by head."""
    for layer in summary.transformer.layers:
        attention = layer.self_attn
        q, k, v = (tokens @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
        parts = []
        for a, b, values in zip(
            q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True
        ):
            weights = (a @ b.T / a.shape[1] ** 0.5).exp()
            parts.append(weights / weights.sum(dim=1, keepdim=True) @ values)
        out = attention.out_proj
        attended = torch.cat(parts, dim=1) @ out.weight.T + out.bias
        tokens = normalized(layer.norm1, tokens + attended)
        hidden = (tokens @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
        tokens = normalized(
            layer.norm2, tokens + hidden @ layer.linear2.weight.T + layer.linear2.bias
        )
    return normalized(summary.transformer.norm, tokens)


def plain_logits(model: PATHS, levels: list[Tensor], k: int = 3) -> Tensor:
    zeros = torch.zeros(8).double(), torch.zeros(6).double()
    patches = [(row, zeros) for row in range(len(levels[0]))]  # row, and state of the parent
    slide = torch.zeros(8).double()
    for step, summary in enumerate(model.summaries):
        states, importance, tokens = [], [], [summary.token]
        for row, (h, c) in patches:
            x = levels[step][row]
            states.append(plain_memory(model, x, h, c))
            y = x + states[-1][0]
            hidden, output = model.importance[step][0], model.importance[step][2]
            importance.append(sigmoid(linear(output, linear(hidden, y).clamp(min=0)))[0])
            column, place_row = cells(step, np.array([row]))[0]
            place = torch.tensor(plain_place(int(column), int(place_row), 8), dtype=torch.float64)
            tokens.append(linear(summary.project, importance[-1] * y) + place)
        slide = slide + plain_transformer(summary, torch.stack(tokens), 2)[0]
        best = sorted(sorted(range(len(patches)), key=lambda i: -importance[i].item())[:k])
        patches = [(4 * patches[i][0] + child, states[i]) for i in best for child in range(4)]
    return model.classifier(slide)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_equals_a_plain_version(training):
    model = build().train(training)
    logits = model(StoredBag(tables(), cells=cells)).logits
    expected = plain_logits(model, tables())
    torch.testing.assert_close(logits, expected)
    weights = list(model.parameters())
    gradients = [torch.autograd.grad(each[0], weights) for each in (logits, expected)]
    torch.testing.assert_close(*gradients)


def test_every_weight_is_trained():
    model = build().train()
    model(StoredBag(tables(), cells=cells)).logits[0].backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_the_looks_list_the_children_of_the_most_important_patches():
    looks = build().eval()(StoredBag(tables(), cells=cells)).looks
    assert [len(look.rows) for look in looks] == [12, 12, 12]
    assert looks[0].selected.tolist() == looks[0].score.topk(3).indices.sort().values.tolist()
    assert looks[1].rows.view(3, 4)[:, 0].equal(4 * looks[0].selected)
    assert looks[2].selected is None
    for look in looks:
        assert look.score.sum().item() == pytest.approx(1)
        assert not look.score.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_patches_that_do_not_exist_change_nothing(training):
    def results_with(placeholder: float) -> tuple[Tensor, ...]:
        levels = tables()
        valid = [torch.arange(len(level)) % 3 != 1 for level in levels]
        for step in (1, 2):
            valid[step] &= valid[step - 1].repeat_interleave(4)
        for level, exists in zip(levels, valid, strict=True):
            level[~exists] = placeholder
        prediction = build().train(training)(StoredBag(levels, valid=valid, cells=cells))
        return prediction.logits, *prediction.scores

    for one, other in zip(results_with(0.0), results_with(100.0), strict=True):
        assert one.equal(other)


def test_an_exhaustive_bag_gives_the_answer_of_a_k_of_all_patches():
    everything = build(k=1000).eval()(StoredBag(tables(), cells=cells)).logits
    exhaustive = build().eval()(ExhaustiveBag(StoredBag(tables(), cells=cells))).logits
    torch.testing.assert_close(exhaustive, everything)


def test_each_magnification_may_have_an_encoder_of_its_own():
    levels = [tables(width)[step] for step, width in enumerate((4, 6, 8))]
    model = build([4, 6, 8])
    assert [embed.in_features for embed in model.embedders] == [4, 6, 8]
    mapped = [
        level @ embed.weight.T + embed.bias
        for level, embed in zip(levels, model.embedders, strict=True)
    ]
    logits = model.eval()(StoredBag(levels, cells=cells)).logits
    torch.testing.assert_close(logits, plain_logits(model, mapped))


def test_places_are_encoded_by_axis():
    encoded = encode_places(torch.tensor([[3, 5], [0, 200]]), 8)
    expected = [plain_place(3, 5, 8), plain_place(0, 200, 8)]
    torch.testing.assert_close(encoded, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_magnifications": 0}, "num_magnifications=0: at least 1"),
        ({"dim": 6, "num_heads": 2}, "dim=6, num_heads=2, num_layers=2: dim has to be a multiple"),
        ({"dim": 8, "num_heads": 3}, "dim=8, num_heads=3"),
        ({"k": 0}, "k=0: at least 1 patch"),
        ({"dropout": 1.0}, "dropout=1.0: a dropout rate"),
    ],
)
def test_invalid_settings_are_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_bag_without_positions_is_an_error():
    with pytest.raises(ValueError, match="the bag has no positions, and the model needs them"):
        build()(StoredBag(tables()))


def test_a_bag_without_a_valid_patch_is_an_error():
    nothing = [torch.zeros(len(level), dtype=torch.bool) for level in tables()]
    with pytest.raises(ValueError, match="the bag has no valid patch among its 12"):
        build()(StoredBag(tables(), valid=nothing, cells=cells))


class SpentBag(StoredBag):
    """A bag whose budget is spent."""

    def choose(self, topk: object, scores: Tensor, valid: Tensor) -> None:
        return None


def test_if_no_more_patches_may_be_visited_the_answer_is_that_of_the_visited_magnifications():
    low = tables()[0]
    stopped = build().eval()(SpentBag(tables(), cells=cells))
    alone = build(num_magnifications=1).eval()
    alone.load_state_dict(
        {
            name: weight
            for name, weight in build().state_dict().items()
            if name in alone.state_dict()
        }
    )
    torch.testing.assert_close(stopped.logits, alone(StoredBag([low], cells=cells)).logits)
    assert len(stopped.looks) == 1
