import pytest
import torch

from parfocal.models.magnet.leaves import AT_ONCE, AuxiliaryClassifier, Reader


@pytest.fixture
def reader():
    torch.manual_seed(0)
    return Reader("small", 3, hidden_dim=8).eval()


@pytest.fixture
def pictures():
    return torch.rand(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_answer_after_a_picture_is_that_to_the_pictures_so_far(reader, pictures):
    running, _ = reader(reader.encoded(pictures))
    for seen in range(1, 6):
        prefix, _ = reader(reader.encoded(pictures[:, :seen]))
        torch.testing.assert_close(prefix[:, -1], running[:, seen - 1])


def test_reading_goes_on_from_its_memory(reader, pictures):
    features = reader.encoded(pictures)
    whole, _ = reader(features)
    first, memory = reader(features[:, :2])
    rest, _ = reader(features[:, 2:], memory)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)


def test_activations_computed_again_give_the_same_gradient():
    pictures = torch.rand(1, AT_ONCE + 3, 3, 32, 32)
    gradients = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        reader = Reader("small", 2, hidden_dim=8, gradient_checkpointing=gradient_checkpointing)
        reader(reader.encoded(pictures))[0].square().sum().backward()
        gradients.append([weight.grad for weight in reader.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_glance_is_the_mean_over_pictures(pictures):
    glance = AuxiliaryClassifier("small", 2)
    each = torch.stack([glance(pictures[:, at : at + 1]) for at in range(5)])
    torch.testing.assert_close(glance(pictures), each.mean(dim=0))
