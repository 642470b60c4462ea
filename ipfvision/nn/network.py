"""The network: torchvision's ResNet-50 with two outputs, its weights and its card on disk."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from ipfvision.core.findings import TARGETS, ModelCard
from ipfvision.core.window import Window
from ipfvision.errors import ModelUnusable
from ipfvision.nn import torchvision_door
from ipfvision.nn.gate import PREFIX, Gate

TARGET_LAYER = "layer4"
PaddingMode = Literal["zeros", "replicate"]


def build(dilated_layer4: bool, padding_mode: PaddingMode) -> nn.Module:
    """Make a ResNet-50 (He et al., CVPR 2016; torchvision's v1.5) with one output per class, weights random.

    Parameters
    ----------
    dilated_layer4
        Keep layer4 at stride 16 with dilated convolutions: twice the map resolution.
    padding_mode
        Of layer4's 3 x 3 convolutions. Zeros make the frame of the map light up; "replicate" does not.
    """
    torchvision = torchvision_door.load()
    network: nn.Module = torchvision.models.resnet50(
        weights=None, num_classes=len(TARGETS), replace_stride_with_dilation=[False, False, dilated_layer4]
    )
    for block in network.get_submodule(TARGET_LAYER).children():
        block.conv2 = _with_padding(block.get_submodule("conv2"), padding_mode)
    return network


def _with_padding(convolution: nn.Module, padding_mode: PaddingMode) -> nn.Conv2d:
    """The same convolution with another padding; its weights are new."""
    if not isinstance(convolution, nn.Conv2d):
        raise TypeError("a bottleneck's second layer is a convolution")
    stride, dilation = convolution.stride[0], convolution.dilation[0]
    return nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        bias=False,
        padding_mode=padding_mode,
    )


def body(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Everything up to and including layer4: (N, 3, H, W) -> (N, 2048, h, w)."""
    for name, module in network.named_children():
        images = module(images)
        if name == TARGET_LAYER:
            return images
    raise ValueError(f"the network has no {TARGET_LAYER}")


class Head(nn.Module):
    """Average pooling and the linear layer: (N, 2048, h, w) -> (N, 2) logits.

    `features` passes layer4's output on unchanged. It is there to be named as the target layer: differentiating this head
    alone gives the same gradients at layer4 as differentiating the whole network.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.linear = linear

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Pool and weigh."""
        return torch.as_tensor(self.linear(self.features(features).mean(dim=(2, 3))))


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint. The network is in evaluation mode and its parameters want no gradients."""

    card: ModelCard
    network: nn.Module
    gate: Gate | None = None
    """None in a checkpoint that has none: nothing is refused for its features then."""

    @property
    def linear(self) -> nn.Linear:
        layer = self.network.get_submodule("fc")
        if not isinstance(layer, nn.Linear):
            raise TypeError("a ResNet's last layer is linear")
        return layer


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_path(weights: Path) -> Path:
    """The card lies beside its weights, with the ending .json."""
    return weights.with_suffix(".json")


def card_to_json(card: ModelCard) -> dict[str, Any]:
    """The card as it lies on disk; `read_card` is the inverse."""
    return {
        "name": card.name,
        "sha256": card.sha256,
        "status": card.status,
        "labels": list(card.labels),
        "input": {
            "window": {"center": card.window.center, "width": card.window.width},
            "rows": card.input_shape[0],
            "columns": card.input_shape[1],
            "mean": card.mean,
            "standard_deviation": card.standard_deviation,
            "crop_margin": card.crop_margin,
        },
        "architecture": {"network": "resnet50", "dilated_layer4": card.dilated_layer4, "layer4_padding": card.padding_mode},
        "answer": {
            "temperature": card.temperature,
            "operating_point": card.operating_point,
            "uncertain_band": list(card.uncertain_band),
            "map_reference": card.map_reference,
        },
        "details": card.details,
    }


def read_card(path: Path) -> ModelCard:
    """Read a card; raises ModelUnusable with a sentence if it is missing or not a card."""
    try:
        content = json.loads(path.read_text("utf-8"))
        given, architecture, answer = content["input"], content["architecture"], content["answer"]
        if architecture["network"] != "resnet50":
            raise ModelUnusable(f"The model card {path.name} is for a {architecture['network']}; a resnet50 is expected.")
        low, high = answer["uncertain_band"]
        return ModelCard(
            name=content["name"],
            sha256=content["sha256"],
            status=content["status"],
            labels=tuple(content["labels"]),
            window=Window(given["window"]["center"], given["window"]["width"]),
            input_shape=(given["rows"], given["columns"]),
            mean=given["mean"],
            standard_deviation=given["standard_deviation"],
            crop_margin=given["crop_margin"],
            dilated_layer4=architecture["dilated_layer4"],
            padding_mode=architecture["layer4_padding"],
            temperature=answer["temperature"],
            operating_point=answer["operating_point"],
            uncertain_band=(low, high),
            map_reference=answer["map_reference"],
            details=content["details"],
        )
    except FileNotFoundError as error:
        raise ModelUnusable(f"The model card {path.name} is missing: it belongs beside the weights.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelUnusable(f"The model card {path.name} is damaged ({error}): install the model again.") from error


def load(weights: Path) -> Model:
    """Load weights, only if their hash is the card's.

    Raises
    ------
    ModelUnusable
        With a sentence: a missing file, another hash, not a safetensors file, another architecture.
    """
    card = read_card(card_path(weights))
    if not weights.is_file():
        raise ModelUnusable(f"The model's weights {weights.name} are missing: install the model again.")
    if sha256(weights) != card.sha256:
        raise ModelUnusable(
            f"The weights {weights.name} are not those that the card describes (SHA-256 differs): install the model again."
        )
    with torch.device("meta"):
        network = build(card.dilated_layer4, card.padding_mode)
    try:
        stored = safetensors.torch.load_file(weights)
        gate = Gate.from_arrays({name: stored.pop(name).numpy() for name in list(stored) if name.startswith(PREFIX)})
        state = {name: tensor.float() for name, tensor in stored.items()}
        for name in network.state_dict():
            if name.endswith("num_batches_tracked"):
                state[name] = torch.tensor(0)
        network.load_state_dict(state, strict=True, assign=True)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ModelUnusable(f"The weights {weights.name} do not fit a two-class ResNet-50: install the model again.") from error
    network.eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return Model(card, network, gate)


def save(network: nn.Module, weights: Path, gate: Gate | None = None) -> str:
    """Write weights as safetensors, fp16 with BatchNorm in fp32 (47 MB), and the gate if there is one; return their SHA-256.

    The file appears whole or not at all: it is written beside its place and then moved there.
    """
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    state = {
        name: tensor.contiguous() if name.rpartition(".")[0] in norms else tensor.half().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    if gate is not None:
        state |= {name: torch.from_numpy(array) for name, array in gate.arrays().items()}
    weights.parent.mkdir(parents=True, exist_ok=True)
    part = weights.with_name(weights.name + ".part")
    safetensors.torch.save_file(state, part)
    part.replace(weights)
    return sha256(weights)


def shift_margin(network: nn.Module, shift: float) -> None:
    """Add `shift` logits to z_IPF - z_normal, half to each bias."""
    linear = network.get_submodule("fc")
    if not isinstance(linear, nn.Linear):
        raise TypeError("a ResNet's last layer is linear")
    with torch.no_grad():
        linear.bias.add_(torch.tensor([shift / 2, -shift / 2]))


def to_tensor(images: np.ndarray[Any, np.dtype[np.float32]], card: ModelCard) -> torch.Tensor:
    """(N, rows, columns) grey in [0, 1] -> (N, 3, rows, columns) normalised, channels last."""
    values = (torch.from_numpy(images) - card.mean) / card.standard_deviation
    return values[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
