"""Training that holds the class map to the drawn lesions.

A network trained on labels alone reaches the same accuracy with a map that lights the wrong place. Since the last stage is
average pooling and one linear layer, Grad-CAM *is* the class map M = (w_IPF - w_normal) . A, and can be trained:

    z = mean(M) + b,  s = softplus(M),  g = share of a cell that is lesion,  t = min(g / 0.4, 1),
    o = 1 - min(lung cover / 0.1, 1)   (1 outside the lungs)

    L = BCE(z, 0.96 y + 0.02)
      + mean over positives of  0.7 Ls + 0.5 Lb + Ld
      + 0.7 mean over negatives of mean(s)

    Ls = -log(sum(s g) / sum(s (1 + o)) + 1e-4)                      share of the mass inside the lesion
    Lb = 1/2 sum(t softplus(-M)) / sum t + 1/2 sum((1 - t) s (1 + o)) / sum(1 - t)       cells, balanced
    Ld = 1 - 2 sum(sigmoid(M) t) / (sum sigmoid(M) + sum t)           Dice on cells
"""

import json
import math
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ipfvision.errors import ModelUnusable, RunStopped
from ipfvision.nn.network import PaddingMode, body, build
from ipfvision.nn.starting_weights import start
from ipfvision.whole_file import write_whole_by

LEAST_LESION_CELLS = 0.3
"""Positives whose lesion fills less than this many cells do not train the map."""


STATE, PROGRESS, LOG, BEGUN = "state.pt", "progress.pt", "log.jsonl", "start.json"
"""Files of a run. `STATE` holds the network that a run arrived at; `PROGRESS`, of a labelled run under way, does not."""


@dataclass(frozen=True, slots=True)
class NetworkRecipe:
    """What every recipe decides: the network, what it sees, and how it learns. Written into the run's manifest."""

    seed: int = 0
    start: str = "astra"
    input_shape: tuple[int, int] = (384, 512)
    mean: float = 0.2333
    standard_deviation: float = 0.8
    dilated_layer4: bool = True
    padding_mode: PaddingMode = "replicate"
    batch: int = 12
    learning_rate: float = 2.5e-4
    warm_up: int = 30
    """Steps."""
    weight_decay: float = 0.02
    bias_rate: float = 60.0
    """Times the learning rate: at the normal one the bias stays near 0 and the cell loss fights the image loss."""
    frozen: tuple[str, ...] = ("conv1", "bn1", "layer1")
    map_weight: float = 1.0
    """Times the map's losses; 0 is training on labels alone."""

    @property
    def cell(self) -> int:
        """Input pixels along a side of one cell of the map."""
        return 16 if self.dilated_layer4 else 32


@dataclass(frozen=True, slots=True)
class Recipe(NetworkRecipe):
    """Lesions drawn into normal slices: a number of steps that is set beforehand."""

    steps: int = 500
    coarse_share: float = 0.6
    """Share of the steps, the first ones, that see the pictures at half the size: a quarter of the time each."""
    every: int = 50
    """Steps between validations and saved states."""

    @property
    def coarse_steps(self) -> int:
        return round(self.coarse_share * self.steps)


@dataclass(frozen=True, slots=True)
class LabelledRecipe(NetworkRecipe):
    """Labelled pictures: epochs, and the one with the least loss on the validation patients is kept.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    input_shape: tuple[int, int] = (192, 256)
    batch: int = 8
    learning_rate: float = 1e-4
    warm_up: int = 10
    epochs: int = 30
    """At most."""
    patience: int = 8
    """Epochs without a lower validation loss after which a run ends."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.patience < 1 or self.batch < 2 or self.batch % 2:
            raise ValueError("at least one epoch, patience for one, and batches of an even number of pictures")
        if min(self.input_shape) < 64 or any(side % 32 for side in self.input_shape):
            raise ValueError(f"rows and columns are multiples of 32, at least 64, not {self.input_shape}")


@dataclass(frozen=True, slots=True)
class Compute:
    """Where a run computes."""

    device: torch.device
    bfloat16: bool
    """In autocast; the weights stay in float32."""

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


ON_CPU = Compute(torch.device("cpu"), bfloat16=True)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Training or validation images with their truth."""

    images: npt.NDArray[np.uint8]
    """(N, rows, columns) grey, 255 is 1.0."""
    labels: npt.NDArray[np.bool_]
    """(N,) True for IPF."""
    lesions: npt.NDArray[np.uint8]
    """(N, h, w) share of each cell that is lesion, 255 is all of it."""
    lungs: npt.NDArray[np.uint8]
    """(N, h, w) share of each cell that is lung."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.intp]) -> "Examples":
        return Examples(self.images[index], self.labels[index], self.lesions[index], self.lungs[index])

    def halved(self) -> "Examples":
        """The same at half the size, on a grid of half as many cells each way."""
        return Examples(_halved(self.images), self.labels, _halved(self.lesions), _halved(self.lungs))

    def mirrored(self, chosen: npt.NDArray[np.bool_]) -> "Examples":
        """Left and right exchanged where `chosen`."""
        side = chosen[:, None, None]
        flip = [np.where(side, array[:, :, ::-1], array) for array in (self.images, self.lesions, self.lungs)]
        return Examples(flip[0], self.labels, flip[1], flip[2])


def _halved(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(N, 2h, 2w) -> (N, h, w): means of 2 x 2."""
    count, rows, columns = array.shape
    squares = array.reshape(count, rows // 2, 2, columns // 2, 2)
    return np.asarray(np.rint(squares.mean(axis=(2, 4), dtype=np.float32)), np.uint8)


class MapNetwork(nn.Module):
    """The ResNet-50's body with one signed class map: what is trained. `as_classifier` is what is shipped."""

    def __init__(self, recipe: NetworkRecipe) -> None:
        super().__init__()
        self.network = build(recipe.dilated_layer4, recipe.padding_mode)
        self.weight = nn.Parameter(torch.zeros(2048))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, h, w): the class map M without the bias, in float32."""
        features = body(self.network, images)
        with torch.autocast(images.device.type, enabled=False):
            return torch.einsum("k,nkhw->nhw", self.weight, features.float())

    def adopt_head(self) -> None:
        """Begin with the map of the network's own last layer: what `as_classifier` wrote there."""
        with torch.no_grad():
            linear = self.network.get_submodule("fc")
            if not isinstance(linear, nn.Linear):
                raise TypeError("a ResNet's last layer is linear")
            self.weight.copy_(linear.weight[0] - linear.weight[1])
            self.bias.copy_(linear.bias[0] - linear.bias[1])

    def as_classifier(self) -> nn.Module:
        """The two-output network: w_IPF = w / 2 and w_normal = -w / 2, so that the map of IPF is M's positive half."""
        with torch.no_grad():
            linear = self.network.get_submodule("fc")
            if not isinstance(linear, nn.Linear):
                raise TypeError("a ResNet's last layer is linear")
            linear.weight.copy_(torch.stack([self.weight / 2, -self.weight / 2]))
            linear.bias.copy_(torch.stack([self.bias / 2, -self.bias / 2]))
        return self.network


def map_loss(
    class_map: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor, lesions: torch.Tensor, lungs: torch.Tensor, weight: float
) -> torch.Tensor:
    """The loss of the module's docstring.

    Parameters
    ----------
    class_map
        (N, h, w) M.
    labels
        (N,) float, 1 for IPF.
    lesions, lungs
        (N, h, w) float in [0, 1]: g and the lung cover.
    """
    margin = class_map.mean(dim=(1, 2)) + bias
    loss = functional.binary_cross_entropy_with_logits(margin, 0.96 * labels + 0.02)
    if weight == 0:
        return loss
    mass = functional.softplus(class_map)
    outside = 1 - (lungs / 0.1).clamp(max=1)
    truth = (lesions / 0.4).clamp(max=1)
    cells = (1, 2)
    shape = -torch.log((mass * lesions).sum(cells) / (mass * (1 + outside)).sum(cells).clamp(min=1e-6) + 1e-4)
    inside = (truth * functional.softplus(-class_map)).sum(cells) / truth.sum(cells).clamp(min=1e-6)
    beyond = ((1 - truth) * mass * (1 + outside)).sum(cells) / (1 - truth).sum(cells).clamp(min=1e-6)
    lit = torch.sigmoid(class_map)
    dice = 1 - 2 * (lit * truth).sum(cells) / (lit.sum(cells) + truth.sum(cells)).clamp(min=1e-6)
    drawn = (labels > 0.5) & (lesions.sum(cells) > LEAST_LESION_CELLS)
    normal = labels < 0.5
    total = loss
    if bool(drawn.any()):
        total = total + weight * (0.7 * shape + 0.5 * (inside + beyond) / 2 + dice)[drawn].mean()
    if bool(normal.any()):
        total = total + weight * 0.7 * mass.mean(dim=cells)[normal].mean()
    return total


def _images(examples: Examples, recipe: NetworkRecipe, device: torch.device) -> torch.Tensor:
    grey = torch.from_numpy(np.ascontiguousarray(examples.images)).to(device).float() / 255
    values = (grey - recipe.mean) / recipe.standard_deviation
    return values[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _shares(array: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device).float() / 255


def _batches(examples: Examples, recipe: Recipe, first_step: int) -> Iterator[Examples]:
    """Endless shuffled batches, half of them mirrored; the same from any step on, so that a resumed run repeats the order."""
    per_epoch = len(examples) // recipe.batch
    if per_epoch == 0:
        raise ValueError(f"{len(examples)} examples do not fill one batch of {recipe.batch}")
    step = first_step
    while True:
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(examples))
        batch = examples.take(order[place * recipe.batch : (place + 1) * recipe.batch])
        yield batch.mirrored(np.random.default_rng((recipe.seed, 1, step)).random(recipe.batch) < 0.5)
        step += 1


def _calibrate(model: MapNetwork, examples: Examples, recipe: Recipe) -> None:
    """Measure BatchNorm's statistics anew on twelve training batches."""
    batches = _batches(examples, recipe, 0)
    first = [next(batches) for _ in range(12)]
    calibrate(model, (batch.halved() if recipe.coarse_steps else batch for batch in first), recipe, ON_CPU)


def calibrate(model: MapNetwork, batches: Iterable[Examples], recipe: NetworkRecipe, compute: Compute) -> None:
    """Measure BatchNorm's statistics anew, stage by stage in one running mean."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    model.train()
    with torch.no_grad(), compute.autocast():
        for batch in batches:
            model(_images(batch, recipe, compute.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def class_map_of(
    model: MapNetwork, examples: Examples, recipe: NetworkRecipe, compute: Compute = ON_CPU
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Maps (N, h, w) and margins (N,) in evaluation mode."""
    model.eval()
    maps = []
    with torch.inference_mode(), compute.autocast():
        for first in range(0, len(examples), recipe.batch):
            index = np.arange(first, min(first + recipe.batch, len(examples)))
            maps.append(model(_images(examples.take(index), recipe, compute.device)).cpu().numpy())
    stacked = np.concatenate(maps)
    return stacked, stacked.mean(axis=(1, 2)) + float(model.bias.detach())


def cell_figures(
    maps: npt.NDArray[np.float32], margins: npt.NDArray[np.float32], examples: Examples
) -> dict[str, float | None]:
    """Figures on the model's own grid: does the map lie on the drawn lesions?

    Pointing hit: the strongest cell is at least a quarter lesion. Mass ratio: share of the positive map inside the lesion over
    the lesion's share of the lung. IoU: of M > 0 with cells that are at least 40 % lesion. None where nothing was drawn.
    """
    hits, ratios, overlaps = [], [], []
    for class_map, lesion, lung, label in zip(maps, examples.lesions, examples.lungs, examples.labels, strict=True):
        share, cover = lesion / 255.0, lung / 255.0
        if not label or share.sum() < LEAST_LESION_CELLS:
            continue
        positive = np.maximum(class_map, 0)
        hits.append(bool(positive.max() > 0 and share.flat[int(positive.argmax())] >= 0.25))
        if positive.sum() > 0:
            ratios.append((positive * share).sum() / positive.sum() / (share.sum() / max(cover.sum(), share.sum())))
        truth, lit = share >= 0.4, class_map > 0
        if (truth | lit).any():
            overlaps.append((truth & lit).sum() / (truth | lit).sum())
    return {
        "auroc": auroc(margins, examples.labels),
        "pointing_hit": float(np.mean(hits)) if hits else None,
        "mass_ratio": float(np.mean(ratios)) if ratios else None,
        "iou_cells": float(np.mean(overlaps)) if overlaps else None,
    }


def auroc(scores: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, ties counted half (Mann-Whitney); None if a class is missing."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - a second of imports that only training needs

    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, scores))


def optimizer_of(model: MapNetwork, recipe: NetworkRecipe) -> torch.optim.AdamW:
    """Freeze what the recipe freezes, and AdamW for the rest; norms and biases do not decay."""
    for name in recipe.frozen:
        model.network.get_submodule(name).requires_grad_(False)
    weights = [p for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and n != "bias"]
    others = [p for n, p in model.named_parameters() if p.requires_grad and p.ndim <= 1 and n != "bias"]
    return torch.optim.AdamW(
        [
            {"params": weights, "weight_decay": recipe.weight_decay, "factor": 1.0},
            {"params": others, "weight_decay": 0.0, "factor": 1.0},
            {"params": [model.bias], "weight_decay": 0.0, "factor": recipe.bias_rate},
        ],
        lr=recipe.learning_rate,
    )


def descend(
    model: MapNetwork,
    optimizer: torch.optim.Optimizer,
    batch: Examples,
    recipe: NetworkRecipe,
    step: int,
    steps: int,
    compute: Compute,
) -> tuple[float, torch.Tensor]:
    """One step of the optimizer, with warm-up and cosine decay over all `steps`.

    Returns
    -------
    The loss, and (N, h, w) the class map before the step.
    """
    model.train()
    for name in recipe.frozen:
        model.network.get_submodule(name).eval()
    ramp = min(1.0, (step + 1) / recipe.warm_up)
    rate = recipe.learning_rate * ramp * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    with compute.autocast():
        class_map = model(_images(batch, recipe, compute.device))
    labels = torch.from_numpy(batch.labels.astype(np.float32)).to(compute.device)
    lesions, lungs = _shares(batch.lesions, compute.device), _shares(batch.lungs, compute.device)
    loss = map_loss(class_map, model.bias, labels, lesions, lungs, recipe.map_weight)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach()), class_map.detach()


class _Remembering:
    """A file that keeps the error of a failed write: torch's own writer turns it into one that says nothing of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state whole or not at all; raises RunStopped with a sentence if the disk is full."""

    def write(file: BinaryIO) -> None:
        remembering = _Remembering(file)
        try:
            torch.save(dict(state), remembering)  # type: ignore[arg-type]  # it asks for write and flush alone
        except RuntimeError:
            if remembering.error is not None:
                raise remembering.error from None
            raise

    write_whole_by(path, write)


def train(
    recipe: Recipe,
    examples: Examples,
    validation: Examples,
    folder: Path,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> MapNetwork:
    """Train, or go on training where a killed run stopped.

    State and log lie in `folder` and appear whole or not at all. The last state is kept; the number of steps is the recipe's,
    so nothing is chosen on validation here.
    """
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = MapNetwork(recipe)
    state_file, log_file = folder / STATE, folder / LOG
    optimizer = optimizer_of(model, recipe)
    first = 0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["recipe"] != json.dumps(asdict(replace(recipe, every=0)), sort_keys=True):
            raise RunStopped(f"{folder.name} holds a run of another recipe or other options: choose another folder.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    else:
        begun = start(model.network, recipe.start, recipe.seed)
        if begun.needs_calibration:
            _calibrate(model, examples, recipe)
        if begun.has_head:
            model.adopt_head()
        (folder / BEGUN).write_text(json.dumps(asdict(begun), indent=1))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    losses: list[float] = []
    clock = time.monotonic()
    for step, batch in enumerate(_batches(examples, recipe, first), start=first):
        if step >= recipe.steps:
            break
        coarse = step < recipe.coarse_steps
        loss, _ = descend(model, optimizer, batch.halved() if coarse else batch, recipe, step, recipe.steps, ON_CPU)
        losses.append(loss)
        if (step + 1) % recipe.every == 0 or step + 1 == recipe.steps:
            measured = validation.halved() if coarse else validation
            maps, margins = class_map_of(model, measured, recipe)
            line = {
                "step": step + 1,
                "coarse": coarse,
                "loss": float(np.mean(losses)),
                "seconds_per_step": (time.monotonic() - clock) / len(losses),
                "bias": float(model.bias.detach()),
                **cell_figures(maps, margins, measured),
            }
            losses, clock = [], time.monotonic()
            with log_file.open("a") as log:
                log.write(json.dumps(line) + "\n")
            save_state(
                state_file,
                {
                    "recipe": json.dumps(asdict(replace(recipe, every=0)), sort_keys=True),
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
            )
            report(line)
    return model.eval()


def read_state(path: Path) -> dict[str, Any]:
    """A state as `save_state` wrote it; raises ModelUnusable with a sentence if it is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        raise ModelUnusable(f"{path.name} of the run is damaged: train again in another folder.") from None
    return state


def load_run(folder: Path) -> tuple[NetworkRecipe, MapNetwork, int]:
    """A run's recipe, its network and the number of steps done; raises ModelUnusable if the folder holds none.

    Of a labelled run it is the epoch that its validation patients chose.
    """
    state_file = folder / STATE
    if not state_file.is_file() and (folder / PROGRESS).is_file():
        raise ModelUnusable(f"The run in {folder.name} has not finished: start the same command again, and it goes on.")
    if not state_file.is_file():
        raise ModelUnusable(f"{folder.name} holds no training run: give the folder that 'train' wrote.")
    state = read_state(state_file)
    kind = LabelledRecipe if state.get("kind") == "labelled" else Recipe
    given = json.loads(state["recipe"])
    recipe = kind(**{**given, "input_shape": tuple(given["input_shape"]), "frozen": tuple(given["frozen"])})
    model = MapNetwork(recipe)
    model.load_state_dict(state["model"])
    return recipe, model.eval(), int(state["step"])
