"""Which side of the patient each edge of a slice is: the letters beside an image, and whether the anatomy agrees."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ipfvision.core.slice import Plane, Scale, Slice

_NAMES = (("L", "R"), ("P", "A"), ("H", "F"))
"""Towards growing and falling x, y, z in the patient's coordinate system (PS3.3 C.7.6.1.1.1, Patient Orientation)."""
LEAST_COSINE = 0.2
"""A second letter is given to a direction that leans by more than about 12 degrees."""
SOFT_TISSUE_ABOVE_HU, BONE_ABOVE_HU = -300, 200
NEAR_MIDDLE, NEAR_SKIN = 0.1, 0.3
"""The spine is looked for within this share of the body's width on either side of its middle, and this share of its depth from
the skin. Contrast medium in heart and aorta lies deeper."""
MOST_LOOKED_AT, FEWEST_LOOKED_AT = 15, 5
"""Slices of a series: single ones can mislead, through the shoulders or with a port on the chest."""
CLEARLY_IN_FRONT = 0.25
"""Bone in front less bone behind, over both: -0.6 to -0.9 in the median of real series whose letters are right."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Letters for the four edges of an image as it is shown."""

    left: str
    right: str
    top: str
    bottom: str


def edges(plane: Plane) -> Edges:
    """Letters from Image Orientation (Patient): one for each edge, or more where it lies between two directions."""
    return Edges(_letters(plane.row, -1), _letters(plane.row, 1), _letters(plane.column, -1), _letters(plane.column, 1))


def _letters(direction: tuple[float, float, float], sign: int) -> str:
    strongest = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(
        _NAMES[axis][0 if sign * direction[axis] > 0 else 1] for axis in strongest if abs(direction[axis]) >= LEAST_COSINE
    )


def spine_in_front(slices: Sequence[Slice]) -> bool:
    """Whether the spine lies where the files say the front of the patient is, which no patient's does: wrong letters.

    False where that cannot be told: without Hounsfield units or a place in the patient, on slices that are not axial, and on
    fewer than `FEWEST_LOOKED_AT` of them.
    """
    spread = np.unique(np.linspace(0, len(slices) - 1, min(len(slices), MOST_LOOKED_AT)).round().astype(int))
    found = [share for index in spread if (share := _bone_in_front(slices[index])) is not None]
    return len(found) >= FEWEST_LOOKED_AT and float(np.median(found)) > CLEARLY_IN_FRONT


def _bone_in_front(scan: Slice) -> float | None:
    """Bone in front less bone behind near the body's middle, over both, in [-1, 1]; None where neither is seen."""
    if (
        scan.scale is not Scale.HOUNSFIELD
        or scan.plane is None
        or abs(scan.plane.row[0]) < 0.7
        or abs(scan.plane.column[1]) < 0.7
    ):
        return None
    size = max(3, max(scan.shape) // 57)  # lets go of the table
    body = cv2.morphologyEx(
        ((scan.pixels > SOFT_TISSUE_ABOVE_HU) & ~scan.padding).astype(np.uint8), cv2.MORPH_OPEN, np.ones((size, size), np.uint8)
    )
    count, _, statistics, _ = cv2.connectedComponentsWithStats(body)
    if count < 2:
        return None
    left, top, width, height, _ = (int(value) for value in statistics[1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())])
    middle = slice(left + round((0.5 - NEAR_MIDDLE) * width), left + round((0.5 + NEAR_MIDDLE) * width) + 1)
    bone = (scan.pixels[top : top + height, middle] > BONE_ABOVE_HU).sum(axis=1)
    depth = max(1, round(NEAR_SKIN * height))
    upper, lower = int(bone[:depth].sum()), int(bone[-depth:].sum())
    if upper + lower == 0:
        return None
    share = (upper - lower) / (upper + lower)
    return share if scan.plane.column[1] > 0 else -share
