import pytest
import torch

from parfocal.models.magnet.classifiers import (
    CHECKPOINT_BATCH_SIZE,
    AuxiliaryClassifier,
    LeafAggregator,
)


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


def test_gradient_checkpointing_changes_no_gradient():
    leaves = torch.rand(1, CHECKPOINT_BATCH_SIZE + 3, 3, 32, 32)
    gradients = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        aggregator = LeafAggregator(
            "small", 2, hidden_dim=8, gradient_checkpointing=gradient_checkpointing
        )
        aggregator(aggregator.encode(leaves))[0].square().sum().backward()
        gradients.append([weight.grad for weight in aggregator.parameters()])
    torch.testing.assert_close(*gradients)


def test_an_auxiliary_classifier_averages_over_leaves(leaves):
    classifier = AuxiliaryClassifier("small", 2)
    each = torch.stack([classifier(leaves[:, at : at + 1]) for at in range(5)])
    torch.testing.assert_close(classifier(leaves), each.mean(dim=0))
