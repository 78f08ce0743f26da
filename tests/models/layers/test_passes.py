"""Running a batch in passes equals running it at once, and needs less memory."""

import pytest
import torch
from torch import nn

from parfocal.models.layers.passes import NetworkMemory, Passes, StepMemory, kept_bytes

IMAGES = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3), nn.Flatten())


def sizes_of(passes: Passes, *, images_per_slide: int) -> list[int]:
    sizes: list[int] = []

    def record(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images

    passes.run(record, IMAGES, images_per_slide=images_per_slide)
    return sizes


def test_a_pass_has_the_images_of_its_slides():
    assert sizes_of(Passes(), images_per_slide=2) == [7]
    assert sizes_of(Passes(1), images_per_slide=2) == [2, 2, 2, 1]
    assert sizes_of(Passes(2), images_per_slide=2) == [4, 3]


def test_without_gradients_there_is_one_pass():
    with torch.no_grad():
        assert sizes_of(Passes(1), images_per_slide=2) == [7]


def test_no_image_at_all_is_allowed():
    assert Passes(1).run(lambda x: x, IMAGES[:0], images_per_slide=2).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("slides", [None, 1, 2, 9])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_passes_change_no_gradient(slides, gradient_checkpointing):
    whole, parts = network(), network()
    whole(IMAGES).square().sum().backward()
    passes = Passes(slides, gradient_checkpointing)
    passes.run(parts, IMAGES, images_per_slide=2).square().sum().backward()
    for ours, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


def test_the_tensors_that_a_convolution_and_a_tanh_keep_are_counted_without_weights():
    total, largest = kept_bytes(lambda: network()(IMAGES))
    input_bytes, tanh_bytes = 4 * 7 * 3 * 8 * 8, 4 * 7 * 4 * 6 * 6
    assert (total, largest) == (input_bytes + tanh_bytes, input_bytes)


def test_with_checkpointing_only_the_images_are_kept():
    step = Passes(2, gradient_checkpointing=True)
    total, _ = kept_bytes(lambda: step.run(network(), IMAGES, images_per_slide=2))
    assert total == 4 * 7 * 3 * 8 * 8


STEP = StepMemory(
    (NetworkMemory(100, 10), NetworkMemory(50, 20, splits=False)), per_slide=3, working=7
)


def test_without_checkpointing_the_activations_of_all_slides_and_networks_are_kept():
    assert STEP.total(4, Passes()) == 4 * (100 + 50 + 20 + 3)


def test_with_checkpointing_those_of_one_pass_are_kept():
    assert STEP.total(4, Passes(1, gradient_checkpointing=True)) == 4 * (50 + 20) + 4 * 3
    assert STEP.total(4, Passes(3, gradient_checkpointing=True)) == 3 * 110 + 4 * 3
    assert STEP.total(4, Passes(9, gradient_checkpointing=True)) == 4 * 110 + 4 * 3


def test_temporary_tensors_count_if_they_are_larger_than_the_networks():
    step = StepMemory((), per_slide=3, working=7)
    assert step.total(2, Passes()) == 2 * 3 + 7
