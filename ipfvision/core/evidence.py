"""Where the evidence for a decision lies, to the last logit: annotated, other lung, outside the lung, padding, bias."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import OnSlice
from ipfvision.core.findings import SignedEvidence
from ipfvision.core.lungs import Lungs
from ipfvision.core.regions import annotated_area, lung_reason


@dataclass(frozen=True, slots=True)
class EvidenceBudget:
    """The margin z_IPF - z_normal as a sum over regions of the model's input, in logits; positive speaks for IPF.

    `annotated + other_lung + outside_lung + padding + bias` is `margin`, to float error, with None taken as nothing. Of the
    last convolutional stage only.
    """

    annotated: float | None
    """Inside the annotated area; None if no area was annotated."""
    other_lung: float
    """In the lung mask, outside the annotated area."""
    outside_lung: float
    """On the slice, outside the lung mask and the annotated area."""
    padding: float
    """Where the model's input reaches beyond the slice."""
    bias: float
    """b^IPF - b^normal: what the model says before it looks."""
    margin: float
    lung_reason: str | None = None
    """Why the line between `other_lung` and `outside_lung` is not to be relied on: only their sum is. None where it holds."""


def evidence_budget(evidence: SignedEvidence, lungs: Lungs, annotations: Sequence[OnSlice] = ()) -> EvidenceBudget:
    """How much of a decision came from where.

    A region R that covers the share f_R of each of the N cells has the evidence E_R = sum(D f_R) / N. The shares are exact
    areas (`Crop.cell_shares`), so regions that partition the input have shares that add up to 1 in every cell.

    Points and boxes are no areas: with nothing else, `annotated` is None.

    Raises
    ------
    ValueError
        If the lung mask or an annotation is not of the evidence's slice.
    """
    shape = evidence.crop.slice_shape
    if lungs.mask.shape != shape:
        raise ValueError(f"a lung mask of {lungs.mask.shape} is not of this slice of {shape}")
    area = annotated_area(annotations, shape)
    if area is None:
        area = np.zeros(shape, np.bool_)
    cells = evidence.cells.astype(np.float64)

    def share(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        return evidence.crop.cell_shares(mask, (cells.shape[0], cells.shape[1]))

    def of(shares: npt.NDArray[np.float64]) -> float:
        return float((cells * shares).mean())

    return EvidenceBudget(
        annotated=of(share(area)) if area.any() else None,
        other_lung=of(share(lungs.mask & ~area)),
        outside_lung=of(share(~(lungs.mask | area))),
        padding=of(1 - share(np.ones(shape, np.bool_))),
        bias=evidence.bias,
        margin=evidence.margin,
        lung_reason=lung_reason(lungs, annotations),
    )
