"""PNG and JPEG in and out. Pillow is imported nowhere else."""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def write_png(image: npt.NDArray[Any]) -> bytes:
    """Encode a picture as PNG, without loss and without any metadata.

    Parameters
    ----------
    image
        (H, W) uint8 or uint16 grey, or (H, W, 3) uint8 RGB.

    Raises
    ------
    ValueError
        If the array has another shape or type.
    """
    is_grey = image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
    is_color = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not (is_grey or is_color) or image.size == 0:
        raise ValueError(f"a PNG is (H, W) uint8 or uint16, or (H, W, 3) uint8, not {image.shape} {image.dtype}")
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()
