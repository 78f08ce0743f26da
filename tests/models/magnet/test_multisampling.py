"""The linearized sampler against closed forms, and against plain bilinear sampling."""

import math

import pytest
import torch
from torch import Tensor

from parfocal.models.magnet.multisampling import (
    GRID_SPREAD,
    PUSH_AWAY,
    LinearizedSampler,
    bilinear,
)


def sampler(points: int = 8, *, seed: int = 0, **settings) -> LinearizedSampler:
    return LinearizedSampler(points, generator=torch.Generator().manual_seed(seed), **settings)


def centers(side: int) -> Tensor:
    """The centers of pixels, -1 and 1 the outer edges."""
    return (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1


def picture(side: int, brightness) -> Tensor:
    """An image of one channel, from a function of x and y."""
    y, x = torch.meshgrid(centers(side), centers(side), indexing="ij")
    return brightness(x, y)[None, None]


def grid(side: int, *, scale: float = 0.4, shift: float = 0.0) -> Tensor:
    at = scale * centers(side) + shift
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], dim=-1)[None, None].requires_grad_()


def gradient(sample, image: Tensor, at: Tensor) -> Tensor:
    (given,) = torch.autograd.grad(sample(image, at).sum(), at)
    return given


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.05, 0.4])
def test_on_an_affine_image_the_gradient_is_its_slope_for_any_draw(seed, scale):
    image = picture(32, lambda x, y: 0.3 * x - 0.8 * y + 0.1)
    given = gradient(sampler(seed=seed), image, grid(6, scale=scale))
    slope = torch.tensor([0.3, -0.8], dtype=torch.float64).expand(1, 1, 6, 6, 2)
    torch.testing.assert_close(given, slope, rtol=1e-4, atol=0)  # but for the ridge


def test_the_output_is_the_bilinear_one():
    image = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).double()
    at = grid(5).expand(2, 1, 5, 5, 2)
    torch.testing.assert_close(sampler()(image, at), bilinear(image, at))


def test_without_fixed_bias_the_output_of_training_is_noisy_and_later_bilinear():
    image = picture(16, lambda x, y: torch.sin(9 * x + 5 * y))
    layer, at = sampler(fixed_bias=False), grid(5)
    assert not torch.allclose(layer(image, at), bilinear(image, at))
    assert not torch.allclose(layer(image, at), layer(image, at))
    torch.testing.assert_close(layer.eval()(image, at), bilinear(image, at))


def test_many_points_on_a_sinusoid_give_the_slope_of_the_smoothed_sinusoid():
    side, waves, out = 256, 6.0, 20
    image = picture(side, lambda x, y: torch.sin(waves * x) + 0 * y)
    at = torch.tensor([0.2, 0.0]).double().repeat(1, 1, out, out, 1).requires_grad_()
    slopes = gradient(sampler(2000), image, at)[..., 0]
    # The offsets of x have this variance; Gaussian smoothing damps a wave by exp(-waves² var / 2).
    variance = (GRID_SPREAD / out) ** 2 + (PUSH_AWAY / side) ** 2
    smoothed = waves * math.cos(waves * 0.2) * math.exp(-(waves**2) * variance / 2)
    error = float(slopes.std()) / out
    interpolation = waves**3 / side**2  # between pixels a sinusoid is a chord
    assert abs(float(slopes.mean()) - smoothed) < 4 * error + interpolation


def test_the_gradient_at_a_place_does_not_depend_on_the_zoom():
    image = picture(64, lambda x, y: torch.sin(3 * x) * torch.cos(2 * y))
    wide, narrow = (gradient(sampler(), image, grid(7, scale=scale)) for scale in (0.5, 0.05))
    torch.testing.assert_close(
        wide[0, 0, 3, 3], narrow[0, 0, 3, 3]
    )  # the middle lies at (0, 0) in both


def test_constant_images_give_no_gradient_and_nothing_infinite():
    image = torch.full((1, 3, 64, 64), 0.7)
    given = gradient(sampler(), image, grid(50).float())
    torch.testing.assert_close(given, torch.zeros_like(given), atol=1e-3, rtol=0)


def test_three_points_nearly_in_a_line_still_give_a_finite_slope():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert gradient(sampler(4), image, grid(200).float()).isfinite().all()


def test_points_far_outside_the_image_are_black_and_finite():
    image, at = torch.ones(1, 1, 4, 4), torch.full((1, 1, 2, 2, 2), 5.0).requires_grad_()
    sampled = sampler()(image, at)
    assert sampled.tolist() == [[[[[0, 0], [0, 0]]]]]
    assert gradient(sampler(), image, at).abs().sum() == 0


def test_the_image_gets_its_gradient_through_the_centers_alone():
    image = torch.rand(1, 2, 6, 6).double().requires_grad_()
    at = grid(4)
    (ours,) = torch.autograd.grad(sampler()(image, at).square().sum(), image)
    (plain,) = torch.autograd.grad(bilinear(image, at).square().sum(), image)
    torch.testing.assert_close(ours, plain)


def test_the_same_generator_gives_the_same_gradient():
    image = picture(16, lambda x, y: torch.sin(9 * x * y))
    first, again = (gradient(sampler(seed=3), image, grid(5)) for _ in range(2))
    assert torch.equal(first, again)


def test_an_image_of_a_batch_is_sampled_as_if_it_were_alone():
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    at = grid(4)
    together = gradient(sampler(), images, at.repeat(3, 1, 1, 1, 1))
    alone = torch.cat([gradient(sampler(), image[None], at) for image in images])
    torch.testing.assert_close(together, alone)


def test_views_of_an_image_are_sampled_as_if_each_were_the_only_one():
    image = picture(16, lambda x, y: torch.sin(9 * x * y))
    views = [grid(4, scale=0.3), grid(4, scale=0.6, shift=0.2)]
    both = torch.cat(views, dim=1)
    torch.testing.assert_close(sampler()(image, both)[:, 1:], bilinear(image, views[1]))
    apart = torch.cat([gradient(sampler(), image, view) for view in views], dim=1)
    torch.testing.assert_close(gradient(sampler(), image, both), apart)


def test_too_few_points_for_a_plane_are_refused():
    with pytest.raises(ValueError, match="points=3: a plane is fitted to 3 besides the center"):
        LinearizedSampler(3)
