import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.models import IPS


@pytest.fixture
def rows():
    return torch.randn(50, 5, generator=torch.Generator().manual_seed(0))


def make(**settings: object) -> IPS:
    torch.manual_seed(0)
    return IPS(
        5, 3, **{"num_selected": 7, "chunk_size": 50, "dim": 8, "num_heads": 2, **settings}
    ).eval()


ALL = torch.ones(50, dtype=torch.bool)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_patches_with_the_highest_mean_attention_are_selected(rows, heads):
    model = make(num_heads=heads)
    query = model.query_projection(model.query)
    keys = model.key_projection(model.embedder(rows))
    attention = torch.stack(
        [
            (k @ q / len(q) ** 0.5).softmax(dim=0)
            for q, k in zip(query.chunk(heads), keys.chunk(heads, dim=1), strict=True)
        ]
    ).mean(dim=0)
    best = attention.argsort(descending=True)[:7].sort().values
    assert model.select(rows, ALL).equal(best)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 49, 50, 1000])
def test_the_selection_depends_neither_on_chunks_nor_on_order(rows, chunk_size):
    expected = set(make().select(rows, ALL).tolist())
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    found = make(chunk_size=chunk_size).select(rows[order], ALL)
    assert set(order[found].tolist()) == expected


def test_a_single_head_selects_the_highest_scores(rows):
    model = make(num_heads=1, chunk_size=3)
    scores = model.key_projection(model.embedder(rows)) @ model.query_projection(model.query)
    assert set(model.select(rows, ALL).tolist()) == set(scores.topk(7).indices.tolist())


def test_only_the_selected_patches_affect_the_logits(rows):
    model = make()
    selected = model.select(rows, ALL)
    prediction = model(StoredBag([rows]))
    torch.testing.assert_close(prediction.logits, model(StoredBag([rows[selected]])).logits)
    assert prediction.scores[0].nonzero()[:, 0].equal(selected)


def test_the_selection_is_the_same_in_training(rows):
    model = make(dropout=0.5)
    assert model.train().select(rows, ALL).equal(model.eval().select(rows, ALL))


@pytest.mark.parametrize("setting", ["num_selected", "chunk_size"])
def test_selecting_no_patch_is_an_error(setting):
    with pytest.raises(ValueError, match=f"{setting}=0: at least 1 patch is needed"):
        make(**{setting: 0})
