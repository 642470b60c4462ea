"""The way from a slice to a model's input and back, exactly.

Coordinates are continuous: pixel (column x, row y) covers [x, x + 1) x [y, y + 1), so its center is (x + 0.5, y + 0.5). That
is the convention of OpenCV's resize, and the one under which "half a pixel" means something.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of a slice, scaled to a model's input. It may reach beyond the slice: what lies there is black padding.

    Raises
    ------
    ValueError
        If a size is not positive.
    """

    left: int
    top: int
    width: int
    height: int
    input_shape: tuple[int, int]
    """(rows, columns) of the model's input."""
    slice_shape: tuple[int, int]
    """(rows, columns) of the slice."""

    def __post_init__(self) -> None:
        if min(self.width, self.height, *self.input_shape, *self.slice_shape) <= 0:
            raise ValueError("a crop needs positive sizes")

    @property
    def scale(self) -> tuple[float, float]:
        """Slice pixels per input pixel, (x, y)."""
        return self.width / self.input_shape[1], self.height / self.input_shape[0]

    def to_slice(self, x: float, y: float) -> tuple[float, float]:
        """From continuous input coordinates to continuous slice coordinates."""
        scale_x, scale_y = self.scale
        return self.left + x * scale_x, self.top + y * scale_y

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """From continuous slice coordinates to continuous input coordinates: the inverse of `to_slice`."""
        scale_x, scale_y = self.scale
        return (x - self.left) / scale_x, (y - self.top) / scale_y

    def cut(self, image: npt.NDArray[np.float32], fill: float = 0.0) -> npt.NDArray[np.float32]:
        """Cut and scale an (H, W) image of the slice to the model's input; `fill` where the crop leaves the slice.

        Shrinking averages over the area of each input pixel (no aliasing); enlarging is bilinear.
        """
        if image.shape != self.slice_shape:
            raise ValueError(f"this crop belongs to a slice of {self.slice_shape}, not {image.shape}")
        rows, columns = self.slice_shape
        right, bottom = self.left + self.width, self.top + self.height
        inside = image[max(0, self.top) : max(0, min(rows, bottom)), max(0, self.left) : max(0, min(columns, right))]
        if inside.shape != (self.height, self.width):
            canvas = np.full((self.height, self.width), fill, np.float32)
            y, x = max(0, -self.top), max(0, -self.left)
            canvas[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
            inside = canvas
        scale_x, scale_y = self.scale
        how = cv2.INTER_AREA if scale_x >= 1 and scale_y >= 1 else cv2.INTER_LINEAR
        resized = cv2.resize(np.ascontiguousarray(inside, np.float32), self.input_shape[::-1], interpolation=how)
        return np.asarray(resized, np.float32)

    def cell_shares(self, mask: npt.NDArray[np.bool_], cells_shape: tuple[int, int]) -> npt.NDArray[np.float64]:
        """How much of each cell of a grid over the input a region of the slice covers: the way from the slice to the grid.

        Exact: each pixel counts by the area of its overlap with the cell. What lies outside the slice is covered by nothing.

        Parameters
        ----------
        mask
            (H, W) bool on the slice.
        cells_shape
            (h, w) of the grid.

        Returns
        -------
        (h, w) float64 in [0, 1].
        """
        if mask.shape != self.slice_shape:
            raise ValueError(f"this crop belongs to a slice of {self.slice_shape}, not {mask.shape}")
        rows = _overlaps(self.top, self.height, cells_shape[0], mask.shape[0])
        columns = _overlaps(self.left, self.width, cells_shape[1], mask.shape[1])
        return np.clip(rows @ mask.astype(np.float64) @ columns.T, 0, 1)

    def paste_cells(self, cells: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Bring a coarse (h, w) map over the input back to the slice's own pixel grid.

        Each cell's value sits at the cell's center; between centers it is bilinear, beyond the outermost centers constant,
        and outside the crop 0.

        Returns
        -------
        (H, W) float32 on the slice.
        """
        rows, columns = self.slice_shape
        cell_rows, cell_columns = cells.shape
        x = (np.arange(columns) + 0.5 - self.left) / self.width
        y = (np.arange(rows) + 0.5 - self.top) / self.height
        map_x, map_y = np.meshgrid((x * cell_columns - 0.5).astype(np.float32), (y * cell_rows - 0.5).astype(np.float32))
        values = np.asarray(
            cv2.remap(cells.astype(np.float32), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
        )
        outside = ((x < 0) | (x >= 1))[None, :] | ((y < 0) | (y >= 1))[:, None]
        values[outside] = 0
        return values


def _overlaps(start: int, length: int, cells: int, pixels: int) -> npt.NDArray[np.float64]:
    """(cells, pixels): the share of each of `cells` equal parts of [start, start + length) that each pixel covers."""
    edges = start + length * np.arange(cells + 1) / cells
    pixel = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.clip(overlap, 0, None) * (cells / length), np.float64)
