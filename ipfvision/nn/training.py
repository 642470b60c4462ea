"""Training that holds the class map to the drawn lesions.

A network trained on labels alone reaches the same accuracy with a map that lights the wrong place. Since the last stage is
average pooling and one linear layer, Grad-CAM *is* the class map M = (w_IPF - w_normal) . A, and can be trained:

    z = mean(M) + b,  F = M brought to the grid of the masks,  s = softplus(F),  g = share of a place that is lesion,
    t = min(g / 0.4, 1),  o = 1 - min(lung cover / 0.1, 1)   (1 outside the lungs),  d = (F - c) / T

    L = BCE(z, 0.96 y + 0.02)
      + mean over positives of  0.7 Ls + 0.5 Lb + Ld
      + 0.7 mean over negatives of mean(s)
      + q mean over all of sum(|F| o) / sum(o)

    Ls = -log(sum(s g) / sum(s (1 + o)) + 1e-4)                      share of the mass inside the lesion
    Lb = 1/2 sum(t softplus(-d)) / sum t + 1/2 sum((1 - t) softplus(d) (1 + o)) / sum(1 - t)        places, balanced
    Ld = 1 - 2 sum(sigmoid(d) t) / (sum sigmoid(d) + sum t)           Dice

q is 0 in the shipped model's recipe. With it the map is held at 0 outside the lungs; without it the evidence there lies far
below 0 on every picture, and the bias makes up for that.

F is bilinear between the middles of cells, as the map is on the page. Masks on a grid finer than the map's cells teach the
cells around a lesion how far it reaches; with masks on the cells, F is M.
"""

import functools
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
    batch: int = 32
    learning_rate: float = 3e-4
    warm_up: int = 60
    """Steps."""
    weight_decay: float = 0.02
    bias_rate: float = 60.0
    """Times the learning rate: at the normal one the bias stays near 0 and the cell loss fights the image loss."""
    frozen: tuple[str, ...] = ("conv1", "bn1", "layer1")
    map_weight: float = 1.0
    """Times the map's losses; 0 is training on labels alone."""
    edge: float = 8.0
    """c of the loss, in logits: where a map crosses it, the lesion is to end."""
    softness: float = 4.0
    """T of the loss, in logits: how far a map must be from the edge to count as decided."""
    outside_weight: float = 0.0
    """q of the loss: how strongly the map is held at 0 outside the lungs."""

    @property
    def cell(self) -> int:
        """Input pixels along a side of one cell of the map."""
        return 16 if self.dilated_layer4 else 32


@dataclass(frozen=True, slots=True)
class Recipe(NetworkRecipe):
    """Lesions drawn into normal slices: a number of steps that is set beforehand."""

    steps: int = 3600
    coarse_share: float = 0.444
    """Share of the steps, the first ones, that see the pictures at half the size: a quarter of the time each."""
    every: int = 100
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
    edge: float = 0.0
    softness: float = 1.0
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


ON_CPU = Compute(torch.device("cpu"), bfloat16=bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))  # noqa: SLF001  torch has no public name for it
"""bfloat16 only where the processor has it: elsewhere torch imitates it, in several times the time of float32."""


def compute_here() -> Compute:
    """CUDA if there is one, else the CPU; bfloat16 where the hardware is fast at it."""
    if torch.cuda.is_available():
        return Compute(torch.device("cuda"), bfloat16=torch.cuda.is_bf16_supported())
    return ON_CPU


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Training or validation images with their truth, on the map's cells or on a grid that divides them."""

    images: npt.NDArray[np.uint8]
    """(N, rows, columns) grey, 255 is 1.0."""
    labels: npt.NDArray[np.bool_]
    """(N,) True for IPF."""
    lesions: npt.NDArray[np.uint8]
    """(N, h, w) share of each place that is lesion, 255 is all of it."""
    lungs: npt.NDArray[np.uint8]
    """(N, h, w) share of each place that is lung."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.intp] | slice) -> "Examples":
        return Examples(self.images[index], self.labels[index], self.lesions[index], self.lungs[index])

    def on_cells(self, cells: tuple[int, int]) -> "Examples":
        """The same with lesions and lungs as shares of other, larger places; `cells` is (rows, columns) of their grid."""
        return replace(self, lesions=_pooled(self.lesions, cells), lungs=_pooled(self.lungs, cells))


def _pooled(shares: npt.NDArray[np.uint8], cells: tuple[int, int]) -> npt.NDArray[np.uint8]:
    count, rows, columns = shares.shape
    if rows % cells[0] or columns % cells[1]:
        raise ValueError(f"a grid of {rows} x {columns} does not divide into {cells[0]} x {cells[1]} cells")
    squares = shares.reshape(count, cells[0], rows // cells[0], cells[1], columns // cells[1])
    return np.asarray(np.rint(squares.mean(axis=(2, 4), dtype=np.float32)), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Examples as tensors; only those of one step need lie where the network computes."""

    images: torch.Tensor
    """(N, rows, columns) uint8 grey, 255 is 1.0."""
    labels: torch.Tensor
    """(N,) float32, 1 for IPF."""
    lesions: torch.Tensor
    """(N, h, w) uint8 share of each place that is lesion, 255 is all of it."""
    lungs: torch.Tensor
    """(N, h, w) uint8 share of each place that is lung."""

    @classmethod
    def of(cls, examples: Examples, device: torch.device) -> "Batch":
        arrays = (examples.images, examples.labels.astype(np.float32), examples.lesions, examples.lungs)
        return cls(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays))

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in (self.images, self.labels, self.lesions, self.lungs)))

    def take(self, index: npt.NDArray[np.intp] | slice) -> "Batch":
        chosen = index if isinstance(index, slice) else torch.from_numpy(index).to(self.labels.device)
        return Batch(self.images[chosen], self.labels[chosen], self.lesions[chosen], self.lungs[chosen])

    def halved(self) -> "Batch":
        """The same at half the size, on a grid of half as many places each way."""
        return replace(self, images=_halved(self.images), lesions=_halved(self.lesions), lungs=_halved(self.lungs))

    def mirrored(self, chosen: npt.NDArray[np.bool_]) -> "Batch":
        """Left and right exchanged where `chosen`."""
        side = torch.from_numpy(chosen).to(self.labels.device)[:, None, None]
        flip = [torch.where(side, tensor.flip(-1), tensor) for tensor in (self.images, self.lesions, self.lungs)]
        return Batch(flip[0], self.labels, flip[1], flip[2])

    def examples(self) -> Examples:
        """Back to arrays."""
        images, labels, lesions, lungs = (
            tensor.cpu().numpy() for tensor in (self.images, self.labels, self.lesions, self.lungs)
        )
        return Examples(images, labels > 0.5, lesions, lungs)


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """(N, 2h, 2w) uint8 -> (N, h, w): means of 2 x 2."""
    return functional.avg_pool2d(tensor[:, None].float(), 2)[:, 0].round().to(torch.uint8)


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
    class_map: torch.Tensor,
    bias: torch.Tensor,
    labels: torch.Tensor,
    lesions: torch.Tensor,
    lungs: torch.Tensor,
    weight: float,
    edge: float = 0.0,
    softness: float = 1.0,
    outside_weight: float = 0.0,
) -> torch.Tensor:
    """The loss of the module's docstring.

    Parameters
    ----------
    class_map
        (N, h, w) M.
    labels
        (N,) float, 1 for IPF.
    lesions, lungs
        (N, rows, columns) float in [0, 1]: g and the lung cover, on M's grid or a finer one.
    edge, softness
        c and T, in logits.
    outside_weight
        q.
    """
    margin = class_map.mean(dim=(1, 2)) + bias
    loss = functional.binary_cross_entropy_with_logits(margin, 0.96 * labels + 0.02)
    if weight == 0:
        return loss
    places = lesions[0].numel() / class_map[0].numel()
    class_map = spread(class_map, (lesions.shape[1], lesions.shape[2]))
    mass, soft = functional.softplus(class_map), (class_map - edge) / softness
    outside = 1 - (lungs / 0.1).clamp(max=1)
    truth = (lesions / 0.4).clamp(max=1)
    cells = (1, 2)
    shape = -torch.log((mass * lesions).sum(cells) / (mass * (1 + outside)).sum(cells).clamp(min=1e-6) + 1e-4)
    inside = (truth * functional.softplus(-soft)).sum(cells) / truth.sum(cells).clamp(min=1e-6)
    beyond = ((1 - truth) * functional.softplus(soft) * (1 + outside)).sum(cells) / (1 - truth).sum(cells).clamp(min=1e-6)
    lit = torch.sigmoid(soft)
    dice = 1 - 2 * (lit * truth).sum(cells) / (lit.sum(cells) + truth.sum(cells)).clamp(min=1e-6)
    drawn = (labels > 0.5) & (lesions.sum(cells) > LEAST_LESION_CELLS * places)
    held = _mean_over(0.7 * shape + 0.5 * (inside + beyond) / 2 + dice, drawn)
    healthy = _mean_over(mass.mean(dim=cells), labels < 0.5)
    around = ((class_map.abs() * outside).sum(cells) / outside.sum(cells).clamp(min=1)).mean()
    return loss + weight * (held + 0.7 * healthy + outside_weight * around)


def _mean_over(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Of the chosen ones; 0 where none is. Asks the GPU for nothing, so that nobody waits for it."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


def spread(class_map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, h, w) -> (N, *size): bilinear between the middles of cells, as `ipfvision.core.geometry.Crop.paste_cells` does it.

    Two products of matrices: torch's own interpolation sums its gradient in another order each time on a GPU.
    """
    if class_map.shape[1:] == size:
        return class_map
    down, across = (_between(cells, places).to(class_map) for cells, places in zip(class_map.shape[1:], size, strict=True))
    return down @ class_map @ across.T


@functools.cache
def _between(cells: int, places: int) -> torch.Tensor:
    """(places, cells): how much of each cell's value is in each place."""
    at = ((torch.arange(places) + 0.5) * cells / places - 0.5).clamp(0, cells - 1)
    return (1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def _images(batch: Batch, recipe: NetworkRecipe) -> torch.Tensor:
    values = (batch.images.float() / 255 - recipe.mean) / recipe.standard_deviation
    return values[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _batches(examples: Batch, recipe: Recipe, first_step: int, device: torch.device) -> Iterator[Batch]:
    """Endless shuffled batches, half of them mirrored; the same from any step on, so that a resumed run repeats the order."""
    per_epoch = len(examples) // recipe.batch
    if per_epoch == 0:
        raise ValueError(f"{len(examples)} examples do not fill one batch of {recipe.batch}")
    step = first_step
    while True:
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(examples))
        batch = examples.take(order[place * recipe.batch : (place + 1) * recipe.batch]).to(device)
        yield batch.mirrored(np.random.default_rng((recipe.seed, 1, step)).random(recipe.batch) < 0.5)
        step += 1


def _calibrate(model: MapNetwork, examples: Batch, recipe: Recipe, compute: Compute) -> None:
    """Measure BatchNorm's statistics anew on twelve training batches."""
    batches = _batches(examples, recipe, 0, compute.device)
    first = [next(batches) for _ in range(12)]
    calibrate(model, (batch.halved() if recipe.coarse_steps else batch for batch in first), recipe, compute)


def calibrate(model: MapNetwork, batches: Iterable[Batch], recipe: NetworkRecipe, compute: Compute) -> None:
    """Measure BatchNorm's statistics anew, stage by stage in one running mean."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    model.train()
    with torch.no_grad(), compute.autocast():
        for batch in batches:
            model(_images(batch, recipe))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def class_map_of(
    model: MapNetwork, examples: Examples | Batch, recipe: NetworkRecipe, compute: Compute = ON_CPU
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Maps (N, h, w) and margins (N,) in evaluation mode."""
    model.eval()
    maps = []
    with torch.inference_mode(), compute.autocast():
        for first in range(0, len(examples), recipe.batch):
            some = examples.take(slice(first, first + recipe.batch))
            batch = Batch.of(some, compute.device) if isinstance(some, Examples) else some.to(compute.device)
            maps.append(model(_images(batch, recipe)).cpu().numpy())
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
    batch: Batch,
    recipe: NetworkRecipe,
    step: int,
    steps: int,
    compute: Compute,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the optimizer, with warm-up and cosine decay over all `steps`.

    Returns
    -------
    The loss, one number, and (N, h, w) the class map before the step; both where the network computes.
    """
    model.train()
    for name in recipe.frozen:
        model.network.get_submodule(name).eval()
    ramp = min(1.0, (step + 1) / recipe.warm_up)
    rate = recipe.learning_rate * ramp * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    with compute.autocast():
        class_map = model(_images(batch, recipe))
    lesions, lungs = batch.lesions.float() / 255, batch.lungs.float() / 255
    told = (recipe.map_weight, recipe.edge, recipe.softness, recipe.outside_weight)
    loss = map_loss(class_map, model.bias, batch.labels, lesions, lungs, *told)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return loss.detach(), class_map.detach()


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
    compute: Compute = ON_CPU,
) -> MapNetwork:
    """Train, or go on training where a killed run stopped.

    State and log lie in `folder` and appear whole or not at all. The last state is kept; the number of steps is the recipe's,
    so nothing is chosen on validation here.
    """
    torch.manual_seed(recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = MapNetwork(recipe)
    state_file, log_file = folder / STATE, folder / LOG
    described = json.dumps(asdict(replace(recipe, every=0)), sort_keys=True)
    state = read_state(state_file) if state_file.is_file() else None
    if state is not None and state["recipe"] != described:
        raise RunStopped(f"{folder.name} holds a run of another recipe or other options: choose another folder.")
    begun = start(model.network, recipe.start, recipe.seed) if state is None else None
    if begun is not None and begun.has_head:
        model.adopt_head()
    model.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizer_of(model, recipe)
    memory = torch.device("cpu")  # of a pool there are gigabytes
    training, watched = Batch.of(examples, memory), Batch.of(validation, memory)
    if begun is not None:
        if begun.needs_calibration:
            _calibrate(model, training, recipe, compute)
        (folder / BEGUN).write_text(json.dumps(asdict(begun), indent=1))
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    first = 0 if state is None else state["step"]
    losses: list[torch.Tensor] = []
    clock = time.monotonic()
    for step, batch in enumerate(_batches(training, recipe, first, compute.device), start=first):
        if step >= recipe.steps:
            break
        coarse = step < recipe.coarse_steps
        loss, _ = descend(model, optimizer, batch.halved() if coarse else batch, recipe, step, recipe.steps, compute)
        losses.append(loss)
        if (step + 1) % recipe.every == 0 or step + 1 == recipe.steps:
            mean_loss = float(torch.stack(losses).mean())
            seconds = (time.monotonic() - clock) / len(losses)
            measured = watched.halved() if coarse else watched
            maps, margins = class_map_of(model, measured, recipe, compute)
            line = {
                "step": step + 1,
                "coarse": coarse,
                "loss": mean_loss,
                "seconds_per_step": seconds,
                "bias": float(model.bias.detach()),
                **cell_figures(maps, margins, measured.examples().on_cells((maps.shape[1], maps.shape[2]))),
            }
            losses, clock = [], time.monotonic()
            with log_file.open("a") as log:
                log.write(json.dumps(line) + "\n")
            save_state(
                state_file,
                {
                    "recipe": described,
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
