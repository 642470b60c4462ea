"""What the model is, what it says of a slice, and where that came from."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ipfvision.core.geometry import Crop
from ipfvision.core.slice import PixelSpacing
from ipfvision.core.window import Window

TARGETS = ("ipf", "normal")
"""The two classes, in the order of the model's outputs."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a checkpoint: how to feed it, how to read it, and how well it did. One JSON file beside the weights."""

    name: str
    sha256: str
    """Of the .safetensors file; weights with another hash are not loaded."""
    status: str
    """"preliminary" or "released": shown to every reader."""
    labels: tuple[str, ...]
    window: Window
    input_shape: tuple[int, int]
    """(rows, columns)."""
    mean: float
    standard_deviation: float
    """Of the grey values in [0, 1]: the input is (grey - mean) / standard_deviation, the same in all three channels."""
    crop_margin: float
    """Room around the lungs in the crop, as a share of their width and height."""
    dilated_layer4: bool
    """Layer4 at stride 16 instead of 32 (`replace_stride_with_dilation=[False, False, True]`)."""
    padding_mode: Literal["zeros", "replicate"]
    """Of layer4's 3 x 3 convolutions: "zeros" or "replicate"."""
    temperature: float
    """Divides the margin before the logistic function (Guo et al., ICML 2017)."""
    operating_point: float
    """Probability of IPF from which a slice is called IPF."""
    uncertain_band: tuple[float, float]
    """Probabilities between which the answer is "uncertain"; contains the operating point."""
    map_reference: float
    """Heat map value, in logits, drawn in full color: so that a weak map looks weak on every slice."""
    details: dict[str, Any] = field(default_factory=dict)
    """The rest of the card: training data, figures with intervals, limits. For people."""

    def __post_init__(self) -> None:
        low, high = self.uncertain_band
        if self.labels != TARGETS:
            raise ValueError(f"the labels must be {TARGETS}, not {self.labels}")
        if not 0 <= low <= self.operating_point <= high <= 1:
            raise ValueError("the uncertain band must contain the operating point, inside [0, 1]")
        if min(self.temperature, self.standard_deviation, self.map_reference, *self.input_shape) <= 0:
            raise ValueError("temperature, standard deviation, map reference and input size must be positive")
        if self.padding_mode not in ("zeros", "replicate"):
            raise ValueError(f"padding mode is zeros or replicate, not {self.padding_mode}")


def in_two_digits(probability: float) -> str:
    """A probability for people, that never claims certainty."""
    if probability < 0.01:
        return "under 0.01"
    return "over 0.99" if probability > 0.99 else f"{probability:.2f}"


class Decision(Enum):
    """What the page says in one word."""

    IPF = "ipf"
    NORMAL = "normal"
    UNCERTAIN = "uncertain"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one slice. A refusal has a reason and no numbers."""

    decision: Decision
    reason: str
    """One sentence for a clinician: what the decision rests on, or why there is none."""
    probability: float | None = None
    """Calibrated probability of IPF against normal, in [0, 1]. Not a probability of having the disease."""
    margin: float | None = None
    """z_IPF - z_normal in logits, before calibration."""

    def __post_init__(self) -> None:
        refused = self.decision is Decision.REFUSED
        if refused != (self.probability is None) or refused != (self.margin is None):
            raise ValueError("a refusal has no numbers, and everything else has both")


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A class activation map for one class: where the evidence for it lies."""

    cells: npt.NDArray[np.float32]
    """(h, w) values at least 0 on the model's own grid, never rescaled; read-only. All zero is "no positive evidence"."""
    crop: Crop
    target: str
    """"ipf" or "normal"."""
    method: str
    """A name that `ipfvision.nn.explain` knows, for example "gradcam"."""
    layer: str
    unit: str
    """"logits" where the mean of the map over all cells is a part of the class's logit; "arbitrary" for other methods."""

    def __post_init__(self) -> None:
        if self.cells.ndim != 2 or not np.isfinite(self.cells).all() or float(self.cells.min()) < 0:
            raise ValueError("a class activation map is (h, w), finite and not negative")
        view = self.cells.view()
        view.flags.writeable = False
        object.__setattr__(self, "cells", view)

    @property
    def peak(self) -> float:
        """Largest value of the map; 0 if there is no positive evidence."""
        return float(self.cells.max())

    def heatmap(self) -> npt.NDArray[np.float32]:
        """(H, W) float32, in `unit`, on the slice's own pixel grid; 0 outside the crop."""
        return self.crop.paste_cells(self.cells)

    def peak_xy(self) -> tuple[int, int] | None:
        """Pixel (column, row) of the slice with the largest value, the first of ties; None if the map is empty."""
        heatmap = self.heatmap()
        if float(heatmap.max()) <= 0:
            return None
        row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
        return int(column), int(row)

    def cell_mm(self, spacing: PixelSpacing | None) -> tuple[float, float] | None:
        """(width, height) of one cell on the patient in mm: nothing smaller can be located. None without pixel spacing."""
        if spacing is None:
            return None
        rows, columns = self.cells.shape
        return self.crop.width / columns * spacing.column_mm, self.crop.height / rows * spacing.row_mm


@dataclass(frozen=True, slots=True, eq=False)
class SignedEvidence:
    """The signed evidence map D = sum_k (w_k^IPF - w_k^normal) A_k of the last convolutional stage, which adds up.

    The network ends in average pooling and one linear layer, so the mean of D over all cells plus `bias` *is* the margin
    z_IPF - z_normal, to float error. That holds for this stage only.
    """

    cells: npt.NDArray[np.float32]
    """(h, w) in logits, of both signs, on the model's own grid; read-only."""
    bias: float
    """b^IPF - b^normal, in logits."""
    crop: Crop

    def __post_init__(self) -> None:
        if self.cells.ndim != 2 or not np.isfinite(self.cells).all():
            raise ValueError("a signed evidence map is (h, w) and finite")
        view = self.cells.view()
        view.flags.writeable = False
        object.__setattr__(self, "cells", view)

    @property
    def margin(self) -> float:
        """z_IPF - z_normal, in logits."""
        return float(self.cells.mean(dtype=np.float64)) + self.bias
