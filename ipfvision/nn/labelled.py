"""The loop for labelled pictures: balanced classes and patients, the epoch chosen on validation patients, resumed where killed.

The loss is that of `ipfvision.nn.training`. It holds the class map only to pictures that carry a mask; without any it is the
cross-entropy of the labels alone.
"""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ipfvision.errors import RunStopped
from ipfvision.nn.augmentation import Augmentation
from ipfvision.nn.starting_weights import Start, start
from ipfvision.nn.training import (
    BEGUN,
    LOG,
    PROGRESS,
    STATE,
    Batch,
    Compute,
    Examples,
    LabelledRecipe,
    MapNetwork,
    auroc,
    calibrate,
    class_map_of,
    compute_here,
    descend,
    optimizer_of,
    read_state,
    save_state,
)
from ipfvision.whole_file import write_whole

SECONDS_BETWEEN_STATES = 60.0
"""A state is 300 MB: an epoch of a small collection is over sooner than it is written."""
CALIBRATING_BATCHES = 12


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Labelled pictures as the model sees them, with whose they are and what was annotated on them.

    Raises
    ------
    ValueError
        If the arrays do not belong together.
    """

    images: npt.NDArray[np.uint8]
    """(N, rows, columns) grey, 255 is 1.0."""
    labels: npt.NDArray[np.bool_]
    """(N,) True for IPF."""
    masks: npt.NDArray[np.uint8]
    """(N, 2, rows, columns) lesion and lung, 255 is all of a pixel; the lesion is empty where nothing was annotated."""
    patients: tuple[str, ...]
    """N words for whose each picture is."""

    def __post_init__(self) -> None:
        count, rows, columns = self.images.shape
        if self.masks.shape != (count, 2, rows, columns) or len(self.labels) != count or len(self.patients) != count:
            raise ValueError("a label, a patient and two masks of the same size for each picture")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.intp]) -> "Pictures":
        return Pictures(self.images[index], self.labels[index], self.masks[index], tuple(self.patients[i] for i in index))

    @property
    def annotated(self) -> int:
        """IPF pictures that carry a mask."""
        return int((self.masks[:, 0].any(axis=(1, 2)) & self.labels).sum())

    def on_cells(self, cell: int) -> Examples:
        """With the masks pooled to the map's cells."""
        count, _, rows, columns = self.masks.shape
        squares = self.masks.reshape(count, 2, rows // cell, cell, columns // cell, cell)
        pooled = np.rint(squares.mean(axis=(3, 5), dtype=np.float32)).astype(np.uint8)
        return Examples(self.images, self.labels, pooled[:, 0], pooled[:, 1])

    def weights(self) -> npt.NDArray[np.float64]:
        """(N,) that sum to 1: both classes weigh alike, in each its patients, and of each patient the pictures."""
        weights = np.zeros(len(self))
        for label in (True, False):
            own = {patient for patient, ipf in zip(self.patients, self.labels, strict=True) if ipf == label}
            for patient in own:
                index = self._of(patient, ipf=label)
                weights[index] = 1 / (len(own) * len(index))
        return np.asarray(weights / weights.sum(), np.float64)

    def _of(self, patient: str, *, ipf: bool) -> npt.NDArray[np.intp]:
        return np.flatnonzero((np.array(self.patients) == patient) & (self.labels == ipf))

    def balanced(self, seed: int, places: range) -> npt.NDArray[np.intp]:
        """Indices at some places of two endless rows, IPF then normal: every patient of the class in turn, one picture of each.

        Any part of a row is had without the parts before it, so that a resumed run repeats the order.
        """
        return np.array([self._at(seed, place, ipf=ipf) for ipf in (True, False) for place in places], np.intp)

    def _at(self, seed: int, place: int, *, ipf: bool) -> int:
        own = sorted({patient for patient, label in zip(self.patients, self.labels, strict=True) if label == ipf})
        turn, position = divmod(place, len(own))
        rng = np.random.default_rng((seed, 3, int(ipf), turn))
        order, picks = rng.permutation(len(own)), rng.random(len(own))
        index = self._of(own[order[position]], ipf=ipf)
        return int(index[int(picks[position] * len(index))])


@dataclass(frozen=True, slots=True)
class Epoch:
    """What was measured in one epoch and after it. Validation figures are None where there are no validation patients."""

    epoch: int
    """From 1."""
    training_loss: float
    """With the map's part, while the network was learning."""
    training_accuracy: float
    """Also while it was learning, on changed pictures."""
    validation_loss: float | None
    """Of the labels alone; classes and patients weigh alike. The least chooses the epoch."""
    validation_accuracy: float | None
    """At a margin of 0, classes and patients weighing alike."""
    validation_auroc: float | None
    """Of pictures."""
    bias: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The network of the chosen epoch, in evaluation mode."""

    model: MapNetwork
    history: tuple[Epoch, ...]
    chosen: int
    """Epoch, from 1."""
    begun: Start


def margins_of(model: MapNetwork, pictures: Pictures, recipe: LabelledRecipe, compute: Compute) -> npt.NDArray[np.float64]:
    """(N,) z_IPF - z_normal in logits."""
    return np.asarray(class_map_of(model, pictures.on_cells(recipe.cell), recipe, compute)[1], np.float64)


def label_loss(margins: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]) -> float:
    """Weighted cross-entropy of the labels, smoothed as in training: L's first term in `ipfvision.nn.training`."""
    targets = 0.96 * labels + 0.02
    return float((weights * (np.logaddexp(0, margins) - targets * margins)).sum())


def chosen_epoch(history: Sequence[Epoch]) -> int:
    """The epoch with the least validation loss, the first of ties; without validation the last."""
    measured = [epoch for epoch in history if epoch.validation_loss is not None]
    if not measured:
        return history[-1].epoch
    return min(measured, key=lambda epoch: (epoch.validation_loss, epoch.epoch)).epoch


def train_labelled(
    recipe: LabelledRecipe,
    training: Pictures,
    validation: Pictures | None,
    folder: Path,
    identity: str,
    report: Callable[[Sequence[Epoch]], None] = lambda _: None,
    *,
    stop_after: int | None = None,
    seconds_between_states: float = SECONDS_BETWEEN_STATES,
) -> Outcome:
    """Train, or go on where a killed run stopped, to the same network on the same machine.

    Parameters
    ----------
    validation
        Patients who are not trained on. They choose the epoch and end the run; without them it goes to `stop_after`.
    identity
        What the pictures are, so that a folder with a run on others is not gone on with.
    report
        Called after each epoch with all so far.
    stop_after
        Epochs, of which the last is kept. The learning rate falls as if all of the recipe's were run.

    Raises
    ------
    RunStopped
        If the folder holds another run, or the disk is full. What was saved before is unharmed.
    """
    run = _Run(recipe, training, validation, folder, identity, stop_after)
    if run.is_finished:
        return run.outcome()
    saved = time.monotonic()
    while not run.is_over():
        run.epoch()
        if time.monotonic() - saved >= seconds_between_states:
            run.save()
            saved = time.monotonic()
        run.write_log()
        report(run.history)
    run.finish()
    return run.outcome()


class _Run:
    """A run between two epochs."""

    def __init__(
        self,
        recipe: LabelledRecipe,
        training: Pictures,
        validation: Pictures | None,
        folder: Path,
        identity: str,
        stop_after: int | None,
    ) -> None:
        self.recipe, self.training, self.validation, self.folder = recipe, training, validation, folder
        self.last = recipe.epochs if stop_after is None else stop_after
        self.compute = compute_here()
        self.change = Augmentation()
        self.steps_per_epoch = max(1, round(len(training) / recipe.batch))
        self.history: list[Epoch] = []
        self.described = json.dumps(asdict(recipe), sort_keys=True)
        self.identity = json.dumps([self.described, identity, self.last])
        if self.compute.device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        torch.manual_seed(recipe.seed)
        self.model = MapNetwork(recipe)
        state = self._found()
        self.is_finished = state is not None and "optimizer" not in state
        if state is None:
            self.begun = start(self.model.network, recipe.start, recipe.seed)
            if self.begun.has_head:
                self.model.adopt_head()
        self.model.to(self.compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimizer_of(self.model, recipe)
        self.best: dict[str, torch.Tensor] = {}
        if state is None:
            self._begin()
        else:
            self._resume(state)

    def _found(self) -> dict[str, Any] | None:
        """The state that lies in the folder, the finished one first."""
        for name in (STATE, PROGRESS):
            if (self.folder / name).is_file():
                state = read_state(self.folder / name)
                if state.get("kind") != "labelled" or state["identity"] != self.identity:
                    raise RunStopped(
                        f"{self.folder.name} holds a run with another recipe, other pictures or other options: choose another "
                        "folder."
                    )
                return state
        return None

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.begun.needs_calibration:
            calibrate(self.model, (self._batch(step) for step in range(CALIBRATING_BATCHES)), self.recipe, self.compute)
        write_whole(self.folder / BEGUN, json.dumps(asdict(self.begun), indent=1).encode())

    def _resume(self, state: dict[str, Any]) -> None:
        self.begun = Start(**state["begun"])
        self.history = [Epoch(**epoch) for epoch in json.loads(state["history"])]
        self.model.load_state_dict(state["model"])
        if not self.is_finished:
            self.optimizer.load_state_dict(state["optimizer"])
            self.best = state["best"]

    def _batch(self, step: int) -> Batch:
        """Half of each class, changed; the same for the same step, whatever ran before."""
        half = self.recipe.batch // 2
        index = self.training.balanced(self.recipe.seed, range(step * half, (step + 1) * half))
        chosen = self.training.take(index)
        images, masks = self.change(chosen.images, chosen.masks, (self.recipe.seed, 4, step))
        changed = Pictures(images, chosen.labels, masks, chosen.patients).on_cells(self.recipe.cell)
        return Batch.of(changed, self.compute.device)

    def is_over(self) -> bool:
        done = len(self.history)
        if done >= self.last:
            return True
        return self.validation is not None and done > 0 and done - chosen_epoch(self.history) >= self.recipe.patience

    def epoch(self) -> None:
        """Train one epoch, and measure."""
        clock = time.monotonic()
        number = len(self.history)
        losses, right = [], []
        for step in range(number * self.steps_per_epoch, (number + 1) * self.steps_per_epoch):
            batch = self._batch(step)
            total = self.recipe.epochs * self.steps_per_epoch
            loss, class_map = descend(self.model, self.optimizer, batch, self.recipe, step, total, self.compute)
            losses.append(float(loss))
            margins = class_map.mean(dim=(1, 2)) + self.model.bias.detach()
            right.append(float(((margins > 0) == (batch.labels > 0.5)).float().mean()))
        loss_now = accuracy = area = None
        if self.validation is not None:
            measured = margins_of(self.model, self.validation, self.recipe, self.compute)
            labels, weights = self.validation.labels, self.validation.weights()
            loss_now = label_loss(measured, labels, weights)
            accuracy = float((weights * ((measured > 0) == labels)).sum())
            area = auroc(measured, labels)
        self.history.append(
            Epoch(
                epoch=number + 1,
                training_loss=float(np.mean(losses)),
                training_accuracy=float(np.mean(right)),
                validation_loss=loss_now,
                validation_accuracy=accuracy,
                validation_auroc=area,
                bias=float(self.model.bias.detach()),
                seconds=time.monotonic() - clock,
            )
        )
        if chosen_epoch(self.history) == number + 1:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def _state(self, model: dict[str, torch.Tensor], step: int) -> dict[str, Any]:
        return {
            "kind": "labelled",
            "recipe": self.described,
            "identity": self.identity,
            "begun": asdict(self.begun),
            "history": json.dumps([asdict(epoch) for epoch in self.history]),
            "model": model,
            "step": step,
        }

    def save(self) -> None:
        """Keep what is needed to go on; the network that a finished run is loaded by does not lie there yet."""
        state = self._state(self.model.state_dict(), len(self.history) * self.steps_per_epoch)
        save_state(self.folder / PROGRESS, {**state, "best": self.best, "optimizer": self.optimizer.state_dict()})

    def write_log(self) -> None:
        lines = (json.dumps(asdict(epoch)) + "\n" for epoch in self.history)
        write_whole(self.folder / LOG, "".join(lines).encode())

    def finish(self) -> None:
        """Write the chosen epoch's network as the run's, and drop what was for going on."""
        chosen = chosen_epoch(self.history)
        save_state(self.folder / STATE, self._state(self.best, chosen * self.steps_per_epoch))
        (self.folder / PROGRESS).unlink(missing_ok=True)
        self.model.load_state_dict(self.best)

    def outcome(self) -> Outcome:
        return Outcome(self.model.eval(), tuple(self.history), chosen_epoch(self.history), self.begun)


def versions() -> dict[str, str]:
    """Of what decides a result besides this package."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "torchvision", "numpy")}
