"""What a reader, or the program that drew a synthetic lesion, says is where."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt


class Finding(Enum):
    """Findings that an annotation can name (Fleischner Society glossary, Radiology 2008;246:697-722)."""

    HONEYCOMBING = "honeycombing"
    SUBPLEURAL_CYSTS = "subpleural cysts"
    TRACTION_BRONCHIECTASIS = "traction bronchiectasis"
    RETICULATION = "reticulation"
    GROUND_GLASS = "ground glass"
    OTHER = "other"


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One finding on one slice.

    Raises
    ------
    ValueError
        If the mask is not (H, W) bool.
    """

    mask: npt.NDArray[np.bool_]
    """(H, W) on the slice's own grid; read-only. It may be empty: "looked, and found none"."""
    finding: Finding
    reader: str
    """Who says so; "synthetic" where the program drew the lesion itself."""

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise ValueError(f"an annotation mask is (H, W) bool, not {self.mask.shape} {self.mask.dtype}")
        view = self.mask.view()
        view.flags.writeable = False
        object.__setattr__(self, "mask", view)
