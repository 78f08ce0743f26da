"""Run the built-in networks in onnxruntime, which is faster than torch on a CPU.

Needs `pip install 'parfocal[onnx]'`. The graph is built here operation by operation, in
milliseconds; torch's exporter takes ten seconds. Each case of `OnnxGraph` follows the `forward` of
its class in `networks`.
"""

import os
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from parfocal.encoders.networks import (
    Bottleneck,
    EfficientNetLite0,
    Foldable,
    InvertedResidual,
    ResNet50Layer3,
    SameConv2d,
)

# onnxruntime 1.29 and later would write a device id and send usage data.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

OPSET, IR_VERSION = 17, 8  # enough for these operations, and supported by older onnxruntimes


class OnnxNetwork:
    """A network run by onnxruntime on one CPU thread; safe to call from several threads.

    Args:
        network: network with weights, on the CPU.
        size: height and width of its input, in pixels.
    """

    def __init__(self, network: Foldable, size: int) -> None:
        options = onnxruntime.SessionOptions()
        # Threads that share a batch wait for the slowest one, which reading threads slow down.
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            OnnxGraph(network, size).model, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Compute features of normalized images."""
        (features,) = self.session.run(None, {"x": x.contiguous().numpy()})
        return torch.from_numpy(features)


class OnnxGraph:
    """Builds the ONNX model of a network, from images "x" to features.

    Args:
        network: network with weights, on the CPU.
        size: height and width of its input, in pixels.

    Attributes:
        model: serialized ONNX model.
    """

    def __init__(self, network: Foldable, size: int) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        last = self._write(network, "x")
        graph = helper.make_graph(
            self.nodes,
            type(network).__name__,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", network.dim])],
            self.tensors,
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        self.model: bytes = model.SerializeToString()

    def _write(self, part: nn.Module, x: str) -> str:
        """Add the nodes of a module with input `x`, and return the name of its output."""
        match part:
            case EfficientNetLite0():
                y = self._relu6(self._write(part.conv_stem, x))
                y = self._write(part.blocks, y)
                y = self._mean(self._relu6(self._write(part.conv_head, y)))
            case InvertedResidual():
                y = x
                if part.expand_conv is not None:
                    y = self._relu6(self._write(part.expand_conv, y))
                y = self._relu6(self._write(part.depthwise_conv, y))
                y = self._write(part.project_conv, y)
                y = self._node("Add", y, x) if part.residual else y
            case ResNet50Layer3():
                y = self._node("Relu", self._write(part.conv1, x))
                y = self._write(part.maxpool, y)
                for stage in (part.layer1, part.layer2, part.layer3):
                    y = self._write(stage, y)
                y = self._mean(y)
            case Bottleneck():
                y = self._node("Relu", self._write(part.conv1, x))
                y = self._node("Relu", self._write(part.conv2, y))
                y = self._write(part.conv3, y)
                y = self._node("Relu", self._node("Add", y, self._write(part.downsample, x)))
            case nn.Sequential():
                y = x
                for step in part:
                    y = self._write(step, y)
            case nn.MaxPool2d():
                y = self._node("MaxPool", x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
            case nn.Conv2d():
                y = self._conv(part, x)
            case _:
                raise AssertionError(f"no ONNX operation for {type(part).__name__}")
        return y

    def _conv(self, part: nn.Conv2d, x: str) -> str:
        """Add a convolution; SAME_UPPER is TensorFlow's padding."""
        same = isinstance(part, SameConv2d)
        weights = (self._tensor(tensor.detach().numpy()) for tensor in part.parameters())
        return self._node(
            "Conv",
            x,
            *weights,
            strides=part.stride,
            group=part.groups,
            auto_pad="SAME_UPPER" if same else "NOTSET",
            **({} if same else {"pads": (*part.padding, *part.padding)}),
        )

    def _relu6(self, x: str) -> str:
        return self._node("Clip", x, *(self._tensor(np.float32(limit)) for limit in (0, 6)))

    def _mean(self, x: str) -> str:
        return self._node("Flatten", self._node("GlobalAveragePool", x))

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation, and return the name of its output."""
        name = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _tensor(self, value: np.ndarray | np.float32) -> str:
        """Add a constant, and return its name."""
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name
