"""One CT slice and an ordered stack of them, as everything above `core` knows them."""

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ipfvision.core.window import Window, apply_window


class Scale(Enum):
    """What a pixel value means."""

    HOUNSFIELD = "hounsfield"
    """Hounsfield units."""
    GREY = "grey"
    """A grey value in [0, 1] of unknown window: a PNG or JPEG. It has no Hounsfield units and never gets any."""


@dataclass(frozen=True, slots=True)
class PixelSpacing:
    """Distance between pixel centers in mm: `row_mm` downwards, `column_mm` to the right (PS3.3 10.7.1.3)."""

    row_mm: float
    column_mm: float

    def __post_init__(self) -> None:
        if not (0 < self.row_mm < 1000 and 0 < self.column_mm < 1000):
            raise ValueError(f"pixel spacing must be positive and finite, not {self.row_mm} x {self.column_mm} mm")


@dataclass(frozen=True, slots=True)
class Plane:
    """Where a slice lies in the patient (PS3.3 C.7.6.2.1.1), in mm in the patient's coordinate system (LPS).

    `position` is the center of the first pixel; `row` and `column` are the direction cosines of the image's rows (to the
    right) and columns (downwards).
    """

    position: tuple[float, float, float]
    row: tuple[float, float, float]
    column: tuple[float, float, float]

    def __post_init__(self) -> None:
        row, column = np.asarray(self.row), np.asarray(self.column)
        if not np.isfinite(np.concatenate([self.position, row, column])).all():
            raise ValueError("a plane needs finite numbers")
        if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
            raise ValueError("direction cosines must be orthogonal unit vectors")

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """(3,) unit vector along which slices are stacked: row x column."""
        return np.cross(np.asarray(self.row), np.asarray(self.column))

    def distance_mm(self) -> float:
        """How far the plane lies along its own normal."""
        return float(self.normal @ np.asarray(self.position))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a slice came from, in words that name no patient.

    `file` is what the user called it (a path or an upload's name): shown to that user only, never stored or logged.
    """

    file: str
    format: str
    """"DICOM", "PNG" or "JPEG"."""
    pixel_sha256: str
    """SHA-256 of the pixel values as read, with their shape and type: the identity of what was looked at."""
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    frame_of_reference_uid: str | None = None
    frame: int | None = None
    """Frame number, from 1, inside a multi-frame object."""
    instance_number: int | None = None
    manufacturer: str | None = None
    kernel: str | None = None
    """Convolution Kernel (0018,1210)."""
    transfer_syntax: str | None = None
    """Name of the transfer syntax, for example "JPEG 2000 Image Compression (Lossless Only)"."""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One axial CT slice, valid from birth.

    Raises
    ------
    ValueError
        If an array has the wrong shape, type or range. That is a programmer's mistake: readers refuse bad input before.
    """

    pixels: npt.NDArray[Any]
    """(H, W): int16 or float32 Hounsfield units, or float32 grey in [0, 1]; read-only. Where `padding` is set the value means
    nothing."""
    scale: Scale
    source: Source
    padding: npt.NDArray[np.bool_]
    """(H, W): True where the scanner measured nothing (outside the reconstruction circle, or a filled border); read-only."""
    spacing: PixelSpacing | None = None
    plane: Plane | None = None
    thickness_mm: float | None = None
    file_window: Window | None = None
    """The first window stored in the file, if there is one."""
    inverted: bool = False
    """MONOCHROME1: shown inverted after windowing. Hounsfield units, and what the model sees, are not."""
    warnings: tuple[str, ...] = field(default=())
    """Sentences for the reader: thick slice, lossy compression, ..."""
    colored: npt.NDArray[np.bool_] | None = None
    """(H, W), read-only: where the file's pixels were in color, so that something was drawn there; None where nothing was."""

    def __post_init__(self) -> None:
        pixels, padding = self.pixels, self.padding
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise ValueError(f"a slice is (H, W), not {pixels.shape}")
        if padding.shape != pixels.shape or padding.dtype != np.bool_:
            raise ValueError(f"padding is (H, W) bool like the pixels, not {padding.shape} {padding.dtype}")
        if self.colored is not None and (self.colored.shape != pixels.shape or self.colored.dtype != np.bool_):
            raise ValueError(f"colored is (H, W) bool like the pixels, not {self.colored.shape} {self.colored.dtype}")
        if self.scale is Scale.GREY:
            if pixels.dtype != np.float32:
                raise ValueError(f"grey pixels are float32, not {pixels.dtype}")
            if float(pixels.min()) < 0 or float(pixels.max()) > 1:
                raise ValueError("grey pixels lie in [0, 1]")
        elif pixels.dtype not in (np.int16, np.float32):
            raise ValueError(f"Hounsfield units are int16 or float32, not {pixels.dtype}")
        if pixels.dtype == np.float32 and not np.isfinite(pixels).all():
            raise ValueError("pixel values must be finite")
        if not padding.any():
            padding = _no_padding(pixels.shape)
        for name, array in (("pixels", pixels), ("padding", padding), ("colored", self.colored)):
            if array is not None:
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.pixels.shape
        return height, width


@lru_cache(maxsize=4)  # one for all slices of a series, and for all series: it holds nothing
def _no_padding(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    nothing = np.zeros(shape, np.bool_)
    nothing.flags.writeable = False
    return nothing


def hash_pixels(pixels: npt.NDArray[Any]) -> str:
    """SHA-256 of pixel values with their shape and type, little endian: what `Source.pixel_sha256` holds."""
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{little.dtype.str} {little.shape}".encode())
    digest.update(little.data)
    return digest.hexdigest()


def grey(scan: Slice, window: Window) -> npt.NDArray[np.float32]:
    """The slice as grey values: the one place where DICOM and PNG become the same thing.

    Hounsfield units are windowed; an image without them is taken as it is, and `window` does not touch it. Padding is
    black. MONOCHROME1 is *not* inverted here: that is for the reader's screen (`ipfvision.core.overlay.display_grey`), not for
    the model.

    Returns
    -------
    (H, W) float32 in [0, 1], a new array.
    """
    values = apply_window(scan.pixels, window) if scan.scale is Scale.HOUNSFIELD else scan.pixels.copy()
    values[scan.padding] = 0
    return values


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Slices of one DICOM series, ordered along their normal; or pictures without a place, in the order they came."""

    slices: tuple[Slice, ...]
    series_instance_uid: str | None = None
    notes: tuple[str, ...] = field(default=())
    """Sentences about the stack as a whole: gaps, duplicates, slices without a position."""

    def __post_init__(self) -> None:
        if not self.slices:
            raise ValueError("a series has at least one slice")
