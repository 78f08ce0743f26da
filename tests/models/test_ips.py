import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.models import IPS


@pytest.fixture
def rows():
    return torch.randn(50, 5, generator=torch.Generator().manual_seed(0))


def make(**settings: object) -> IPS:
    torch.manual_seed(0)
    return IPS(5, 3, **{"m": 7, "chunk": 50, "dim": 8, "heads": 2, **settings}).eval()


ALL = torch.ones(50, dtype=torch.bool)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_selected_are_the_best_of_all_by_their_mean_attention(rows, heads):
    model = make(heads=heads)
    asked, keys = model.request(model.query), model.key(model.embed(rows))
    attention = torch.stack(
        [
            (k @ q / len(q) ** 0.5).softmax(dim=0)
            for q, k in zip(asked.chunk(heads), keys.chunk(heads, dim=1), strict=True)
        ]
    ).mean(dim=0)
    best = attention.argsort(descending=True)[:7].sort().values
    assert model.select(rows, ALL).equal(best)


@pytest.mark.parametrize("chunk", [1, 3, 7, 49, 50, 1000])
def test_the_selection_depends_neither_on_chunks_nor_on_order(rows, chunk):
    expected = set(make().select(rows, ALL).tolist())
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    found = make(chunk=chunk).select(rows[order], ALL)
    assert set(order[found].tolist()) == expected


def test_a_single_head_selects_the_highest_scores(rows):
    model = make(heads=1, chunk=3)
    scores = model.key(model.embed(rows)) @ model.request(model.query)
    assert set(model.select(rows, ALL).tolist()) == set(scores.topk(7).indices.tolist())


def test_only_the_selected_count(rows):
    model = make()
    kept = model.select(rows, ALL)
    prediction = model(StoredBag([rows]))
    torch.testing.assert_close(prediction.logits, model(StoredBag([rows[kept]])).logits)
    assert prediction.attention[0].nonzero()[:, 0].equal(kept)


def test_scoring_is_the_same_in_training(rows):
    model = make(dropout=0.5)
    assert model.train().select(rows, ALL).equal(model.eval().select(rows, ALL))


@pytest.mark.parametrize("setting", ["m", "chunk"])
def test_nothing_to_select_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting}=0: at least 1 patch is needed"):
        make(**{setting: 0})
