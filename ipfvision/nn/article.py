"""The loop of the article behind this project: plain cross-entropy, Adam, a fixed number of epochs, test loss after each.

Repeated to show what it measures, not to be used: whoever calls it hands in the test pictures, and the epoch is chosen on them.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ipfvision.errors import InputRefused
from ipfvision.nn.network import build
from ipfvision.nn.starting_weights import Start, start
from ipfvision.nn.training import ON_CPU
from ipfvision.whole_file import write_whole_by

STATE = "article_state.pt"
"""Of a run that is under way; a finished run keeps no weights."""


@dataclass(frozen=True, slots=True)
class ArticleRecipe:
    """Everything that decides a run besides its pictures."""

    seed: int = 0
    start: str = "astra"
    epochs: int = 7
    size: int = 224
    """Rows and columns to which the whole picture is squeezed."""
    mean: float = 0.2333
    standard_deviation: float = 0.8
    batch: int = 4
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.size < 64:
            raise ValueError("at least one epoch, batches of two pictures and 64 pixels")


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Whole pictures with their labels."""

    images: npt.NDArray[np.uint8]
    """(N, size, size) grey, 255 is 1.0."""
    labels: npt.NDArray[np.bool_]
    """(N,) True for IPF."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels) or not len(self.labels):
            raise ValueError("a label for each picture, and at least one")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.intp]) -> "Pictures":
        return Pictures(self.images[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Epoch:
    """What was measured in one pass over the training pictures and after it."""

    epoch: int
    """From 1."""
    training_loss: float
    training_accuracy: float
    """Both while the network was learning in this epoch, as is usual; the test's are of the network after it."""
    test_loss: float
    test_correct: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The network after the last epoch so far, and every epoch's figures."""

    network: nn.Module
    history: tuple[Epoch, ...]
    begun: Start


def best_epoch(history: tuple[Epoch, ...]) -> Epoch:
    """The epoch that the article would choose: least test loss, the first of ties."""
    return min(history, key=lambda epoch: epoch.test_loss)


def margins(network: nn.Module, pictures: Pictures, recipe: ArticleRecipe) -> npt.NDArray[np.float64]:
    """(N,) z_IPF - z_normal in logits, in evaluation mode; above 0 is called IPF."""
    logits = _logits(network, pictures, recipe).double()
    return np.asarray((logits[:, 0] - logits[:, 1]).numpy(), np.float64)


def train(
    recipe: ArticleRecipe,
    training: Pictures,
    test: Pictures,
    folder: Path | None = None,
    report: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Train for a fixed number of epochs and measure the test pictures after each.

    Parameters
    ----------
    folder
        Where the state lies while the run is under way, so that a killed one goes on; None keeps none.
    report
        Called after each epoch.

    Raises
    ------
    InputRefused
        If `folder` holds the state of a run with other pictures or another recipe.
    """
    torch.manual_seed(recipe.seed)
    network = build(dilated_layer4=False, padding_mode="zeros")  # torchvision's own
    identity = json.dumps([asdict(recipe), _sum(training), _sum(test)], sort_keys=True)
    state_file = None if folder is None else folder / STATE
    history: tuple[Epoch, ...] = ()
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    if state_file is not None and state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        if state["identity"] != identity:
            raise InputRefused("The folder holds an unfinished run with other pictures or options: choose another folder.")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        history = tuple(Epoch(**epoch) for epoch in state["history"])
        begun = Start(**state["begun"])
    else:
        begun = start(network, recipe.start, recipe.seed)
        if begun.needs_calibration:
            _measure_norms(network, training, recipe)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    for number in range(len(history) + 1, recipe.epochs + 1):
        clock = time.monotonic()
        loss, correct = _epoch(network, optimizer, training, recipe, number)
        logits, truth = _logits(network, test, recipe), _truth(test)
        epoch = Epoch(
            epoch=number,
            training_loss=loss,
            training_accuracy=correct / len(training),
            test_loss=float(functional.cross_entropy(logits, truth)),
            test_correct=int((logits.argmax(dim=1) == truth).sum()),
            seconds=time.monotonic() - clock,
        )
        history = (*history, epoch)
        if state_file is not None:
            _save(state_file, identity, optimizer, Outcome(network, history, begun))
        report(Outcome(network, history, begun))
    if state_file is not None:
        state_file.unlink(missing_ok=True)
    return Outcome(network.eval(), history, begun)


def _save(path: Path, identity: str, optimizer: torch.optim.Optimizer, so_far: Outcome) -> None:
    state = {
        "identity": identity,
        "network": so_far.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [asdict(epoch) for epoch in so_far.history],
        "begun": asdict(so_far.begun),
    }
    write_whole_by(path, lambda file: torch.save(state, file))


def _epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, training: Pictures, recipe: ArticleRecipe, number: int
) -> tuple[float, int]:
    """One pass in an order of its own: mean loss, and how many were called rightly before they were learned from."""
    network.train()
    order = np.random.default_rng((recipe.seed, number)).permutation(len(training))
    total, correct = 0.0, 0
    for index in _batches(order, recipe.batch):
        batch = training.take(index)
        truth = _truth(batch)
        with ON_CPU.autocast():
            logits = network(_tensor(batch, recipe)).float()
        loss = functional.cross_entropy(logits, truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(batch)
        correct += int((logits.argmax(dim=1) == truth).sum())
    return total / len(training), correct


def _batches(order: npt.NDArray[np.intp], size: int) -> list[npt.NDArray[np.intp]]:
    """In turn; the last is joined by the one that would be left alone, for one picture has no batch statistics."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)


def _measure_norms(network: nn.Module, training: Pictures, recipe: ArticleRecipe) -> None:
    """Take BatchNorm's statistics from the training pictures, where the starting weights brought none that fit."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    network.train()
    with torch.no_grad(), ON_CPU.autocast():
        for index in _batches(np.arange(len(training)), recipe.batch):
            network(_tensor(training.take(index), recipe))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _logits(network: nn.Module, pictures: Pictures, recipe: ArticleRecipe) -> torch.Tensor:
    network.eval()
    with torch.inference_mode(), ON_CPU.autocast():
        parts = [
            network(_tensor(pictures.take(index), recipe)).float()
            for index in _batches(np.arange(len(pictures)), 4 * recipe.batch)
        ]
    return torch.cat(parts)


def _tensor(pictures: Pictures, recipe: ArticleRecipe) -> torch.Tensor:
    values = (torch.from_numpy(np.ascontiguousarray(pictures.images)).float() / 255 - recipe.mean) / recipe.standard_deviation
    return values[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _truth(pictures: Pictures) -> torch.Tensor:
    """(N,) index of the right output: IPF is the first of `ipfvision.core.findings.TARGETS`."""
    return torch.from_numpy(np.where(pictures.labels, 0, 1))


def _sum(pictures: Pictures) -> str:
    """What tells one set of pictures from another."""
    from ipfvision.core.slice import hash_pixels  # noqa: PLC0415

    return hash_pixels(pictures.images) + hash_pixels(pictures.labels)
