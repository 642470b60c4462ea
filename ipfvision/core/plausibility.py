"""Is a heat map anatomically plausible? Idiopathic pulmonary fibrosis is subpleural and basal, on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import OnSlice
from ipfvision.core.distance import within_mm
from ipfvision.core.findings import Explanation
from ipfvision.core.lungs import Lungs
from ipfvision.core.regions import lung_reason
from ipfvision.core.slice import PixelSpacing, Plane

SUBPLEURAL_MM = 10.0
OBLIQUE = 0.7
"""Smallest cosine between the image's rows and the patient's left-right axis with which the image has a left and a right."""
SECOND_LUNG = 0.1
"""Smallest area of a second lung, as a share of the first one's."""


@dataclass(frozen=True, slots=True)
class Plausibility:
    """Where the mass of a heat map S lies in the chest. None where the map is empty or the lung mask does not hold."""

    lung_mask: str
    """"ok", or a sentence: why nothing is given that rests on the mask."""
    outside_lung_mass: float | None = None
    """Share of all of S on the slice that lies outside the lung mask."""
    subpleural_share: float | None = None
    """Share of S *inside the lung mask* that lies within 10 mm of its boundary, so that it does not mix with
    `outside_lung_mass`. The boundary is the lungs' whole outline on the slice, the mediastinal pleura included and the slice's
    own edge not. None without pixel spacing."""
    subpleural_chance: float | None = None
    """The same of a map that is uniform over the lungs: the share of their area."""
    left_share: float | None = None
    """Share of S inside the lung mask that lies on the *patient's* left; with `right_share` it adds up to 1. None where the
    sides cannot be told."""
    right_share: float | None = None


def plausibility(
    explanation: Explanation,
    lungs: Lungs,
    spacing: PixelSpacing | None,
    plane: Plane | None = None,
    annotations: Sequence[OnSlice] = (),
) -> Plausibility:
    """Where the mass of a heat map lies in the chest.

    Parameters
    ----------
    plane
        Tells which side of the image is the patient's left. Without it the image is taken to be as axial images are shown: the
        patient's right on the image's left.
    annotations
        A large part of the annotated area outside the lung mask speaks against the mask.

    Raises
    ------
    ValueError
        If the lung mask or an annotation is not of the explanation's slice.
    """
    if lungs.mask.shape != explanation.crop.slice_shape:
        raise ValueError(f"a lung mask of {lungs.mask.shape} is not of this slice of {explanation.crop.slice_shape}")
    reason = lung_reason(lungs, annotations)
    if reason is not None:
        return Plausibility(reason)
    heatmap = explanation.heatmap()
    total = float(heatmap.sum(dtype=np.float64))
    if total <= 0:
        return Plausibility("ok")
    in_lung = float(heatmap.sum(dtype=np.float64, where=lungs.mask))
    subpleural = chance = left = right = None
    if spacing is not None:
        rim = pleural_rim(lungs, spacing)
        chance = float(rim.sum() / lungs.mask.sum())
        if in_lung > 0:
            subpleural = float(heatmap.sum(dtype=np.float64, where=rim)) / in_lung
    middle, across = _middle(lungs), _left_to_right(plane)
    if in_lung > 0 and middle is not None and across is not None:
        columns = np.arange(lungs.mask.shape[1]) + 0.5
        image_left = lungs.mask & (columns < middle)[None, :]
        share = float(heatmap.sum(dtype=np.float64, where=image_left)) / in_lung
        left, right = (1 - share, share) if across else (share, 1 - share)
    return Plausibility("ok", 1 - in_lung / total, subpleural, chance, left, right)


def pleural_rim(lungs: Lungs, spacing: PixelSpacing) -> npt.NDArray[np.bool_]:
    """(H, W): the pixels of the lung mask with a pixel outside it at most 10 mm away, center to center."""
    left, top, width, height = lungs.bounds()
    # one pixel more than the lungs on each side: what lies farther away is never nearer
    rows, columns = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    rim = np.zeros_like(lungs.mask)
    rim[rows, columns] = lungs.mask[rows, columns] & within_mm(~lungs.mask[rows, columns], SUBPLEURAL_MM, spacing)
    return rim


def _left_to_right(plane: Plane | None) -> bool | None:
    """Whether the image's rows run towards the patient's left (+x in LPS), as they do by convention; None if neither way."""
    cosine = 1.0 if plane is None else plane.row[0]
    return None if abs(cosine) < OBLIQUE else cosine > 0


def _middle(lungs: Lungs) -> float | None:
    """Column between the lungs: the body's middle, or half way between the two largest pieces; None if there is but one."""
    if lungs.middle is not None:
        return lungs.middle
    _, _, statistics, centers = cv2.connectedComponentsWithStats(lungs.mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    if len(areas) < 2:
        return None
    second, first = np.argsort(areas, kind="stable")[-2:]
    if areas[second] < SECOND_LUNG * areas[first]:
        return None
    return float((centers[1 + first, 0] + centers[1 + second, 0]) / 2 + 0.5)


@dataclass(frozen=True, slots=True)
class Thirds:
    """Shares of a series' heat map mass in the upper, middle and lower third of its length; they add up to 1."""

    upper: float
    middle: float
    lower: float


def thirds(masses: Sequence[float], positions_mm: Sequence[float]) -> Thirds | None:
    """How the mass of the maps of a series is spread from head to foot.

    Each slice stands for the patient up to half way to its neighbors, the outermost ones for as much beyond themselves, so
    slices with irregular gaps count for what they stand for. The thirds are of the whole length; a slice that straddles two
    gives to both.

    Parameters
    ----------
    masses
        Of each slice's map, in any one unit, for example its sum inside the lungs.
    positions_mm
        Of each slice along the patient, larger towards the head (LPS z), in any order.

    Returns
    -------
    None if all masses are 0, or for fewer than three positions.

    Raises
    ------
    ValueError
        If the lengths differ, or a number is not finite, or a mass is negative.
    """
    if len(masses) != len(positions_mm):
        raise ValueError(f"{len(masses)} masses, but {len(positions_mm)} positions")
    mass, position = np.asarray(masses, np.float64), np.asarray(positions_mm, np.float64)
    if not (np.isfinite(mass).all() and np.isfinite(position).all() and (mass >= 0).all()):
        raise ValueError("masses and positions are finite, and no mass is negative")
    if len(np.unique(position)) < 3:
        return None
    order = np.argsort(position, kind="stable")
    mass, position = mass[order], position[order]
    halfway = (position[1:] + position[:-1]) / 2
    edges = np.concatenate([[2 * position[0] - halfway[0]], halfway, [2 * position[-1] - halfway[-1]]])
    cuts = np.linspace(edges[0], edges[-1], 4)

    def between(low: float, high: float) -> float:
        lengths: npt.NDArray[np.float64] = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
        return float(mass @ lengths)

    lower, middle, upper = (between(cuts[third], cuts[third + 1]) for third in range(3))
    total = lower + middle + upper
    return None if total <= 0 else Thirds(upper / total, middle / total, lower / total)
