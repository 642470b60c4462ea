"""Window center and width: from Hounsfield units to the grey values that a reader or a model sees."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window in Hounsfield units.

    Raises
    ------
    ValueError
        If the width is below 1, which DICOM forbids (PS3.3 C.11.2.1.2.1), or a value is not finite.
    """

    center: float
    width: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.center) and np.isfinite(self.width)):
            raise ValueError("a window needs a finite center and width")
        if self.width < 1:
            raise ValueError(f"a window width is at least 1 (PS3.3 C.11.2.1.2.1), not {self.width}")


LUNG = Window(-600.0, 1500.0)
MEDIASTINUM = Window(40.0, 400.0)
GREY = Window(50.0, 100.0)
"""Brightness and contrast of an image without Hounsfield units, in percent of the grey range, as it came: see `adjust_grey`."""


def apply_window(values: npt.NDArray[np.generic], window: Window) -> npt.NDArray[np.float32]:
    """Window values by the DICOM LINEAR function.

    Parameters
    ----------
    values
        Any shape, Hounsfield units.

    Returns
    -------
    Same shape, float32 in [0, 1]. 0 at or below ``center - 0.5 - (width - 1) / 2``, 1 above
    ``center - 0.5 + (width - 1) / 2`` (PS3.3 C.11.2.1.2.1). A width of 1 is a threshold.
    """
    lowest = window.center - 0.5 - (window.width - 1) / 2
    if window.width == 1:
        return (np.asarray(values) > lowest).astype(np.float32)
    grey: npt.NDArray[np.float32] = np.asarray(values).astype(np.float32)
    grey -= np.float32(lowest)
    grey /= np.float32(window.width - 1)
    np.clip(grey, 0, 1, out=grey)
    return grey


def adjust_grey(grey: npt.NDArray[np.float32], window: Window) -> npt.NDArray[np.float32]:
    """Brightness and contrast for an image that has no Hounsfield units.

    `window` is in percent of the grey range (so that a contrast above the file's own keeps a width of at least 1), where `GREY`
    changes nothing: values from ``center - width / 2`` to ``center + width / 2`` percent spread over [0, 1]. It is not a VOI
    window, because what a grey value meant in Hounsfield units is not known.
    """
    lowest = (window.center - window.width / 2) / 100
    return np.asarray(np.clip((grey - lowest) / (window.width / 100), 0, 1), np.float32)
