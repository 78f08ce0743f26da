import pytest
import torch

from parfocal.models.magnet.classifiers import AuxiliaryClassifier, LeafAggregator


@pytest.fixture
def aggregator():
    torch.manual_seed(0)
    return LeafAggregator("small", 3, hidden_dim=8).eval()


@pytest.fixture
def leaves():
    return torch.rand(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_logits_after_a_leaf_depend_on_the_leaves_so_far(aggregator, leaves):
    running, _ = aggregator(aggregator.encode(leaves))
    for count in range(1, 6):
        prefix, _ = aggregator(aggregator.encode(leaves[:, :count]))
        torch.testing.assert_close(prefix[:, -1], running[:, count - 1])


def test_a_sequence_can_be_continued_from_its_state(aggregator, leaves):
    features = aggregator.encode(leaves)
    whole, _ = aggregator(features)
    first, state = aggregator(features[:, :2])
    rest, _ = aggregator(features[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)


def test_without_gradients_slides_are_encoded_one_by_one(aggregator, leaves, monkeypatch):
    encode, sizes = aggregator.encoder.forward, []
    monkeypatch.setattr(
        aggregator.encoder, "forward", lambda images: sizes.append(len(images)) or encode(images)
    )
    with torch.no_grad():
        features = aggregator.encode(leaves)
    assert sizes == [5, 5]
    torch.testing.assert_close(features, aggregator.encode(leaves).detach())


def test_an_auxiliary_classifier_averages_over_leaves(leaves):
    classifier = AuxiliaryClassifier("small", 2)
    each = torch.stack([classifier(leaves[:, at : at + 1]) for at in range(5)])
    torch.testing.assert_close(classifier(leaves), each.mean(dim=0))
