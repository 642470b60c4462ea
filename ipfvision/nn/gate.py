"""The refusal gate in feature space: how far a picture lies from the pictures that the network was trained on.

A Gaussian with a few directions of its own and one variance for all others, probabilistic PCA (Tipping and Bishop, J R Stat Soc
B 1999), is fitted to layer4's pooled features of drawn training examples; the distance is Mahalanobis' (Lee et al., NeurIPS
2018). Nearly all of it is what lies outside the training subspace, the residual of ViM (Wang et al., CVPR 2022). Both classes
share one Gaussian. docs/decisions/0006-refusal-gate.md tells what else was tried.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

DIRECTIONS = 32
"""A file holds them in 270 kB; 64 were not better."""
QUANTILE = 0.99
"""Of held-out drawn examples: beyond it an answer is kept with a note."""
MARGIN = 1.25
"""Refused is what lies beyond the quantile times this. A kind of picture that the Gaussian had not seen (the drawn thorax, when
fitted to real slices alone) reached 1.24."""
PREFIX = "gate."

Features = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """The fitted Gaussian and its two limits. Arrays are float32 and read-only, so that the file brings the same gate back."""

    mean: npt.NDArray[np.float32]
    """(K,)."""
    directions: npt.NDArray[np.float32]
    """(k, K), orthonormal rows."""
    variances: npt.NDArray[np.float32]
    """(k,) along the directions."""
    noise: float
    """Variance along every other direction."""
    note_above: float
    """Distance beyond which the answer comes with a note."""
    refuse_above: float
    """Distance beyond which there is no answer."""

    def __post_init__(self) -> None:
        directions, width = self.directions.shape
        if self.mean.shape != (width,) or self.variances.shape != (directions,) or directions >= width:
            raise ValueError("a gate has (K,) means, (k, K) directions and (k,) variances, with k < K")
        if not (self.variances > 0).all() or not self.noise > 0:
            raise ValueError("a gate's variances are positive")
        if not 0 < self.note_above <= self.refuse_above < math.inf:
            raise ValueError("a gate's limits are positive, and it notes before it refuses")
        for name in ("mean", "directions", "variances"):
            array = getattr(self, name)
            if not np.isfinite(array).all():
                raise ValueError("a gate needs finite numbers")
            view = np.asarray(array, np.float32).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def distance(self, pooled: Features) -> npt.NDArray[np.float64]:
        """Mahalanobis distance over the square root of K: about 1 for the examples it was fitted to.

        Parameters
        ----------
        pooled
            (N, K): layer4's output, its mean over cells.

        Returns
        -------
        (N,).
        """
        centered = np.asarray(pooled, np.float64) - self.mean
        directions = self.directions.astype(np.float64)
        along = centered @ directions.T
        beside = centered - along @ directions
        squared = (along**2 / self.variances).sum(axis=1) + (beside**2).sum(axis=1) / self.noise
        return np.asarray(np.sqrt(squared / len(self.mean)), np.float64)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a checkpoint's file holds; `from_arrays` is the inverse."""
        return {PREFIX + part.name: np.array(getattr(self, part.name)) for part in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self | None:
        """The gate of a file; None if it holds none.

        Raises
        ------
        ValueError
            If it holds half of one.
        """
        found = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
        if not found:
            return None
        if set(found) != {part.name for part in fields(cls)}:
            raise ValueError("the gate is not whole")
        values: dict[str, Any] = {name: array if array.ndim else float(array) for name, array in found.items()}
        return cls(**values)


def fit(features: Features, held_out: list[Features], directions: int = DIRECTIONS) -> Gate:
    """Fit the Gaussian, and set its limits on examples that it was not fitted to.

    Parameters
    ----------
    features
        (N, K) pooled features of drawn training examples of both classes.
    held_out
        Groups of (M, K) others, such as those of another patient. The limit is that of the group that lies farthest.

    Raises
    ------
    ValueError
        If there are too few examples, or none held out.
    """
    values = np.asarray(features, np.float64)
    count, width = values.shape
    if not directions + 1 < count or not directions < width or not any(len(group) for group in held_out):
        raise ValueError(f"{count} examples of {width} features do not fit {directions} directions, or none was held out")
    mean = values.mean(axis=0)
    _, singular, rows = np.linalg.svd(values - mean, full_matrices=False)
    spread = singular**2 / (count - 1)
    # Equation (8) of Tipping and Bishop: the mean variance of what is left over, over all its directions.
    noise = float(spread[directions:].sum() / (width - directions))
    if not noise > 0:
        raise ValueError("the examples are too few or too alike to fit a gate to")
    unlimited = Gate(
        mean.astype(np.float32), rows[:directions].astype(np.float32), spread[:directions].astype(np.float32), noise, 1.0, 1.0
    )
    limit = max(float(np.quantile(unlimited.distance(group), QUANTILE)) for group in held_out if len(group))
    return Gate(unlimited.mean, unlimited.directions, unlimited.variances, noise, limit, MARGIN * limit)


def described(gate: Gate) -> dict[str, Any]:
    """For the card: which gate, and where it refuses."""
    return {
        "method": "Mahalanobis distance of layer4's pooled features under a probabilistic PCA of drawn training examples",
        "directions": len(gate.directions),
        "quantile_of_held_out_drawn_examples": QUANTILE,
        "note_above": gate.note_above,
        "margin": MARGIN,
        "refuse_above": gate.refuse_above,
    }
