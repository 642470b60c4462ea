"""From the values of a picture to annotated areas, and how a mask is told from an image of a patient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_VALUES = 64
"""Values of one picture that may each stand for an area; labels of a whole body have about 100 over all its slices."""
FEW_VALUES = 4
"""Up to so many values every one is meant, even where it covers single pixels or lines. No CT slice has so few."""
MOST_BLURRED = 0.1
"""Share of the pixels up to which values that nowhere cover a block of 2 x 2 pixels are the softened edges of a drawing. Of a
CT slice in a lung window it is 30 % or more: noise leaves few neighbors alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """The areas of a mask, one for each value that is not its background."""

    by_value: Mapping[int, npt.NDArray[np.bool_]]
    """Values rising; empty if there is nothing but background."""
    background: int
    blurred: int = 0
    """Pixels of softened edges, which went to the area of the nearest value."""


def find_areas(values: npt.NDArray[np.uint32], *, is_color: bool = False) -> Areas | None:
    """Tell the areas of a mask by their values: 0 is background or, where there is no 0, the most frequent value is.

    Parameters
    ----------
    values
        (H, W): grey values or labels; with `is_color` 0xRRGGBB.

    Returns
    -------
    None if this is no mask: too many values, or values as scattered as in an image of a patient.
    """
    kinds, index, counts = _kinds(values)
    blurred = 0
    if len(kinds) > FEW_VALUES:
        solid = _solid(index, counts)
        if not is_color:
            solid[-1] = True  # of a lesion of a few softened pixels the middle alone has the full value
        blurred = int(counts[~solid].sum())
        if blurred > MOST_BLURRED * values.size or not 2 <= np.count_nonzero(solid) <= MOST_VALUES:
            return None
        sharp = np.flatnonzero(solid)
        nearest = sharp[_nearest(kinds, kinds[sharp], is_color=is_color)]
        nearest[sharp] = sharp
        index = nearest[index]
        counts = np.bincount(index.ravel(), minlength=len(kinds))
    background = 0 if kinds[0] == 0 else int(counts.argmax())
    areas = {int(kinds[i]): index == i for i in np.flatnonzero(counts) if i != background}
    return Areas(areas, int(kinds[background]), blurred)


def _kinds(
    values: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """`np.unique` with inverse and counts, without its sort where a table of all values is no larger than the picture."""
    if int(values.max()) > max(values.size, 2**16):
        found, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        return found.astype(np.intp), index.reshape(values.shape), counts
    table = np.bincount(values.ravel())
    kinds = np.flatnonzero(table)
    counts = table[kinds]
    table[kinds] = np.arange(len(kinds))
    return kinds, table[values], counts


def _solid(index: npt.NDArray[np.intp], counts: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which values lie mostly in blocks of 2 x 2 pixels of the same value."""
    across, down = index[:, 1:] == index[:, :-1], index[1:] == index[:-1]
    blocks = across[1:] & across[:-1] & down[:, 1:] & down[:, :-1]
    in_block = np.zeros(index.shape, np.bool_)
    height, width = blocks.shape
    for row in (0, 1):
        for column in (0, 1):
            in_block[row : row + height, column : column + width] |= blocks
    return np.asarray(np.bincount(index[in_block], minlength=len(counts)) * 2 >= counts, np.bool_)


def _nearest(kinds: npt.NDArray[Any], sharp: npt.NDArray[Any], *, is_color: bool) -> npt.NDArray[np.intp]:
    """Index into `sharp` of the value nearest to each of `kinds`; in the middle, the larger."""
    if not is_color:
        middles = (sharp[1:].astype(np.float64) + sharp[:-1]) / 2
        return np.searchsorted(middles, kinds, side="right")
    best = np.zeros(len(kinds), np.intp)
    least = np.full(len(kinds), np.inf)
    channels = _channels(kinds)
    for i, one in enumerate(_channels(sharp)):
        distance = ((channels - one) ** 2).sum(axis=1)
        closer = distance < least
        best[closer], least[closer] = i, distance[closer]
    return best


def _channels(colors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.stack([colors >> 16 & 255, colors >> 8 & 255, colors & 255], axis=1).astype(np.float64)
