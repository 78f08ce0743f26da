import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from parfocal.encoders.device import choose_device
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.spec import EncoderSpec
from parfocal.encoders.weights import EncoderError, read_lite0
from parfocal.encoders import loading as loading_module


class Pixels(nn.Module):
    """Gives what it is fed."""

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
    return Encoder(spec, Pixels())


def drawn_patches(count, size=256):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def relative(features, wanted):
    return ((features - wanted).abs().max() / wanted.abs().max()).item()


@pytest.fixture(scope="module", params=["torch", "onnx"])
def lite0(request):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime", reason="needs parfocal[onnx]")
    return load_encoder("efficientnet-lite0", runtime=request.param)


def test_pixels_are_normalized_as_told():
    patch = np.array([[[0, 51, 255]]], dtype=np.uint8)[None]
    features = pixels_encoder(1, mean=0.2, std=0.5)(patch)
    assert features[0].tolist() == pytest.approx([-0.4, 0, 1.6])


def test_a_patch_of_the_input_size_is_fed_as_it_is():
    patches = drawn_patches(2, size=8)
    features = pixels_encoder(8)(patches).view(2, 3, 8, 8).permute(0, 2, 3, 1)
    assert (features * 255).round().numpy().tolist() == patches.tolist()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_averages_over_areas(interpolation):
    stripes = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 200
    features = pixels_encoder(4, interpolation=interpolation)(stripes) * 255
    assert (features - 100).abs().max() <= 4


def test_a_patch_may_be_smaller_than_the_input():
    assert pixels_encoder(4)(np.full((1, 2, 2, 3), 255, dtype=np.uint8)).tolist() == [[1.0] * 48]


def test_no_patches_give_no_features():
    assert load_encoder("tiny")(drawn_patches(0)).shape == (0, 32)


def test_patches_that_may_not_be_written_are_encoded():
    patches = drawn_patches(3, size=80)
    wanted = load_encoder("tiny")(patches)
    patches.flags.writeable = False
    assert torch.equal(load_encoder("tiny")(patches), wanted)
    assert torch.equal(load_encoder("tiny")(patches[::-1])[0], wanted[2])


def test_a_model_can_be_trained_on_features():
    layer = nn.Linear(32, 2)
    layer(load_encoder("tiny")(drawn_patches(2, size=64))).sum().backward()
    assert layer.weight.grad is not None


def test_efficientnet_answers_as_timms(lite0):
    # timm 1.0.31's tf_efficientnet_lite0 with the same weights.
    y, x = np.mgrid[:224, :224]
    channels = ((y * y + 3 * x) % 256, (x * x + 5 * y) % 256, (x * y) % 256)
    features = lite0(np.stack(channels, -1).astype(np.uint8)[None])[0]
    wanted = [0.953, 0, 0, 0.03865, 0.0268, 0.47323, 0.01658, 0]
    assert features[::160].tolist() == pytest.approx(wanted, abs=1e-4)
    assert features.sum().item() == pytest.approx(236.00348, rel=1e-4)


def test_batch_mates_change_features_only_by_rounding(lite0):
    patches = drawn_patches(32)
    alone = torch.cat([lite0(patch[None]) for patch in patches])
    in_threes = torch.cat([lite0(patches[start : start + 3]) for start in range(0, 32, 3)])
    together = lite0(patches)
    assert relative(alone, together) < 1e-4
    assert relative(in_threes, together) < 1e-4


def test_features_rounded_for_storing_differ_by_one_step_at_most(lite0):
    patches = drawn_patches(16)
    alone = torch.cat([lite0(patch[None]) for patch in patches]).half().float()
    together = lite0(patches).half().float()
    step = 2.0**-10 * together.abs() + 1e-4 * together.abs().max()
    assert ((alone - together).abs() <= step).all()


def test_the_same_patches_give_the_same_bits(lite0):
    patches = drawn_patches(5)
    assert torch.equal(lite0(patches), lite0(patches))


def test_runtimes_agree():
    pytest.importorskip("onnxruntime", reason="needs parfocal[onnx]")
    patches = drawn_patches(4)
    for name in ("efficientnet-lite0", "resnet50-layer3-random"):
        in_torch, in_onnx = (
            load_encoder(name, runtime=runtime)(patches) for runtime in ("torch", "onnx")
        )
        assert relative(in_onnx, in_torch) < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet50-layer3-random"])
def test_half_precision_on_a_gpu_agrees_with_the_cpu(name):
    patches = drawn_patches(4)
    on_gpu, on_cpu = (load_encoder(name, device=device)(patches) for device in ("cuda", "cpu"))
    assert on_gpu.dtype == torch.float32
    assert relative(on_gpu.cpu(), on_cpu) < 1e-2


@pytest.mark.parametrize(
    ("name", "dim", "size"),
    [("efficientnet-lite0", 1280, 224), ("resnet50-layer3-random", 1024, 256), ("tiny", 32, 64)],
)
def test_an_encoder_says_what_it_is(name, dim, size):
    encoder = load_encoder(name, runtime="torch")
    spec = encoder.spec
    assert (spec.name, spec.dim, spec.input_size, spec.mpp_range) == (name, dim, size, (0.05, 50))
    assert encoder(drawn_patches(1)).shape == (1, dim)


def test_the_published_weights_have_their_hash_and_license():
    spec = load_encoder("efficientnet-lite0", runtime="torch").spec
    assert (spec.weights_hash, spec.license) == ("6c5b6816875a002e", "Apache-2.0")


def test_weights_from_a_file_take_the_place_of_the_published(tmp_path):
    weights = read_lite0()
    torch.save(weights, tmp_path / "same.pth")
    torch.save(weights | {"_bn1.bias": weights["_bn1.bias"] + 1}, tmp_path / "other.pth")
    published, same, other = (
        load_encoder("efficientnet-lite0", weights=path, runtime="torch")
        for path in (None, tmp_path / "same.pth", tmp_path / "other.pth")
    )
    patches = drawn_patches(1)
    assert torch.equal(published(patches), same(patches))
    assert published.spec.weights_hash == same.spec.weights_hash
    assert published.spec.weights_hash != other.spec.weights_hash
    assert not torch.equal(published(patches), other(patches))
    assert other.spec.license == "as the weights file's"


def test_drawn_weights_say_so():
    spec = load_encoder("resnet50-layer3-random", runtime="torch").spec
    assert spec.weights_hash == "random-seed-0"
    assert spec.license == "none, drawn from a seed"


def test_macs_are_those_of_the_network_at_its_input_size():
    encoder = load_encoder("resnet50-layer3-random", runtime="torch")
    assert encoder.macs_per_patch() == encoder.macs_per_patch() == 4_281_335_808


def test_auto_takes_onnxruntime_only_where_it_is_installed(monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs parfocal[onnx]")
    with_it = load_encoder("efficientnet-lite0")
    monkeypatch.setattr(loading_module, "find_spec", lambda _: None)
    without = load_encoder("efficientnet-lite0")
    assert type(with_it.run).__name__ == "OnnxNetwork"
    assert without.run is without.network


def test_the_allocator_is_tuned_for_torch_on_a_cpu_unless_told(monkeypatch):
    calls = []
    monkeypatch.setattr(loading_module, "keep_freed_memory", lambda: calls.append(1))
    load_encoder("tiny", tune_allocator=False)
    assert not calls
    load_encoder("tiny")
    assert calls


def test_loading_the_default_loads_nothing_slow():
    code = """
import sys
from parfocal.encoders.loading import load_encoder
load_encoder("efficientnet-lite0", runtime="torch").macs_per_patch()
slow = {"timm", "torchvision", "onnx", "onnxruntime", "torch._dynamo", "sympy", "scipy", "sklearn"}
sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_encoder_is_answered_with_the_known():
    with pytest.raises(ValueError, match="'resnet18' is not known; choose efficientnet-lite0, res"):
        load_encoder("resnet18")


def test_an_encoder_that_draws_its_weights_takes_none(tmp_path):
    with pytest.raises(ValueError, match=r"'tiny' draws its weights, so it cannot use .*w\.pth"):
        load_encoder("tiny", weights=tmp_path / "w.pth")


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(EncoderError, match=r"r50\.pth: no such weights file"):
        load_encoder("resnet50-layer3", weights=tmp_path / "r50.pth")


def test_an_unknown_device_is_answered_with_the_known():
    with pytest.raises(ValueError, match="'gpu' is not known; choose auto, cpu, cuda or cuda:1"):
        load_encoder("tiny", device="gpu")


def test_a_missing_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda': torch .* finds no CUDA device; use cpu"):
        load_encoder("tiny", device="cuda")
    assert choose_device("auto") == torch.device("cpu")


def test_onnx_says_what_it_cannot_run(monkeypatch):
    with pytest.raises(ValueError, match=r"cannot run tiny on cpu: it takes .*'parfocal\[onnx\]'"):
        load_encoder("tiny", runtime="onnx")
    monkeypatch.setattr(loading_module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="cannot run efficientnet-lite0 on cpu"):
        load_encoder("efficientnet-lite0", runtime="onnx")
