"""The one door to OpenVINO: the body of the network as a graph of its own, computed on the CPU, in fp32 unless asked otherwise.

The graph is written out layer by layer and batch normalization is folded into the convolutions. No exporter is needed, and the
torch network is read but not touched.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ipfvision.nn.network import TARGET_LAYER

Images = npt.NDArray[np.float32]
PADDING = {"zeros": "constant", "replicate": "edge"}
"""torch's words for padding, and OpenVINO's."""


def load() -> ModuleType:
    """Import OpenVINO without its telemetry, which sends a message over the network at the import already.

    OpenVINO takes a stand-in that does nothing where the telemetry package is not there, so that it is made not to be there.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's own way to say "no such module"
    return importlib.import_module("openvino")


def has_bf16() -> bool:
    """Whether this processor computes in bf16 itself."""
    return "BF16" in load().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compile_body(
    network: nn.Module, input_shape: tuple[int, int], threads: int, precision: str = "f32"
) -> Callable[[Images], Images]:
    """Make everything up to and including layer4 ready to run, for any number of images.

    Parameters
    ----------
    precision
        Of the arithmetic: "f32", or "bf16" (`has_bf16`).

    Returns
    -------
    A function (N, 3, rows, columns) -> (N, 2048, h, w), safe to share between threads: calls queue up, and each has all of the
    `threads`.
    """
    openvino = load()
    compiled = openvino.Core().compile_model(
        body_graph(network, input_shape),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,  # said each time, or it computes in bf16 on a CPU that can
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
        },
    )

    def run(images: Images) -> Images:
        # A request of its own for every call: one that is shared raises while another thread has it.
        found = compiled.create_infer_request().infer({0: np.ascontiguousarray(images)}, share_inputs=True)
        return np.asarray(found[0], np.float32)

    return run


def body_graph(network: nn.Module, input_shape: tuple[int, int]) -> Any:
    """(N, 3, rows, columns) -> layer4's output, as an openvino.Model."""
    openvino = load()
    images = openvino.opset8.parameter([-1, 3, *input_shape], np.float32, name="images")
    layers = dict(network.named_children())
    values = openvino.opset8.relu(_convolution(images, layers["conv1"], layers["bn1"]))
    values = _max_pool(values, layers["maxpool"])
    for name, layer in layers.items():
        for block in layer.children() if name.startswith("layer") else ():
            values = _bottleneck(values, dict(block.named_children()))
        if name == TARGET_LAYER:
            break
    return openvino.Model([values], [images], "body")


def _bottleneck(values: Any, parts: dict[str, nn.Module]) -> Any:
    ops = load().opset8
    shortcut = values if "downsample" not in parts else _convolution(values, *parts["downsample"].children())
    for number in (1, 2):
        values = ops.relu(_convolution(values, parts[f"conv{number}"], parts[f"bn{number}"]))
    return ops.relu(ops.add(_convolution(values, parts["conv3"], parts["bn3"]), shortcut))


def _convolution(values: Any, convolution: nn.Module, norm: nn.Module) -> Any:
    """A convolution with the batch normalization after it."""
    if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or convolution.groups != 1:
        raise TypeError("a ResNet-50 has plain convolutions, each with a batch normalization")
    if norm.running_var is None or norm.running_mean is None:
        raise TypeError("batch normalization has no statistics")
    ops = load().opset8
    with torch.no_grad():
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = convolution.weight * factor[:, None, None, None]
        bias = (norm.bias - norm.running_mean * factor)[None, :, None, None]
    rows, columns = (int(side) for side in convolution.padding)
    if convolution.padding_mode != "zeros":
        edges = np.array([0, 0, rows, columns])
        values = ops.pad(values, edges, edges, PADDING[convolution.padding_mode])
        rows, columns = 0, 0
    values = ops.convolution(
        values,
        _constant(weight),
        strides=list(convolution.stride),
        pads_begin=[rows, columns],
        pads_end=[rows, columns],
        dilations=list(convolution.dilation),
    )
    return ops.add(values, _constant(bias))


def _max_pool(values: Any, pool: nn.Module) -> Any:
    if not isinstance(pool, nn.MaxPool2d) or pool.ceil_mode:
        raise TypeError("a ResNet-50 has a plain maximum pooling")
    sides = (pool.stride, pool.dilation, pool.padding, pool.padding, pool.kernel_size)
    return load().opset8.max_pool(values, *([int(side) for side in np.broadcast_to(pair, 2)] for pair in sides)).output(0)


def _constant(tensor: torch.Tensor) -> Any:
    return load().op.Constant(tensor.detach().contiguous().numpy())
