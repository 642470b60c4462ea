"""Distances on a slice in millimeters, exact for pixels that are not square."""

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.slice import PixelSpacing

Mask = npt.NDArray[np.bool_]

CHUNK = 1024
"""Points whose distances are found at a time: bounds the memory."""
ROUNDING = 1 + 1e-9
"""So that a distance of exactly the limit is within it, whatever the spacing's last digit."""


def _squared_along_columns(mask: Mask, row_mm: float) -> npt.NDArray[np.float64]:
    """(H, W): squared distance of each pixel to the nearest one of the mask in its own column; inf where there is none."""
    rows = np.arange(mask.shape[0], dtype=np.float64)[:, None]
    above = np.maximum.accumulate(np.where(mask, rows, -np.inf), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, np.inf)[::-1], axis=0)[::-1]
    return np.asarray(np.square(np.minimum(rows - above, below - rows) * row_mm), np.float64)


def distances_mm(points: npt.NDArray[np.intp], mask: Mask, spacing: PixelSpacing) -> npt.NDArray[np.float64]:
    """Distance from the center of each pixel to the center of the nearest pixel of a mask, in mm; inf if the mask is empty.

    The two passes of an exact Euclidean distance transform (Felzenszwalb and Huttenlocher, Theory Comput. 2012;8:415-428), the
    second one only where it is asked for.

    Parameters
    ----------
    points
        (N, 2): row and column of each pixel.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size == 0:
        return np.full(len(points), np.inf)
    squared = _squared_along_columns(mask[:, columns], spacing.row_mm)
    found = np.empty(len(points))
    for start in range(0, len(points), CHUNK):
        row, column = points[start : start + CHUNK].T
        across = (column[:, None] - columns[None, :]) * spacing.column_mm
        found[start : start + CHUNK] = (squared[row] + np.square(across)).min(axis=1)
    return np.asarray(np.sqrt(found), np.float64)


def within_mm(mask: Mask, limit_mm: float, spacing: PixelSpacing) -> Mask:
    """(H, W): the pixels whose centers are at most `limit_mm` away from the center of a pixel of the mask."""
    squared = _squared_along_columns(mask, spacing.row_mm)
    limit = limit_mm**2 * ROUNDING
    near: Mask = squared <= limit
    width = mask.shape[1]
    for step in range(1, min(width - 1, int(limit_mm / spacing.column_mm * ROUNDING)) + 1):
        reached = squared <= limit - (step * spacing.column_mm) ** 2
        near[:, step:] |= reached[:, :-step]
        near[:, :-step] |= reached[:, step:]
    return near


def boundary(mask: Mask) -> Mask:
    """The pixels of a mask that have one of their four neighbors outside it; what lies beyond the slice is outside."""
    cross = np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (np.asarray(inner) == 0), np.bool_)


def hausdorff_mm(first: Mask, second: Mask, spacing: PixelSpacing, percentile: float = 95) -> float | None:
    """The Hausdorff distance between the boundaries of two regions at a percentile, in mm; None if either region is empty.

    Of the distances from each boundary pixel of one region to the nearest boundary pixel of the other, the percentile
    (interpolated linearly), each way; then the larger of the two (Maier-Hein et al., Metrics reloaded, Nat Methods
    2024;21:195-212). The percentile 100 is the Hausdorff distance itself.
    """
    if not first.any() or not second.any():
        return None
    one, other = boundary(first), boundary(second)
    return max(
        float(np.percentile(distances_mm(np.argwhere(one), other, spacing), percentile)),
        float(np.percentile(distances_mm(np.argwhere(other), one, spacing), percentile)),
    )
