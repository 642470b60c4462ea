"""From polygons to pixels: the one rule by which every outline of a file becomes a mask.

Coordinates are continuous (`ipfvision.core.geometry`): the center of pixel (column c, row r) is (c + 0.5, r + 0.5).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

FARTHEST = 1e9
"""Largest coordinate in pixels: beyond it, sums in float64 lose the fractions that decide."""
_CROSSINGS_AT_ONCE = 2**20
_PAIRS_AT_ONCE = 2**20
_MOST_PAIRS = 2**25
"""Pairs of edges that are looked at for one polygon; 5,000 edges of any length, and far more short ones."""


def fill_polygons(polygons: Sequence[npt.NDArray[np.float64]], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels whose centers lie inside an odd number of the polygons' windings (even-odd rule).

    So a polygon inside another is a hole, and where one crosses itself the doubly wound part is outside. A center exactly on a
    left or upper edge is inside, on a right or lower edge outside: polygons that share an edge share no pixel and leave none
    out.

    Parameters
    ----------
    polygons
        Each (N, 2): x, y of the corners; the last one is joined to the first. Fewer than three corners enclose nothing. They
        may reach beyond the image.
    shape
        (rows, columns) of the image.

    Returns
    -------
    (H, W) bool, a new array.

    Raises
    ------
    ValueError
        If a polygon is not (N, 2), or has a coordinate that is not finite or beyond `FARTHEST`.
    """
    rows, columns = shape
    mask = np.zeros(shape, np.bool_)
    edges = [_edges(polygon) for polygon in polygons]
    if not edges:
        return mask
    x0, y0, x1, y1 = np.concatenate(edges).T
    # The first and last row whose center y = r + 0.5 fulfils y0 <= y < y1: half open, so that a corner counts once.
    first = np.clip(np.ceil(y0 - 0.5), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(y1 - 0.5), 0, rows).astype(np.int64)
    counts = last - first
    crossed = counts > 0
    if not crossed.any():
        return mask
    x0, y0, x1, y1, first, counts = (array[crossed] for array in (x0, y0, x1, y1, first, counts))
    top, bottom = int(first.min()), int((first + counts).max())
    left = int(np.clip(np.floor(min(x0.min(), x1.min()) - 0.5), 0, columns))
    right = int(np.clip(np.ceil(max(x0.max(), x1.max()) + 0.5), left, columns))
    width = right - left + 1  # one more, for crossings to the right of the last column
    toggles = np.zeros((bottom - top) * width, np.int64)
    for part in _parts(counts, _CROSSINGS_AT_ONCE):
        many = counts[part]
        edge = np.repeat(np.arange(len(many)), many)
        row = first[part][edge] + np.arange(len(edge)) - (np.cumsum(many) - many)[edge]
        share = (row + 0.5 - y0[part][edge]) / (y1[part] - y0[part])[edge]
        x = x0[part][edge] + share * (x1[part] - x0[part])[edge]
        column = np.clip(np.ceil(x - 0.5), left, right).astype(np.int64)
        toggles += np.bincount((row - top) * width + column - left, minlength=len(toggles))
    inside = np.cumsum(toggles.reshape(bottom - top, width), axis=1)[:, :-1] % 2 == 1
    mask[top:bottom, left:right] = inside
    return mask


def crosses_itself(polygon: npt.NDArray[np.float64]) -> bool:
    """Whether two edges of a closed polygon cross. Corners or edges that only touch do not count.

    Parameters
    ----------
    polygon
        (N, 2). Of polygons with very many long edges only the first `2**25` pairs are looked at.
    """
    edges = _edges(polygon)
    edges = edges[np.argsort(np.minimum(edges[:, 0], edges[:, 2]), kind="stable")]
    low = np.minimum(edges[:, 0], edges[:, 2])
    high = np.maximum(edges[:, 0], edges[:, 2])
    # Sorted by their left ends, an edge can only cross those that begin before it ends.
    counts = np.searchsorted(low, high, side="right") - np.arange(len(edges)) - 1
    looked_at = 0
    for part in _parts(counts, _PAIRS_AT_ONCE):
        many = counts[part]
        if looked_at > _MOST_PAIRS:
            return False
        looked_at += int(many.sum())
        first = np.repeat(np.arange(part.start, part.start + len(many)), many)
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(many) - many, many)
        if (_on_both_sides(edges[first], edges[second]) & _on_both_sides(edges[second], edges[first])).any():
            return True
    return False


def _edges(polygon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, 4): x0, y0, x1, y1 with y0 <= y1, so that an edge is cut alike whichever way it is walked."""
    if polygon.ndim != 2 or polygon.shape[1] != 2:
        raise ValueError(f"a polygon is (N, 2), not {polygon.shape}")
    if not (np.abs(polygon) <= FARTHEST).all():
        raise ValueError(f"a polygon's coordinates are finite and at most {FARTHEST:g}")
    if len(polygon) < 3:
        return np.empty((0, 4))
    start, end = np.asarray(polygon, np.float64), np.roll(polygon, -1, axis=0)
    up = (start[:, 1] <= end[:, 1])[:, None]
    return np.concatenate([np.where(up, start, end), np.where(up, end, start)], axis=1)


def _parts(counts: npt.NDArray[np.int64], at_once: int) -> list[slice]:
    """Runs of `counts` that sum to about `at_once`, so that memory stays bounded; a single count may be larger."""
    if not len(counts):
        return []
    group = np.cumsum(counts) // at_once
    starts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(counts)]
    return [slice(start, end) for start, end in pairwise(starts)]


def _on_both_sides(edge: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether the ends of `other` lie strictly on different sides of the line through `edge`."""
    along = edge[:, 2:] - edge[:, :2]
    first, second = other[:, :2] - edge[:, :2], other[:, 2:] - edge[:, :2]
    side_of_first = along[:, 0] * first[:, 1] - along[:, 1] * first[:, 0]
    side_of_second = along[:, 0] * second[:, 1] - along[:, 1] * second[:, 0]
    return np.asarray(np.sign(side_of_first) * np.sign(side_of_second) < 0, np.bool_)
