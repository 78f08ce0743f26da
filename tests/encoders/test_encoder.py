from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from parfocal.encoders.encoder import NetworkEncoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.spec import EncoderSpec


class Pixels(nn.Module):
    """A network that returns its input."""

    def forward(self, x):
        return x.flatten(1)


def pixels_encoder(size, *, mean=0.0, std=1.0, interpolation="bilinear"):
    spec = EncoderSpec(
        name="pixels",
        dim=3 * size * size,
        input_size=size,
        mean=(mean,) * 3,
        std=(std,) * 3,
        mpp_range=(0.05, 50.0),
        license="none",
        weights_hash="0" * 16,
        interpolation=interpolation,
    )
    return NetworkEncoder(spec, Pixels())


def random_patches(count, size=256):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def relative_difference(features, expected):
    return ((features - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module", params=["torch", "onnx"])
def lite0(request):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime", reason="needs parfocal[onnx]")
    return load_encoder("efficientnet-lite0", runtime=request.param)


def test_pixels_are_normalized_by_mean_and_deviation():
    patch = np.array([[[0, 51, 255]]], dtype=np.uint8)[None]
    features = pixels_encoder(1, mean=0.2, std=0.5)(patch)
    assert features[0].tolist() == pytest.approx([-0.4, 0, 1.6])


def test_a_patch_of_the_input_size_is_not_resampled():
    patches = random_patches(2, size=8)
    features = pixels_encoder(8)(patches).view(2, 3, 8, 8).permute(0, 2, 3, 1)
    assert (features * 255).round().numpy().tolist() == patches.tolist()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_averages_over_areas(interpolation):
    stripes = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 200
    features = pixels_encoder(4, interpolation=interpolation)(stripes) * 255
    assert (features - 100).abs().max() <= 4


def test_a_patch_smaller_than_the_input_is_enlarged():
    assert pixels_encoder(4)(np.full((1, 2, 2, 3), 255, dtype=np.uint8)).tolist() == [[1.0] * 48]


def test_the_center_of_a_resized_patch_is_cropped():
    spec = replace(pixels_encoder(2).spec, resize_px=4)
    steps = np.arange(0, 160, 10, dtype=np.uint8).reshape(1, 4, 4, 1)
    whole = np.repeat(steps, 3, axis=3)
    features = NetworkEncoder(spec, Pixels())(whole) * 255
    assert features.view(3, 2, 2)[0].round().tolist() == [[50, 60], [90, 100]]
    twice = whole.repeat(2, axis=1).repeat(2, axis=2)
    shrunk = NetworkEncoder(spec, Pixels())(twice) * 255
    assert (shrunk - features).abs().max() < 12  # the filter reaches beyond each square


def test_no_patches_give_no_features():
    assert load_encoder("tiny")(random_patches(0)).shape == (0, 32)


def test_read_only_patches_are_encoded():
    patches = random_patches(3, size=80)
    expected = load_encoder("tiny")(patches)
    patches.flags.writeable = False
    assert torch.equal(load_encoder("tiny")(patches), expected)
    assert torch.equal(load_encoder("tiny")(patches[::-1])[0], expected[2])


def test_a_model_can_be_trained_on_features():
    layer = nn.Linear(32, 2)
    layer(load_encoder("tiny")(random_patches(2, size=64))).sum().backward()
    assert layer.weight.grad is not None


def test_efficientnet_computes_the_features_of_timm(lite0):
    # timm 1.0.31's tf_efficientnet_lite0 with the same weights.
    y, x = np.mgrid[:224, :224]
    channels = ((y * y + 3 * x) % 256, (x * x + 5 * y) % 256, (x * y) % 256)
    features = lite0(np.stack(channels, -1).astype(np.uint8)[None])[0]
    expected = [0.953, 0, 0, 0.03865, 0.0268, 0.47323, 0.01658, 0]
    assert features[::160].tolist() == pytest.approx(expected, abs=1e-4)
    assert features.sum().item() == pytest.approx(236.00348, rel=1e-4)


def test_the_batch_changes_features_only_by_rounding(lite0):
    patches = random_patches(32)
    alone = torch.cat([lite0(patch[None]) for patch in patches])
    in_threes = torch.cat([lite0(patches[start : start + 3]) for start in range(0, 32, 3)])
    together = lite0(patches)
    assert relative_difference(alone, together) < 1e-4
    assert relative_difference(in_threes, together) < 1e-4


def test_features_rounded_to_float16_differ_by_one_step_at_most(lite0):
    patches = random_patches(16)
    alone = torch.cat([lite0(patch[None]) for patch in patches]).half().float()
    together = lite0(patches).half().float()
    step = 2.0**-10 * together.abs() + 1e-4 * together.abs().max()
    assert ((alone - together).abs() <= step).all()


def test_the_same_patches_give_the_same_bits(lite0):
    patches = random_patches(5)
    assert torch.equal(lite0(patches), lite0(patches))


def test_runtimes_agree():
    pytest.importorskip("onnxruntime", reason="needs parfocal[onnx]")
    patches = random_patches(4)
    for name in ("efficientnet-lite0", "resnet50-layer3-random"):
        in_torch, in_onnx = (
            load_encoder(name, runtime=runtime)(patches) for runtime in ("torch", "onnx")
        )
        assert relative_difference(in_onnx, in_torch) < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet50-layer3-random"])
def test_half_precision_on_a_gpu_agrees_with_the_cpu(name):
    patches = random_patches(4)
    on_gpu, on_cpu = (load_encoder(name, device=device)(patches) for device in ("cuda", "cpu"))
    assert on_gpu.dtype == torch.float32
    assert relative_difference(on_gpu.cpu(), on_cpu) < 1e-2


def test_macs_are_counted_at_the_input_size():
    encoder = load_encoder("resnet50-layer3-random", runtime="torch")
    assert encoder.macs_per_patch() == 4_281_335_808
