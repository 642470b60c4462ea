"""From a slice to the model's input: one function, for training and for reading alike."""

import numpy as np
import numpy.typing as npt

from ipfvision.core.geometry import Crop
from ipfvision.core.lungs import Lungs


def lung_crop(
    lungs: Lungs, slice_shape: tuple[int, int], input_shape: tuple[int, int], margin: float, shift: tuple[float, float] = (0, 0)
) -> Crop:
    """Frame the lungs with `margin` (a share of their size) on each side, in the shape of the model's input.

    The frame is as wide as the wider lung needs on both sides of the body's middle, so that a lung too dense to be found is
    not cut off. It keeps the pixels' aspect ratio and may reach beyond the slice, where it is black.

    Parameters
    ----------
    shift
        (x, y) displacement of the frame as a share of its size; training jitters it.

    Raises
    ------
    ValueError
        If there are no lungs.
    """
    left, top, width, height = lungs.bounds()
    center_x, half_width = left + width / 2, width / 2
    if lungs.middle is not None:
        farther = max(lungs.middle - left, left + width - lungs.middle)
        if farther < width:  # the middle lies inside the lungs: a sane body outline
            center_x, half_width = lungs.middle, farther
    room = 1 + 2 * margin
    rows, columns = input_shape
    crop_width = max(2 * half_width * room, height * room * columns / rows)
    crop_height = crop_width * rows / columns
    x = center_x - crop_width / 2 + shift[0] * crop_width
    y = top + height / 2 - crop_height / 2 + shift[1] * crop_height
    return Crop(round(x), round(y), max(1, round(crop_width)), max(1, round(crop_height)), input_shape, slice_shape)


def prepare(
    grey: npt.NDArray[np.float32], lungs: Lungs, input_shape: tuple[int, int], margin: float
) -> tuple[npt.NDArray[np.float32], Crop]:
    """The model's input and the exact way back.

    Parameters
    ----------
    grey
        (H, W) float32 in [0, 1], in the model's own window (`ipfvision.core.slice.grey`).

    Returns
    -------
    image
        (rows, columns) float32 in [0, 1]: what the model sees.
    crop
        Its place on the slice.
    """
    height, width = grey.shape
    crop = lung_crop(lungs, (height, width), input_shape, margin)
    return np.clip(crop.cut(grey), 0, 1), crop
