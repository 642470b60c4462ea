"""Lung mask with a failure verdict."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ipfvision.core.slice import Slice


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """The lungs on one slice, or why they were not found."""

    mask: npt.NDArray[np.bool_]
    """(H, W); all False when `problem` is not None."""
    problem: str | None = None
    """One sentence: why this is not taken for a slice through the lungs."""


def find_lungs(scan: Slice) -> Lungs:
    """Find the lungs on an axial slice."""
    raise NotImplementedError
