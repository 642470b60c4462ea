"""The picture: grey slice, heat map and outlines in RGB. Where the map is zero the CT is untouched, byte for byte."""

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.slice import Scale, Slice
from ipfvision.core.window import GREY, Window, adjust_grey, apply_window

COLORMAP = cv2.COLORMAP_INFERNO
"""Perceptually uniform, dark to bright; never jet, whose bright bands are edges that the map does not have."""
DARKEST = 0.25
"""Part of the color map that is left out at its dark end, which on a CT would look like air."""


def display_grey(scan: Slice, window: Window, brightness: Window = GREY) -> npt.NDArray[np.uint8]:
    """The slice as the reader sees it.

    Hounsfield units are shown in `window`; an image without them only takes `brightness`. MONOCHROME1 is inverted after
    windowing (PS3.3 C.7.6.3.1.2). Padding is black.

    Returns
    -------
    (H, W) uint8.
    """
    shown = apply_window(scan.pixels, window) if scan.scale is Scale.HOUNSFIELD else adjust_grey(scan.pixels, brightness)
    if scan.inverted:
        shown = 1 - shown
    shown[scan.padding] = 0
    return np.rint(shown * 255).astype(np.uint8)


def _colors(share: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """RGB of values in [0, 1]."""
    table_index = np.rint((DARKEST + (1 - DARKEST) * np.clip(share, 0, 1)) * 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(table_index, COLORMAP), cv2.COLOR_BGR2RGB), np.uint8)


def overlay(
    grey: npt.NDArray[np.uint8],
    heatmap: npt.NDArray[np.float32],
    full_scale: float,
    opacity: float = 0.6,
    threshold: float = 0.1,
) -> npt.NDArray[np.uint8]:
    """Lay a heat map over a grey slice.

    Parameters
    ----------
    grey
        (H, W) uint8.
    heatmap
        (H, W) float32, at least 0, in any unit.
    full_scale
        Heat map value drawn in the brightest color and at full `opacity`; larger values look the same. Taken from the model
        card, so that a weak map looks weak; no map is stretched to its own maximum unless the caller asks for that.
    threshold
        Share of `full_scale` below which nothing is drawn.

    Returns
    -------
    (H, W, 3) uint8 RGB. Opacity follows the map: pixels where it is zero, or below the threshold, are the CT's own grey.
    """
    if full_scale <= 0 or not 0 <= opacity <= 1:
        raise ValueError("the full scale must be positive and the opacity in [0, 1]")
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    share = np.clip(heatmap / np.float32(full_scale), 0, 1)
    lit = (heatmap > 0) & (share >= threshold)
    if lit.any():
        alpha = (opacity * np.sqrt(share[lit]))[:, None]
        mixed = picture[lit] * (1 - alpha) + _colors(share)[lit] * alpha
        picture[lit] = np.rint(mixed).astype(np.uint8)
    return picture


def outline(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], color: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Draw a mask's border, one pixel wide and inside the mask.

    Parameters
    ----------
    image
        (H, W) or (H, W, 3) uint8; not changed.

    Returns
    -------
    (H, W, 3) uint8 RGB, a new array.
    """
    picture = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image.copy()
    cross = np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    picture[mask & (np.asarray(inner) == 0)] = color
    return picture
