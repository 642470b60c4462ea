"""The refusal gate of a run: fitted to what was drawn for its training, and the sentences in which it speaks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ipfvision.core.findings import ModelCard
from ipfvision.errors import InputRefused

if TYPE_CHECKING:
    from ipfvision.nn.gate import Gate
    from ipfvision.nn.network import Model

MOST_EXAMPLES, MOST_OF_HELD_OUT_PATIENTS = 600, 200
HELD_OUT_EVERY = 3
"""Every third of the training examples sets the limits instead."""
BATCH = 4


def _spread(pool: Path, most: int, name: str = "images") -> npt.NDArray[Any]:
    """(N, rows, columns): about `most` images, evenly from all files of a pool; or their (N,) labels."""
    shards = sorted(pool.glob("pool_*.npz"))
    taken = []
    for number, shard in enumerate(shards):
        with np.load(shard, allow_pickle=False) as content:
            found = content[name]
        wanted = most * (number + 1) // len(shards) - most * number // len(shards)
        taken.append(found[np.unique(np.linspace(0, len(found) - 1, min(wanted, len(found))).round().astype(int))])
    return np.concatenate(taken) if taken else np.zeros((0, 1, 1), np.uint8)


def _answered(model: "Model", drawn: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """(N, 2048) pooled features and (N,) margins in logits: in full precision, normalized as in reading."""
    from ipfvision.nn.classify import pooled, run  # noqa: PLC0415
    from ipfvision.nn.network import to_tensor  # noqa: PLC0415

    rows, margins = [np.zeros((0, model.linear.in_features), np.float32)], [np.zeros(0)]
    for first in range(0, len(drawn), BATCH):
        grey = drawn[first : first + BATCH].astype(np.float32) / np.float32(255)
        features, logits = run(model, to_tensor(grey, model.card))
        rows.append(pooled(features))
        margins.append((logits[:, 0] - logits[:, 1]).double().numpy())
    return np.concatenate(rows), np.concatenate(margins)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What a model makes of what was drawn into the patients that its run held out."""

    pooled: npt.NDArray[np.float32]
    """(N, 2048)."""
    margins: npt.NDArray[np.float64]
    """(N,) in logits."""
    truth: npt.NDArray[np.bool_]
    """(N,) whether fibrosis was drawn."""

    @classmethod
    def of(cls, run: Path, model: "Model") -> "HeldOut":
        images, labels = (_spread(run / "validation", MOST_OF_HELD_OUT_PATIENTS, name) for name in ("images", "labels"))
        return cls(*_answered(model, images), labels.reshape(-1).astype(bool))


def fit_gate(run: Path, model: "Model", most: int = MOST_EXAMPLES, held_out: HeldOut | None = None) -> "Gate":
    """Fit the gate of a finished run to its drawn pools, `train` and, for the limits, `validation` (the held-out patients').

    Parameters
    ----------
    model
        The run's checkpoint as it was loaded from its file, so that its weights are rounded as they will be in use.
    most
        Training examples to look at; one takes as long as reading a slice.
    held_out
        If it was worked out before.

    Raises
    ------
    InputRefused
        If the run holds too few drawn examples, or examples of another size than the model's input.
    """
    from ipfvision.nn.gate import DIRECTIONS, fit  # noqa: PLC0415

    training = _spread(run / "train", most)
    if len(training) < 3 * DIRECTIONS:
        raise InputRefused(f"The run holds {len(training)} drawn examples, and a refusal gate needs at least {3 * DIRECTIONS}.")
    if training.shape[1:] != model.card.input_shape:
        raise InputRefused(
            f"The run's drawn examples are {training.shape[1]} x {training.shape[2]} pixels, and the model reads "
            f"{model.card.input_shape[0]} x {model.card.input_shape[1]}: give the run that the model comes from."
        )
    features, _ = _answered(model, training)
    apart = np.arange(len(features)) % HELD_OUT_EVERY == 0
    if held_out is None:
        others, _ = _answered(model, _spread(run / "validation", MOST_OF_HELD_OUT_PATIENTS))
    else:
        others = held_out.pooled
    return fit(features[~apart], [features[apart], others])


def refusal(gate: "Gate", distance: float, card: ModelCard) -> str | None:
    """One sentence: why a picture at this distance gets no answer; None if it gets one."""
    if distance <= gate.refuse_above:
        return None
    return (
        f"The picture is too unlike those that the model was trained on to be judged (distance {distance:.2f}, at most "
        f"{gate.refuse_above:.2f} is answered): please give a whole axial chest CT slice in a lung window (center "
        f"{card.window.center:.0f}, width {card.window.width:.0f}), best as the DICOM file."
    )


def note(gate: "Gate", distance: float) -> str | None:
    """One sentence to stand beside the answer for a picture at this distance; None if it needs none, or gets no answer."""
    if not gate.note_above < distance <= gate.refuse_above:
        return None
    return (
        f"The picture is unlike most of those that the model was trained on (distance {distance:.2f}; 99 % of drawn pictures "
        f"lie within {gate.note_above:.2f}): the answer is less certain than its probability says."
    )
