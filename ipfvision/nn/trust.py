"""The checks of a heat map that ask the network again: random weights, removed pixels, a filled-in annotation.

Each check is a generator that yields after every forward pass and returns what it found: a caller may show progress, and stops
by not going on. None of them touches the model that it is given.
"""

import copy
from collections.abc import Generator
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ipfvision.core.findings import TARGETS
from ipfvision.core.geometry import Crop
from ipfvision.core.trust import (
    Curve,
    Faithfulness,
    Mask,
    Occlusion,
    Randomization,
    Undefined,
    first_of,
    impute,
    random_part,
    ranks,
    removal_order,
    structural_similarity,
)
from ipfvision.nn.classify import probability, run
from ipfvision.nn.explain import explain
from ipfvision.nn.network import Model, to_tensor

Image = npt.NDArray[np.float32]

RANDOM_NETWORKS = 4
"""Random throughout: six pairs of them say how alike random networks' maps are."""
PERCENTS = (0, 10, 20, 30, 40, 50, 70, 90)
"""Of the model's input, removed."""
RANDOM_ORDERS = 3
RANDOM_PARTS = 19
"""Of the lung, to compare with the annotation: that it takes more than all of them has a chance of 1 in 20."""
LEAST_ROOM = 1.5
"""Lung beside the annotation, as a multiple of its area, below which random parts would all be nearly the same."""


def layers_from_the_top(network: nn.Module) -> tuple[str, ...]:
    """Names of the parts that have weights, from the answer down to the image."""
    names = [name for name, part in network.named_children() if any(True for _ in part.parameters())]
    return tuple(reversed(names))


def randomization_passes(model: Model) -> int:
    """Forward passes that `randomization` makes."""
    return len(layers_from_the_top(model.network)) + RANDOM_NETWORKS - 1


FAITHFULNESS_PASSES = (len(PERCENTS) - 1) * (2 + RANDOM_ORDERS)
OCCLUSION_PASSES = 1 + RANDOM_PARTS
"""At most."""


def randomize(part: nn.Module, generator: torch.Generator) -> None:
    """Give every layer of a part new weights, in place: He et al. (ICCV 2015) for convolutions, batch norm without effect.

    A generator of its own leaves torch's global one, which other threads may be using, alone.

    Raises
    ------
    TypeError
        If a layer's weights would stay, and the check would say too little.
    """
    with torch.no_grad():
        for module in part.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                for tensor in module.parameters(recurse=False):
                    nn.init.uniform_(tensor, -bound, bound, generator=generator)
            elif any(True for _ in module.parameters(recurse=False)):
                raise TypeError(f"no random weights are known for a {type(module).__name__}")


def randomization(
    model: Model, image: Image, cells: Image, target: str, method: str, seed: int
) -> Generator[None, None, Randomization | Undefined]:
    """Compare the map with those of networks that forget from the top down (Adebayo et al., NeurIPS 2018).

    Half of all random last layers give an empty map. Weights of the opposite sign are as probable, so these are taken then.

    Parameters
    ----------
    image
        (rows, columns) float32 in [0, 1]: the model's input.
    cells
        (h, w) the map on its own grid.
    """
    pixels = to_tensor(image[None], model.card)
    generator = torch.Generator().manual_seed(seed)
    forgetful = Model(model.card, copy.deepcopy(model.network))

    def random_cells() -> Image:
        features, _ = run(forgetful, pixels)
        found = explain(forgetful, features, _all_of(image), method)[target].cells
        if not found.any():
            with torch.no_grad():
                forgetful.linear.weight.neg_()
            found = explain(forgetful, features, _all_of(image), method)[target].cells
        return found

    def similarity(first: Image, second: Image) -> float | None:
        return structural_similarity(ranks(first), ranks(second), 1.0) if first.any() and second.any() else None

    layers = layers_from_the_top(model.network)
    found = []
    for layer in layers:
        randomize(forgetful.network.get_submodule(layer), generator)
        found.append(random_cells())
        yield
    similarities = tuple(similarity(cells, one) for one in found)
    strangers = [found[-1]]
    for _ in range(RANDOM_NETWORKS - 1):
        randomize(forgetful.network, generator)
        strangers.append(random_cells())
        yield
    finals = [similarity(cells, one) for one in strangers]
    references = [similarity(first, second) for first, second in combinations(strangers, 2)]
    known, known_references = _known(finals), _known(references)
    if not known or not known_references:
        return Undefined("The maps of random networks are empty, so there is nothing to compare this map with.")
    return Randomization(layers, similarities, known, known_references)


def _all_of(image: Image) -> Crop:
    """The model's input as a slice of its own: the checks ask where a map lies on the input."""
    rows, columns = image.shape
    return Crop(0, 0, columns, rows, (rows, columns), (rows, columns))


def _known(values: list[float | None]) -> tuple[float, ...]:
    return tuple(value for value in values if value is not None)


def _answer(model: Model, image: Image, target: str) -> float:
    """Margin in favor of the target, in logits."""
    _, logits = run(model, to_tensor(image[None], model.card))
    margin = float(logits[0, 0] - logits[0, 1])
    return margin if target == TARGETS[0] else -margin


def faithfulness(model: Model, image: Image, cells: Image, target: str, seed: int) -> Generator[None, None, Faithfulness]:
    """Remove what the map marks first, and last, and the same shares in random order (ROAD: Rong et al., ICML 2022).

    Parameters
    ----------
    image
        (rows, columns) float32 in [0, 1]: the model's input.
    cells
        (h, w) the map on its own grid.
    """
    random = np.random.default_rng(seed)
    whole = _all_of(image)
    shape = whole.input_shape
    as_read = np.arange(image.size)

    def random_order() -> npt.NDArray[np.intp]:
        shuffled = random.permutation(cells.size).reshape(cells.shape).astype(np.float32)
        return removal_order(whole.paste_cells(shuffled), as_read)

    randoms = [random_order() for _ in range(RANDOM_ORDERS)]
    # Ties go in a random order's order: in reading order, the top of the image would be removed first in every sparse map.
    relevance = whole.paste_cells(cells)
    most, least = removal_order(relevance, randoms[0]), removal_order(-relevance, randoms[0])
    start = _answer(model, image, target)
    curves = []
    for order in (most, least, *randoms):
        margins = [start]
        for percent in PERCENTS[1:]:
            filled = impute(image, first_of(order, percent, shape), np.random.default_rng(seed))
            margins.append(_answer(model, filled, target))
            yield
        curves.append(Curve(tuple(margins), tuple(probability(margin, model.card.temperature) for margin in margins)))
    return Faithfulness(PERCENTS, curves[0], curves[1], tuple(curves[2:]))


def occlusion(
    model: Model, image: Image, marked: Mask, room: Mask, target: str, seed: int, reason: str | None = None
) -> Generator[None, None, Occlusion]:
    """Fill in the annotated area, and as much of the lung elsewhere.

    Parameters
    ----------
    image
        (rows, columns) float32 in [0, 1]: the model's input. The filled-in image keeps its crop: only what was filled changes.
    marked, room
        (rows, columns) on the model's input: the annotation; the lung without it.
    reason
        Why nothing is to be compared with, if that is known before.
    """
    random = np.random.default_rng(seed)
    parts: list[Mask] = []
    if reason is None:
        tries = 2 * RANDOM_PARTS if room.sum() >= LEAST_ROOM * marked.sum() else 0
        tried = (random_part(marked, room, random) for _ in range(tries))
        parts = list(islice((part for part in tried if part is not None), RANDOM_PARTS))
        if len(parts) < RANDOM_PARTS:
            reason = "elsewhere in the lung there is no room for parts of the same size and shape to compare with."
            parts = []
    start = _answer(model, image, target)
    changes = []
    for mask in (marked, *parts):
        filled = impute(image, mask, np.random.default_rng(seed))
        changes.append(_answer(model, filled, target) - start)
        yield
    return Occlusion(changes[0], tuple(changes[1:]), reason)
