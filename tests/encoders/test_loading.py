import subprocess
import sys

import numpy as np
import pytest
import torch

from parfocal.encoders import loading
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.weights import EncoderError, read_lite0


def random_patches(count, size=256):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "dim", "size"),
    [("efficientnet-lite0", 1280, 224), ("resnet50-layer3-random", 1024, 256), ("tiny", 32, 64)],
)
def test_an_encoder_has_its_name_dimension_and_input_size(name, dim, size):
    encoder = load_encoder(name, runtime="torch")
    spec = encoder.spec
    assert (spec.name, spec.dim, spec.input_size, spec.mpp_range) == (name, dim, size, (0.05, 50))
    assert encoder(random_patches(1)).shape == (1, dim)


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
    patches = random_patches(1)
    assert torch.equal(published(patches), same(patches))
    assert published.spec.weights_hash == same.spec.weights_hash
    assert published.spec.weights_hash != other.spec.weights_hash
    assert not torch.equal(published(patches), other(patches))
    assert other.spec.license == "as the weights file's"


def test_random_weights_have_no_hash_and_no_license():
    spec = load_encoder("resnet50-layer3-random", runtime="torch").spec
    assert spec.weights_hash == "random-seed-0"
    assert spec.license == "none, drawn from a seed"


def test_auto_uses_onnxruntime_only_if_it_is_installed(monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs parfocal[onnx]")
    with_it = load_encoder("efficientnet-lite0")
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    without = load_encoder("efficientnet-lite0")
    assert type(with_it.run).__name__ == "OnnxNetwork"
    assert without.run is without.network


def test_the_allocator_is_tuned_for_torch_on_a_cpu_unless_disabled(monkeypatch):
    calls = []
    monkeypatch.setattr(loading, "keep_freed_memory", lambda: calls.append(1))
    load_encoder("tiny", tune_allocator=False)
    assert not calls
    load_encoder("tiny")
    assert calls


def test_loading_the_default_encoder_imports_no_slow_package():
    code = """
import sys
from parfocal.encoders.loading import load_encoder
load_encoder("efficientnet-lite0", runtime="torch").macs_per_patch()
slow = {"timm", "torchvision", "onnx", "onnxruntime", "torch._dynamo", "sympy", "scipy", "sklearn"}
sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_encoder_is_refused_with_the_nearest_names():
    with pytest.raises(
        ValueError, match=r"'uni2h-' is not known; similar names: uni2-h, uni.*timm:"
    ):
        load_encoder("uni2h-")
    with pytest.raises(ValueError, match=r"'qqqq' is not known\. `parfocal encoders` lists"):
        load_encoder("qqqq")


def test_an_output_that_an_encoder_lacks_is_refused():
    for name in ("efficientnet-lite0", "tiny"):
        with pytest.raises(ValueError, match=f"encoder {name} has no output 'cls'; choose pooled"):
            load_encoder(name, output="cls")


def test_an_encoder_with_random_weights_takes_no_weights_file(tmp_path):
    with pytest.raises(ValueError, match=r"'tiny' has random weights, so it cannot use .*w\.pth"):
        load_encoder("tiny", weights=tmp_path / "w.pth")


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(EncoderError, match=r"r50\.pth: no such weights file"):
        load_encoder("resnet50-layer3", weights=tmp_path / "r50.pth")


def test_onnx_is_refused_for_networks_that_it_cannot_run(monkeypatch):
    with pytest.raises(ValueError, match=r"cannot run tiny on cpu: it runs .*'parfocal\[onnx\]'"):
        load_encoder("tiny", runtime="onnx")
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="cannot run efficientnet-lite0 on cpu"):
        load_encoder("efficientnet-lite0", runtime="onnx")
