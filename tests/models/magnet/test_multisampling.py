"""The linearized sampler agrees with closed forms and with bilinear sampling."""

import math

import pytest
import torch
from torch import Tensor

from parfocal.models.magnet.multisampling import (
    INPUT_SPREAD,
    OUTPUT_SPREAD,
    LinearizedSampler,
    bilinear,
)


def sampler(points: int = 8, *, seed: int = 0, **settings) -> LinearizedSampler:
    return LinearizedSampler(points, generator=torch.Generator().manual_seed(seed), **settings)


def centers(side: int) -> Tensor:
    """Return the centers of pixels between the edges -1 and 1."""
    return (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1


def picture(side: int, brightness) -> Tensor:
    """Return an image of one channel, computed from x and y."""
    y, x = torch.meshgrid(centers(side), centers(side), indexing="ij")
    return brightness(x, y)[None, None]


def grid(side: int, *, scale: float = 0.4, shift: float = 0.0) -> Tensor:
    at = scale * centers(side) + shift
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], dim=-1)[None, None].requires_grad_()


def gradient(sample, image: Tensor, at: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(sample(image, at).sum(), at)
    return result


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.05, 0.4])
def test_the_gradient_on_an_affine_image_is_its_slope_for_any_seed(seed, scale):
    image = picture(32, lambda x, y: 0.3 * x - 0.8 * y + 0.1)
    result = gradient(sampler(seed=seed), image, grid(6, scale=scale))
    slope = torch.tensor([0.3, -0.8], dtype=torch.float64).expand(1, 1, 6, 6, 2)
    torch.testing.assert_close(result, slope, rtol=1e-4, atol=0)  # not exact because of the ridge


def test_the_output_is_that_of_bilinear_sampling():
    image = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).double()
    at = grid(5).expand(2, 1, 5, 5, 2)
    torch.testing.assert_close(sampler()(image, at), bilinear(image, at))


def test_without_fixed_bias_the_output_is_noisy_in_training_and_bilinear_after_it():
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
    # Gaussian smoothing of this variance damps a wave by the factor exp(-waves² variance / 2).
    variance = (OUTPUT_SPREAD / out) ** 2 + (INPUT_SPREAD / side) ** 2
    smoothed = waves * math.cos(waves * 0.2) * math.exp(-(waves**2) * variance / 2)
    error = float(slopes.std()) / out
    interpolation = waves**3 / side**2  # bilinear interpolation of a sinusoid is piecewise linear
    assert abs(float(slopes.mean()) - smoothed) < 4 * error + interpolation


def test_the_gradient_at_a_point_does_not_depend_on_the_zoom():
    image = picture(64, lambda x, y: torch.sin(3 * x) * torch.cos(2 * y))
    wide, narrow = (gradient(sampler(), image, grid(7, scale=scale)) for scale in (0.5, 0.05))
    torch.testing.assert_close(wide[0, 0, 3, 3], narrow[0, 0, 3, 3])  # the center is (0, 0) in both


def test_the_gradient_on_a_constant_image_is_zero():
    image = torch.full((1, 3, 64, 64), 0.7)
    result = gradient(sampler(), image, grid(50).float())
    torch.testing.assert_close(result, torch.zeros_like(result), atol=1e-3, rtol=0)


def test_nearly_collinear_points_give_a_finite_slope():
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert gradient(sampler(4), image, grid(200).float()).isfinite().all()


def test_points_far_outside_the_image_are_black_without_gradient():
    image, at = torch.ones(1, 1, 4, 4), torch.full((1, 1, 2, 2, 2), 5.0).requires_grad_()
    sampled = sampler()(image, at)
    assert sampled.tolist() == [[[[[0, 0], [0, 0]]]]]
    assert gradient(sampler(), image, at).abs().sum() == 0


def test_the_gradient_of_the_image_is_that_of_bilinear_sampling():
    image = torch.rand(1, 2, 6, 6).double().requires_grad_()
    at = grid(4)
    (ours,) = torch.autograd.grad(sampler()(image, at).square().sum(), image)
    (plain,) = torch.autograd.grad(bilinear(image, at).square().sum(), image)
    torch.testing.assert_close(ours, plain)


def test_the_same_generator_gives_the_same_gradient():
    image = picture(16, lambda x, y: torch.sin(9 * x * y))
    first, again = (gradient(sampler(seed=3), image, grid(5)) for _ in range(2))
    assert torch.equal(first, again)


def test_the_gradient_of_an_image_does_not_depend_on_its_batch():
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    at = grid(4)
    batch = gradient(sampler(), images, at.repeat(3, 1, 1, 1, 1))
    alone = torch.cat([gradient(sampler(), image[None], at) for image in images])
    torch.testing.assert_close(batch, alone)


def test_a_view_does_not_depend_on_the_other_views_of_its_image():
    image = picture(16, lambda x, y: torch.sin(9 * x * y))
    views = [grid(4, scale=0.3), grid(4, scale=0.6, shift=0.2)]
    both = torch.cat(views, dim=1)
    torch.testing.assert_close(sampler()(image, both)[:, 1:], bilinear(image, views[1]))
    alone = torch.cat([gradient(sampler(), image, view) for view in views], dim=1)
    torch.testing.assert_close(gradient(sampler(), image, both), alone)


def test_too_few_points_for_a_plane_are_refused():
    with pytest.raises(ValueError, match="points=3: a plane is fitted to 3 points besides"):
        LinearizedSampler(3)
