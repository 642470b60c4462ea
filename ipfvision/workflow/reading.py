"""From a slice to what the page and the command line show: the answer, the maps, the picture and the JSON."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision.core.findings import Explanation, ModelCard, Prediction
from ipfvision.core.lungs import Lungs
from ipfvision.core.slice import Slice

DEFAULT_MODEL = Path(__file__).parents[2] / "models" / "ipf_resnet50.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One slice, read."""

    scan: Slice
    prediction: Prediction
    explanations: Mapping[str, Explanation]
    """By target ("ipf", "normal"); empty if the slice was refused."""
    model_input: npt.NDArray[np.float32] | None
    """(rows, columns) in [0, 1]: the grey image that the model saw; None if the slice was refused."""
    lungs: Lungs


class Reader:
    """A loaded model. Safe to share between threads."""

    card: ModelCard

    @classmethod
    def open(cls, weights: Path = DEFAULT_MODEL) -> "Reader":
        """Load the checkpoint; raises ModelUnusable with a sentence."""
        raise NotImplementedError

    def read(self, scan: Slice, method: str = "gradcam") -> Reading:
        """Answer and maps for both targets of one slice."""
        raise NotImplementedError

    def read_all(self, slices: Iterable[Slice], method: str = "gradcam") -> Iterator[Reading]:
        """One reading at a time, in order: stop iterating to cancel."""
        raise NotImplementedError


def methods() -> Mapping[str, str]:
    """Names of the explanation methods, with the words to show for each."""
    raise NotImplementedError


def result(card: ModelCard, readings: Iterable[Reading], target: str = "ipf") -> dict[str, Any]:
    """The JSON that `python -m ipfvision read` writes: {"model": {...}, "slices": [...]}."""
    raise NotImplementedError
