import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from parfocal.encoders.loading import load_encoder
from parfocal.encoders.weights import EncoderError
from parfocal.models.layers.backbone import Backbone


def test_pretrained_lite0_equals_the_encoder_of_that_name():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    backbone = Backbone("efficientnet-lite0")
    backbone.load_pretrained()
    ours = backbone(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    theirs = load_encoder("efficientnet-lite0", runtime="torch")(pixels)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite0-stem", "small"])
def test_every_weight_gets_a_gradient(name):
    backbone = Backbone(name)
    backbone.load_pretrained()
    backbone(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(weight.grad is not None for weight in backbone.parameters())


@pytest.mark.parametrize("name", ["efficientnet-lite0", "small"])
def test_the_features_are_the_mean_of_the_feature_maps(name):
    backbone, images = Backbone(name), torch.rand(2, 3, 96, 64)
    maps = backbone.feature_maps(images)
    assert maps.shape[2] / maps.shape[3] == 96 / 64
    torch.testing.assert_close(backbone(images), maps.mean((2, 3)))


def test_the_stem_of_lite0_is_its_first_five_blocks_and_a_norm():
    stem, whole = Backbone("efficientnet-lite0-stem"), Backbone("efficientnet-lite0")
    for each in (stem, whole):
        each.load_pretrained()
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network, x = whole.network, (images - whole.mean) / whole.std
    maps = stem.feature_maps(images)
    expected = network.blocks[:5](network.conv_stem(x).clamp(0, 6))
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)
    pooled = maps.mean((2, 3))
    normed = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(stem(images), normed)


def test_the_features_of_an_image_do_not_depend_on_its_batch():
    backbone, images = Backbone("small"), torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(backbone(images)[:1], backbone(images[:1]))


@pytest.fixture
def timm(monkeypatch):
    """Replace timm, which is optional, by a module that records how it is called."""

    def create_model(name, *, pretrained, pretrained_cfg_overlay, **_):
        module.calls.append((name, pretrained, pretrained_cfg_overlay.get("state_dict")))
        return nn.Sequential(
            *(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Dropout()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )

    config = {"input_size": (3, 8, 8), "interpolation": "bilinear"}
    config |= {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    module = ModuleType("timm")
    module.calls = []
    module.create_model = create_model
    module.data = SimpleNamespace(resolve_model_data_config=lambda _: config)
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_a_timm_network_is_built_without_weights_until_they_are_loaded(timm):
    backbone = Backbone("timm:resnet18")
    backbone.load_pretrained()
    assert timm.calls == [("resnet18", False, None), ("resnet18", True, None)]
    assert backbone(torch.rand(1, 3, 8, 8)).shape == (1, 5)


def test_a_weights_file_for_timm_is_only_needed_when_weights_are_loaded(timm, tmp_path):
    name = f"timm:resnet18={tmp_path / 'w.pth'}"
    backbone = Backbone(name)  # as on another machine, where a checkpoint is loaded
    with pytest.raises(EncoderError, match=r"w\.pth: no such weights file"):
        backbone.load_pretrained()
    torch.save({"0.weight": torch.full((5, 3, 1, 1), 0.5)}, tmp_path / "w.pth")
    backbone.load_pretrained()
    name, pretrained, tensors = timm.calls[-1]
    assert (name, pretrained, list(tensors)) == ("resnet18", True, ["0.weight"])
    assert torch.equal(tensors["0.weight"], torch.full((5, 3, 1, 1), 0.5))


def test_in_a_timm_network_only_batch_norms_stay_in_evaluation_mode(timm):
    _, norm, dropout, *_ = Backbone("timm:resnet18").network
    assert dropout.training
    assert not norm.training


def test_a_missing_timm_is_an_error_that_names_an_alternative(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = "timm:resnet18: timm cannot be imported .* Or use efficientnet-lite0, which is"
    with pytest.raises(EncoderError, match=message):
        Backbone("timm:resnet18")


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="backbone='vgg' is unknown; it is efficientnet-lite0"):
        Backbone("vgg")


def test_pretrained_weights_can_be_saved():
    backbone = Backbone("efficientnet-lite0")
    backbone.load_pretrained()
    saved = safetensors.torch.load(safetensors.torch.save(backbone.state_dict()))
    assert all(torch.equal(saved[name], value) for name, value in backbone.state_dict().items())
