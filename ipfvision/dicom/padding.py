"""Where a slice was never measured: the corners outside the reconstruction circle, and filled borders.

Padding is shown black and is never tissue, so a mistake must fall on the harmless side: air outside the patient may be taken
for padding, a pixel inside the patient may not. That is why a value that tissue or air can have counts only where it reaches
the border of the image.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

IMPOSSIBLE_BELOW_HU = -1500
"""No tissue, and no air with the noise of a lung kernel, is below this; -3024, -2048 and -2000 are vendors' fill values."""
_SMALLEST_REGION = 0.0005
"""Share of the image: a filled region is larger than a few pixels that happen to have the fill value."""
_SMALLEST_SHAPE = 0.02
"""Share of the image that the outside of a circle or rectangle must have before its shape is believed."""
_MOST_OUTSIDE_SHAPE = 0.02
"""Share of a uniform border region that may lie inside the circle or rectangle: clipped air around a patient is more."""


def find_padding(hu: npt.NDArray[Any], tagged: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
    """Find the pixels that the scanner did not measure.

    Parameters
    ----------
    hu
        (H, W) Hounsfield units.
    tagged
        (H, W): where the stored value lies in Pixel Padding Value (0028,0120) to Pixel Padding Range Limit (0028,0121)
        (PS3.3 C.7.5.1.1.2). None if the file has no such value.

    Returns
    -------
    (H, W) bool. True at:

    - tagged values below -1500 HU anywhere, other tagged values in regions that reach the border;
    - values below -1500 HU in regions that reach the border;
    - the outside of a circle, or of a rectangle, that one uniform value fills exactly: a reconstruction circle filled with
      -1024 HU, or a smaller image centered on a larger canvas.
    """
    impossible = hu < IMPOSSIBLE_BELOW_HU
    padding = _reaching_border(impossible) if impossible.any() else np.zeros(hu.shape, np.bool_)
    if tagged is not None and tagged.any():
        padding |= tagged & impossible
        padding |= _reaching_border(tagged)
    padding |= _outside_shape(hu, padding)
    return padding


def _reaching_border(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The 8-connected regions of the mask that touch the image's border and are larger than a few pixels."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    keep = np.zeros(count, np.bool_)
    keep[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    keep &= statistics[:, cv2.CC_STAT_AREA] >= max(1, _SMALLEST_REGION * mask.size)
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def _outside_shape(hu: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The outside of a rectangle, and then of a circle in it, whose four corners are filled with one value."""
    rows, columns = hu.shape
    nothing = np.zeros(hu.shape, np.bool_)
    corners = hu[[0, 0, -1, -1], [0, -1, 0, -1]]
    if known[0, 0] or rows < 3 or columns < 3 or (corners != corners[0]).any():
        return nothing
    uniform = hu == corners[0]
    inside = ~uniform
    filled_rows, filled_columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(filled_rows):
        return nothing  # one value everywhere: nothing says which part of it was measured
    region = _reaching_border(uniform)

    top, bottom, left, right = filled_rows[0], filled_rows[-1], filled_columns[0], filled_columns[-1]
    outside = np.ones(hu.shape, np.bool_)
    outside[top : bottom + 1, left : right + 1] = False
    if _fits(region, outside):
        inner = (slice(top, bottom + 1), slice(left, right + 1))
        outside[inner] |= find_padding(hu[inner], None)
        return outside

    y, x = np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2
    distance = y[:, None] ** 2 + x[None, :] ** 2
    outside = distance > distance[inside].max()
    return outside if _fits(region, outside) else nothing


def _fits(region: npt.NDArray[np.bool_], outside: npt.NDArray[np.bool_]) -> bool:
    """Whether the uniform region is the outside of the shape, and hardly anything else."""
    area = int(region.sum())
    return bool(outside.mean() >= _SMALLEST_SHAPE and (region & ~outside).sum() <= _MOST_OUTSIDE_SHAPE * area)
