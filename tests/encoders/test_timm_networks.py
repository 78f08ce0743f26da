import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from parfocal.encoders.loading import load_encoder
from parfocal.encoders.weights import EncoderError

MISSING_OPERATOR = "operator torchvision::nms does not exist"


class Averages(nn.Module):
    """A stand-in for a network of timm."""

    def __init__(self):
        super().__init__()
        self.pretrained_cfg = {"license": "mit"}
        self.layer = nn.Linear(3, 5)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm, which is not installed everywhere; records the calls of create_model."""
    config = {
        "input_size": (3, 48, 48),
        "interpolation": "bicubic",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
    }
    module = ModuleType("timm")
    module.calls = []

    def create_model(name, **settings):
        module.calls.append((name, settings))
        return Averages()

    module.create_model = create_model
    module.data = SimpleNamespace(resolve_model_data_config=lambda _: config)
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_pixels_are_prepared_as_timm_configures(timm):
    encoder = load_encoder("timm:small_vit")
    spec = encoder.spec
    assert (spec.name, spec.dim, spec.input_size) == ("timm:small_vit", 5, 48)
    assert (spec.mean, spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (spec.interpolation, spec.license) == ("bicubic", "mit")
    assert len(spec.weights_hash) == 16
    gray = encoder(np.full((1, 48, 48, 3), 255, dtype=np.uint8))
    expected = encoder.network.layer(torch.tensor([[0.5 / 0.2, 0.6 / 0.3, 0.7 / 0.4]]))
    assert torch.allclose(gray, expected, atol=1e-5)


def test_a_network_comes_without_its_classifier(timm):
    load_encoder("timm:hf-hub:owner/name")
    name, settings = timm.calls[0]
    assert name == "hf-hub:owner/name"
    assert settings["pretrained"]
    assert settings["num_classes"] == 0


def test_weights_can_be_read_from_a_file(timm, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    load_encoder("timm:small_vit", weights=tmp_path / "w.safetensors")
    overlay = timm.calls[0][1]["pretrained_cfg_overlay"]
    assert overlay["state_dict"]["a"].tolist() == [1]


def test_a_missing_weights_file_is_named_before_timm_is_called(timm, tmp_path):
    with pytest.raises(EncoderError, match=r"w\.pth: no such weights file"):
        load_encoder("timm:small_vit", weights=tmp_path / "w.pth")
    assert not timm.calls


def test_an_error_of_timm_is_quoted(timm):
    def create_model(name, **settings):
        raise OSError("no connection\nand much more")

    timm.create_model = create_model
    with pytest.raises(EncoderError, match=r"timm:resnet18: .*\(OSError: no connection\)\. Check"):
        load_encoder("timm:resnet18")


@pytest.fixture
def broken_timm(monkeypatch, tmp_path):
    """A timm that fails on import, as with a torchvision that does not match torch."""
    (tmp_path / "timm.py").write_text(f"raise RuntimeError({MISSING_OPERATOR!r})")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_timm_that_cannot_be_imported_is_explained(broken_timm):
    message = rf"timm:resnet18: timm cannot be imported \(RuntimeError: {MISSING_OPERATOR}\).*pip"
    with pytest.raises(EncoderError, match=message):
        load_encoder("timm:resnet18")


def test_without_timm_resnet50_needs_a_file(broken_timm):
    with pytest.raises(EncoderError, match=r"resnet50-layer3: timm cannot .*encoder.weights=PATH"):
        load_encoder("resnet50-layer3")


REAL_TIMM = """
import os, sys, types
os.environ["HF_HUB_OFFLINE"] = "1"
# A torchvision with CUDA and a torch without: these two modules register CUDA operators.
for name in ("torchvision._meta_registrations", "torchvision._autograd_registrations"):
    sys.modules[name] = types.ModuleType(name)
import numpy as np, timm
from pathlib import Path
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.weights import EncoderError
from safetensors.torch import save_file
folder = Path(sys.argv[1])
network = timm.create_model("resnet50", pretrained=False).eval()
save_file(network.state_dict(), folder / "resnet50.safetensors")
for name, dim in (("timm:resnet50", 2048), ("resnet50-layer3", 1024)):
    encoder = load_encoder(name, weights=folder / "resnet50.safetensors", runtime="torch")
    assert encoder.spec.dim == dim, encoder.spec
    assert encoder(np.zeros((2, 64, 64, 3), dtype=np.uint8)).shape == (2, dim)
for name in ("timm:no_such_network", "timm:resnet18", "resnet50-layer3", "timm:hf-hub:no/such"):
    try:
        load_encoder(name)
    except EncoderError as error:
        reason = "HF_HUB_OFFLINE is set" if "hf-hub" in name else "timm could not"
        assert reason in str(error), error
    else:
        raise AssertionError(f"{name} was loaded")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("timm") is None, reason="needs parfocal[timm]")
def test_the_real_timm_loads_networks(tmp_path):
    subprocess.run([sys.executable, "-c", REAL_TIMM, str(tmp_path)], check=True)
