"""The picture: grey slice, heat map and contours in RGB. Where the map is zero the CT is untouched, byte for byte."""

import numpy as np
import numpy.typing as npt

from ipfvision.core.slice import Slice
from ipfvision.core.window import GREY, Window


def display_grey(scan: Slice, window: Window, brightness: Window = GREY) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 as the reader sees it: windowed, inverted if MONOCHROME1, padding black."""
    raise NotImplementedError


def overlay(
    grey: npt.NDArray[np.uint8],
    heatmap: npt.NDArray[np.float32],
    full_scale: float,
    opacity: float = 0.6,
    threshold: float = 0.1,
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8: the map in color over grey, opaque as the map is strong; nothing below threshold * full_scale."""
    raise NotImplementedError


def outline(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], color: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 with the mask's border drawn one pixel wide inside the mask."""
    raise NotImplementedError


def colorbar(width: int, height: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3) uint8 legend, weakest left."""
    raise NotImplementedError
