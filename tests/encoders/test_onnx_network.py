import pytest
import torch

from parfocal.encoders.networks import EfficientNetLite0, ResNet50Layer3, fill_randomly

onnx = pytest.importorskip("onnx", reason="needs parfocal[onnx]")
pytest.importorskip("onnxruntime", reason="needs parfocal[onnx]")
from parfocal.encoders.onnx_network import OnnxGraph, OnnxNetwork  # noqa: E402 (after the skip)


@pytest.fixture(params=[EfficientNetLite0, ResNet50Layer3])
def network(request):
    network = request.param()
    fill_randomly(network, seed=0)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [64, 75])
def test_onnxruntime_computes_the_same_as_torch(network, size):
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = network(x)
    features = OnnxNetwork(network, size)(x.to(memory_format=torch.channels_last))
    assert (features - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_graph_is_valid_onnx(network):
    onnx.checker.check_model(OnnxGraph(network, 64).model, full_check=True)


def test_an_unsupported_operation_fails_when_the_graph_is_built():
    network = EfficientNetLite0()
    network.blocks.append(torch.nn.Sigmoid())
    with pytest.raises(AssertionError, match="no ONNX operation for Sigmoid"):
        OnnxGraph(network.requires_grad_(False), 64)
