"""Context from parents to children, against slow plain versions."""

import pytest
import torch
from torch import Tensor

from parfocal.bag import ExhaustiveBag, StoredBag, inherited
from parfocal.features.timing import TimedBag, WaitTimer
from parfocal.models.zoommil.model import ZoomMIL

CONTEXTS = ["parent", "recurrent"]


def tables(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 8, generator=generator, dtype=dtype) for n in (10, 40, 160)]


def build(context: str, **settings) -> ZoomMIL:
    torch.manual_seed(0)
    model = ZoomMIL(8, 2, **{"dim": 6, "k": 3, "dropout": 0.0, "context": context, **settings})
    if context == "parent":  # its weights start at zero
        for layer in model.context.layers:
            torch.nn.init.normal_(layer.weight, std=0.3)
    return model.double()


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def plain_gru(model: ZoomMIL, h: Tensor, state: Tensor) -> Tensor:
    """Compute a GRU from its published equations."""
    gru = model.context.gru
    of_input, of_state = gru.weight_ih @ h + gru.bias_ih, gru.weight_hh @ state + gru.bias_hh
    (r_x, z_x, n_x), (r_s, z_s, n_s) = of_input.chunk(3), of_state.chunk(3)
    update = sigmoid(z_x + z_s)
    return (1 - update) * torch.tanh(n_x + sigmoid(r_x + r_s) * n_s) + update * state


def plain_embedding(
    model: ZoomMIL, step: int, x: Tensor, parent: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the embedding and the state of one patch."""
    linear = model.embedders[step][0]
    h = linear.weight @ x + linear.bias
    if model.context.__class__.__name__ == "ParentContext":
        if parent is not None:
            h = h + model.context.layers[step - 1].weight @ parent
        return h.clamp(min=0), h.clamp(min=0)
    h = h.clamp(min=0)
    state = plain_gru(model, h, torch.zeros(6).double() if parent is None else parent)
    return h + state, state


def plain_logits(model: ZoomMIL, levels: list[Tensor]) -> Tensor:
    """Compute the model in evaluation mode, patch by patch."""
    patches = [(x, None) for x in levels[0]]  # features, and the state of the parent
    rows = list(range(10))
    slide = torch.zeros(6).double()
    for step in range(3):
        pairs = [plain_embedding(model, step, x, parent) for x, parent in patches]
        h = torch.stack([embedding for embedding, _ in pairs])
        slide = slide + model.attention[step](h).softmax(dim=0) @ h
        if step < 2:
            scores = model.zoom_attention[step](h).tolist()
            best = sorted(sorted(range(len(h)), key=lambda i: -scores[i])[:3])
            patches, rows = (
                [(levels[step + 1][4 * rows[i] + c], pairs[i][1]) for i in best for c in range(4)],
                [4 * rows[i] + c for i in best for c in range(4)],
            )
    return model.classifier(slide)


@pytest.mark.parametrize("context", CONTEXTS)
def test_in_evaluation_the_model_equals_a_plain_version(context):
    model = build(context).eval()
    with torch.no_grad():
        logits = model(StoredBag(tables())).logits
        torch.testing.assert_close(logits, plain_logits(model, tables()))


@pytest.mark.parametrize("context", CONTEXTS)
def test_in_training_a_mixture_inherits_the_same_mixture_of_states(context):
    generator = torch.Generator()
    model = build(context, generator=generator, sigma=0.05)

    def dense() -> Tensor:
        mixed, slide = tables(), torch.zeros(6).double()
        parents: list[Tensor | None] = [None] * 10
        for step in range(3):
            pairs = [
                plain_embedding(model, step, x, p)
                for x, p in zip(mixed[step], parents, strict=True)
            ]
            h = torch.stack([embedding for embedding, _ in pairs])
            states = torch.stack([state for _, state in pairs])
            slide = slide + model.attention[step](h).softmax(dim=0) @ h
            if step < 2:
                select = model.topks[step](model.zoom_attention[step](h).softmax(dim=0))
                for below in range(step + 1, 3):
                    eye = torch.eye(len(mixed[below]) // len(h), dtype=torch.float64)
                    mixed[below] = torch.kron(select, eye) @ mixed[below]
                parents = [state for state in select @ states for _ in range(4)]
        return model.classifier(slide)

    results = []
    for answer in (lambda: model(StoredBag(tables())).logits, dense):
        generator.manual_seed(3)
        logits = answer()
        results.append((logits, torch.autograd.grad(logits[0], list(model.parameters()))))
    torch.testing.assert_close(*results)


def test_without_context_the_model_has_the_weights_and_bits_of_before():
    torch.manual_seed(0)
    before = ZoomMIL(8, 2, dim=6, k=3).state_dict()
    for context in ("none", *CONTEXTS):
        torch.manual_seed(0)
        after = ZoomMIL(8, 2, dim=6, k=3, context=context).state_dict()
        assert all(after[name].equal(weight) for name, weight in before.items())
        assert {name.split(".")[0] for name in after.keys() - before.keys()} <= {"context"}
        assert (len(after) > len(before)) == (context != "none")


def test_the_context_of_the_parent_starts_as_none():
    bag = StoredBag(tables(torch.float32))
    logits = []
    for context in ("none", "parent"):
        torch.manual_seed(0)
        logits.append(ZoomMIL(8, 2, dim=6, k=3, context=context).eval()(bag).logits)
    assert logits[0].equal(logits[1])


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("settings", [{"hindsight": True}, {"scale_free": True}, {}])
def test_every_weight_of_the_context_is_trained(context, settings):
    model = build(context, **settings)
    prediction = model.train()(StoredBag(tables()))
    model.objective(prediction, torch.tensor(1), torch.nn.functional.cross_entropy).backward()
    for weight in model.context.parameters():
        assert weight.grad is not None
        assert weight.grad.any()


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_patch_of_an_exhaustive_bag_inherits_from_its_own_parent(context):
    model = build(context).eval()
    everything = build(context, k=1000).eval()
    exhaustive = model(ExhaustiveBag(StoredBag(tables()))).logits
    torch.testing.assert_close(exhaustive, everything(StoredBag(tables())).logits)


def test_a_child_inherits_the_state_of_its_parent():
    select = torch.eye(10, dtype=torch.float64)[[7, 2]]
    states = torch.arange(10.0).double()[:, None]
    bag = StoredBag(tables())
    for wrapped in (bag, TimedBag(bag, WaitTimer())):
        assert wrapped.parents is None
        children = wrapped.zoom(select)
        assert children.parents.tolist() == [7] * 4 + [2] * 4
        assert inherited(states, select, children).flatten().tolist() == [7.0] * 4 + [2.0] * 4
    mixture = torch.tensor([[0.25, 0.75, *[0.0] * 8]]).double()
    children = bag.zoom(mixture)
    assert children.parents is None
    assert inherited(states, mixture, children).flatten().tolist() == [0.75] * 4
    assert bag.zoom(None).parents.tolist() == [n // 4 for n in range(40)]


def test_an_unknown_context_is_an_error():
    with pytest.raises(ValueError, match="context='sibling' is unknown; use one of"):
        ZoomMIL(8, 2, context="sibling")
