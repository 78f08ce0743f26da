import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from parfocal.cost import count_macs
from parfocal.encoders.networks import (
    EfficientNetLite0,
    ResNet50Layer3,
    SameConv2d,
    TinyNetwork,
    fill_randomly,
    fold,
    norm_names,
)

LAYER3_MACS = 4.281e9  # ResNet-50 to layer 3 on 256 x 256, as counted on the poster of ZoomMIL


def picture(size):
    y, x = np.mgrid[:size, :size]
    channels = ((y * y + 3 * x) % 256, (x * x + 5 * y) % 256, (x * y) % 256)
    return np.stack(channels, -1).astype(np.uint8)[None]


def normalized(size, mean, std):
    pixels = torch.from_numpy(picture(size)).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def random_weights(network):
    """Random weights in the published form: convolutions without bias, each with a batch norm."""
    rng, weights = np.random.default_rng(0), {}
    for conv, norm in norm_names(network).items():
        shape = network.get_submodule(conv).weight.shape
        weights[f"{conv}.weight"] = rng.normal(0, shape[1:].numel() ** -0.5, shape)
        weights[f"{norm}.weight"] = rng.uniform(0.5, 1.5, shape[0])
        weights[f"{norm}.bias"] = rng.normal(0, 0.1, shape[0])
        weights[f"{norm}.running_mean"] = rng.normal(0, 0.1, shape[0])
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, shape[0])
    return {name: torch.from_numpy(value).float() for name, value in weights.items()}


@pytest.fixture(scope="module")
def resnet():
    network = ResNet50Layer3()
    fold(network, random_weights(network))
    return network.eval().requires_grad_(False)


def test_an_odd_row_of_padding_is_at_the_bottom_and_the_right():
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    assert conv(torch.ones(1, 1, 4, 4)).tolist() == [[[[9, 6], [6, 4]]]]


def test_padding_depends_on_the_input_size():
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    assert conv(torch.ones(1, 1, 3, 4)).tolist() == [[[[6, 4], [6, 4]]]]


def test_a_folded_batch_norm_computes_the_same_as_the_batch_norm():
    network = ResNet50Layer3()
    weights = random_weights(network)
    fold(network, weights)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = F.conv2d(x, weights["conv1.weight"], stride=2, padding=3)
    norm = (weights[f"bn1.{field}"] for field in ("running_mean", "running_var", "weight", "bias"))
    expected = F.batch_norm(plain, *norm, eps=1e-5)
    assert torch.allclose(network.conv1(x), expected, atol=1e-5)


def test_efficientnet_has_the_names_of_its_weights():
    names = norm_names(EfficientNetLite0())
    assert names["conv_stem"] == "bn0"
    assert names["blocks.1.expand_conv"] == "blocks.1.bn0"
    assert names["blocks.15.project_conv"] == "blocks.15.bn2"
    assert names["conv_head"] == "bn1"


def test_resnet_has_the_names_of_torchvision():
    names = norm_names(ResNet50Layer3())
    assert names["conv1"] == "bn1"
    assert names["layer3.5.conv3"] == "layer3.5.bn3"
    assert names["layer2.0.downsample.0"] == "layer2.0.downsample.1"


def test_resnet_computes_the_features_of_torchvision(resnet):
    # torchvision 0.28's resnet50 to layer3, averaged, with the same weights.
    expected = [3.65144, 10.24754, 5.16967, 0.13456, 8.93432, 0.11442, 12.4044, 0.62951]
    features = resnet(normalized(256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))[0]
    assert features[::128].tolist() == pytest.approx(expected, rel=1e-4)
    assert features.sum().item() == pytest.approx(4047.2175, rel=1e-5)


def test_the_macs_of_resnet_to_layer3_are_those_of_the_poster(resnet):
    assert count_macs(resnet, (1, 3, 256, 256)) == pytest.approx(LAYER3_MACS, rel=2e-4)


@pytest.mark.parametrize(
    ("tera", "patches"),
    [
        (16.45, 3842),  # all patches at 10x
        (0.257, 3842 / 64),  # all patches at 1.25x
        (1.29, 3842 / 64 + 12 * 4 + 12 * 16),  # ZoomMIL, K=12: 20 children for each of 12
        (0.40, 3842 / 64 + 8 * 4),  # ZoomMIL-Eff, K=8
    ],
)
def test_the_macs_of_the_poster_follow_from_its_patches(resnet, tera, patches):
    assert patches * count_macs(resnet, (1, 3, 256, 256)) / 1e12 == pytest.approx(tera, rel=0.02)


def test_the_macs_of_efficientnet_are_those_of_timm():
    # timm 1.0.31's tf_efficientnet_lite0 without classifier, by torch's counter.
    assert count_macs(EfficientNetLite0().eval(), (1, 3, 224, 224)) == 383_907_552


@pytest.mark.parametrize("kind", [EfficientNetLite0, ResNet50Layer3, TinyNetwork])
def test_the_same_seed_gives_the_same_weights(kind):
    first, again = kind(), kind()
    for network in (first, again):
        fill_randomly(network, seed=3)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )


def test_random_weights_keep_activations_of_order_one():
    network = ResNet50Layer3()
    fill_randomly(network, seed=0)
    with torch.no_grad():
        features = network(normalized(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    assert 0.1 < features.std() < 10


def test_the_first_features_of_the_tiny_network_are_colors():
    network = TinyNetwork()
    fill_randomly(network, seed=0)
    gray = network(torch.full((1, 3, 16, 16), 0.25))[0]
    assert gray[:3].tolist() == [0.25, 0.25, 0.25]
    assert gray[3:6].tolist() == [0, 0, 0]
