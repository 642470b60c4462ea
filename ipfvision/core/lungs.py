"""Lung mask with a failure verdict: the crop that the model sees, the gate in front of it, and where the pleura is."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.slice import PixelSpacing, Slice, grey
from ipfvision.core.window import LUNG, apply_window

WORKING_SIZE = 512
"""Longest side, in pixels, at which the mask is found; larger slices are averaged down first."""
AIR_BELOW = float(apply_window(np.array([-400.0]), LUNG)[0])
"""Grey value in the lung window that separates air and lung from soft tissue: -400 HU."""
TEXTURE_STEP = 120 / LUNG.width
"""What stands out from a piece's median by more than this (120 HU in the lung window) is a vessel or a wall."""
LEAST_TEXTURE = 0.02
"""Share of a dark piece that stands out so, which makes it lung and not gas in trachea, stomach or bowel."""
GAS_BELOW = float(apply_window(np.array([-975.0]), LUNG)[0])
"""A piece with a median below this (-975 HU) is gas, if the largest piece is clearly brighter: emphysema's median lies above
it, and in an image of another window the largest piece is as dark."""
CLEARLY_BRIGHTER = 60 / LUNG.width
LEAST_LUNG = 0.015
"""Smallest share of the body's area that is taken for a slice through the lungs."""
LEAST_COMPONENT = 0.004
"""Smallest share of the body's area that a piece of lung has."""
LEAST_CONTRAST = 0.2
"""Smallest difference between the medians of soft tissue and lung, as a share of the grey range."""
CLOSING = 0.035
"""Radius of the closing, as a share of the body's width (about 12 mm): takes dense subpleural rims and walls back in."""
MIDDLE_REACH = 0.15
"""How far from the middle, as a share of the lungs' width on either side, the line between the two lungs may run."""


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """The lungs on one slice, or why they were not found."""

    mask: npt.NDArray[np.bool_]
    """(H, W), read-only; all False when `problem` is not None."""
    problem: str | None = None
    """One sentence: why this is not taken for a slice through the lungs."""
    doubt: str | None = None
    """One sentence: why numbers that rest on this mask are not given, although the model may read the slice; else None."""
    middle: float | None = None
    """Column of the body's middle, in pixels: where one lung is too dense to be found, the other one tells its extent."""

    def __post_init__(self) -> None:
        view = self.mask.view()
        view.flags.writeable = False
        object.__setattr__(self, "mask", view)

    def bounds(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the mask's bounding box in pixels; raises ValueError if it is empty."""
        if not self.mask.any():
            raise ValueError("an empty lung mask has no bounds")
        left, top, width, height = cv2.boundingRect(self.mask.astype(np.uint8))
        return left, top, width, height


def _disk(radius: float) -> npt.NDArray[np.uint8]:
    size = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _components(mask: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """4-connected labels and their statistics (left, top, width, height, area); label 0 is the background."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    return np.asarray(labels, np.int32), np.asarray(statistics, np.int32)


def _fill_holes(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    return filled


def _body(tissue: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Largest piece of tissue with its holes filled. Opened first, so that it lets go of the table and of clothes."""
    opened = np.asarray(cv2.morphologyEx(tissue, cv2.MORPH_OPEN, _disk(max(tissue.shape) / 170)), np.uint8)
    labels, statistics = _components(opened)
    if len(statistics) < 2:
        return np.zeros_like(tissue)
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    return _fill_holes((labels == largest).astype(np.uint8))


def find_lungs(scan: Slice) -> Lungs:
    """Find the lungs on an axial slice.

    Air inside the body's outline, in pieces that have the texture of lung, closed by about 12 mm so that honeycombing and
    dense subpleural disease stay in. An image without Hounsfield units is taken to be in a lung window; if its lungs are
    plain black, it was not, and the verdict says so.

    Returns
    -------
    The mask on the slice's own grid, or an empty mask with the problem in a sentence. Never raises on a valid slice.
    """
    nothing = np.zeros(scan.shape, np.bool_)
    image = grey(scan, LUNG)
    shrink = min(1.0, WORKING_SIZE / max(scan.shape))
    if shrink < 1:
        small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, np.float32)
    if min(image.shape) < 32:
        return Lungs(nothing, f"The image is only {scan.shape[1]} x {scan.shape[0]} pixels: too small for a CT slice.")

    smooth = cv2.GaussianBlur(image, (0, 0), max(image.shape) / 700)
    tissue = (smooth >= AIR_BELOW).astype(np.uint8)
    body = _body(tissue)
    body_area = int(body.sum())
    if body_area < 0.05 * body.size:
        return Lungs(
            nothing,
            "No body was found in the image: an axial chest CT slice in a lung window (center -600, width 1500) is expected.",
        )
    air = ((tissue == 0) & (body == 1)).astype(np.uint8)

    left, _, body_width, _ = cv2.boundingRect(body)
    labels, statistics = _components(air)
    mask = np.zeros_like(air)
    rim = _disk(max(image.shape) / 150)  # the wall's blur is not texture
    black = found = 0
    brightest_gas = 0.0
    if len(statistics) > 1:
        largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
        if float(np.median(image[labels == largest])) > GAS_BELOW + CLEARLY_BRIGHTER:
            brightest_gas = GAS_BELOW
    for label in range(1, len(statistics)):
        x, y, width, height, area = (int(value) for value in statistics[label])
        if area < LEAST_COMPONENT * body_area:
            continue
        box = slice(y, y + height), slice(x, x + width)
        piece = labels[box] == label
        values = image[box][piece]
        found += area
        black += int((values < 0.02).sum())
        inner = cv2.erode(piece.astype(np.uint8), rim, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        within = image[box][inner]
        median = float(np.median(within)) if within.size else 1.0
        dark = median < GAS_BELOW + CLEARLY_BRIGHTER
        if median < brightest_gas or (dark and (within > median + TEXTURE_STEP).mean() < LEAST_TEXTURE):
            continue
        center = (x + width / 2 - left) / body_width
        if 0.42 < center < 0.58 and width < 0.14 * body_width and area < 0.02 * body_area:
            continue  # trachea or a main bronchus: midline, narrow and small
        closed = _closed(piece, round(CLOSING * body_width), y, x, body)
        mask |= closed

    if found >= LEAST_LUNG * body_area and black > 0.6 * found:
        return Lungs(
            nothing,
            "The lungs are plain black in this image, so it shows no lung detail: export it in a lung window "
            "(center -600, width 1500), or give the DICOM file.",
        )
    share = float(mask.sum()) / body_area
    if share < LEAST_LUNG:
        return Lungs(
            nothing,
            f"Too little lung was found on this slice ({100 * share:.1f} % of the body's area, at least "
            f"{100 * LEAST_LUNG:.1f} % expected): choose an axial slice through the lungs, in a lung window.",
        )
    contrast = float(np.median(image[(body == 1) & (tissue == 1)]) - np.median(image[mask == 1]))
    if contrast < LEAST_CONTRAST:
        return Lungs(
            nothing,
            f"Lung and soft tissue differ by only {100 * contrast:.0f} % of the grey range (at least "
            f"{100 * LEAST_CONTRAST:.0f} % expected): export the image in a lung window (center -600, width 1500).",
        )
    full = cv2.resize(mask, scan.shape[::-1], interpolation=cv2.INTER_NEAREST) if shrink < 1 else mask
    return Lungs((np.asarray(full) > 0) & ~scan.padding, middle=(left + body_width / 2) / shrink)


def _closed(piece: npt.NDArray[np.bool_], radius: int, y: int, x: int, body: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One piece of lung, closed and with its holes filled, on the whole image's grid and inside the body."""
    padded = np.pad(piece.astype(np.uint8), radius + 1)
    closed = _fill_holes(np.asarray(cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disk(radius)), np.uint8))
    full = np.zeros_like(body)
    height, width = piece.shape
    inner = closed[radius + 1 : radius + 1 + height, radius + 1 : radius + 1 + width]
    full[y : y + height, x : x + width] = inner
    return full & body


def sides(lungs: Lungs) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The lung on the left and the lung on the right of the picture (not of the patient), also where they touch.

    They are parted by the line from the top to the bottom of the picture that crosses least lung, near the body's middle.

    Returns
    -------
    Two (H, W) bool masks that do not overlap and together are the whole mask; both all False if the mask is.
    """
    mask = lungs.mask
    if not mask.any():
        return np.zeros_like(mask), np.zeros_like(mask)
    left, top, width, height = lungs.bounds()
    middle = left + width / 2 if lungs.middle is None else lungs.middle
    reach = max(1, round(MIDDLE_REACH * width))
    first = max(0, round(middle) - reach)
    last = min(mask.shape[1], round(middle) + reach + 1)
    if first >= last:  # a middle outside the picture
        first, last = (0, 1) if middle < 0 else (mask.shape[1] - 1, mask.shape[1])
    offset = np.abs(np.arange(first, last) - middle) / reach
    cost = mask[top : top + height, first:last] + 0.02 * offset
    way = np.zeros(cost.shape, np.int32)
    total = cost[0]
    steps = np.arange(-2, 3)
    for row in range(1, height):
        padded = np.pad(total, 2, constant_values=np.inf)
        near = np.lib.stride_tricks.sliding_window_view(padded, 5) + 0.01 * np.abs(steps)
        way[row] = near.argmin(axis=1)
        total = cost[row] + near.min(axis=1)
    border = np.empty(height, np.int64)
    border[-1] = int(total.argmin())
    for row in range(height - 1, 0, -1):
        border[row - 1] = border[row] + steps[way[row, border[row]]]
    on_left = np.zeros_like(mask)
    on_left[top : top + height] = np.arange(mask.shape[1]) < (border + first)[:, None]
    return mask & on_left, mask & ~on_left


def pleural_distance_mm(lungs_mask: npt.NDArray[np.bool_], spacing: PixelSpacing) -> npt.NDArray[np.float32]:
    """Exact Euclidean distance from each lung pixel to the nearest pixel that is not lung, center to center.

    The boundary is that towards chest wall, diaphragm and mediastinum alike. The picture's border is none: where it cuts
    the lung, the pleura lies outside, unseen.

    Parameters
    ----------
    lungs_mask
        (H, W) bool.

    Returns
    -------
    (H, W) float32 in mm, 0 outside the lungs; infinite if there is nothing but lung.
    """
    if lungs_mask.all():
        return np.full(lungs_mask.shape, np.inf, np.float32)
    if abs(spacing.row_mm - spacing.column_mm) <= 1e-6 * spacing.row_mm:
        pixels = cv2.distanceTransform(lungs_mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return np.asarray(pixels * np.float32(spacing.row_mm), np.float32)
    # OpenCV knows square pixels only. Distance along the column first, then the least over all columns in reach.
    height, width = lungs_mask.shape
    rows = np.arange(height, dtype=np.float32)[:, None]
    above = np.maximum.accumulate(np.where(lungs_mask, -np.inf, rows), axis=0)
    below = np.minimum.accumulate(np.where(lungs_mask, np.inf, rows)[::-1], axis=0)[::-1]
    column = (np.minimum(rows - above, below - rows) * spacing.row_mm) ** 2
    nearest = column.copy()
    for step in range(1, width):
        across = (step * spacing.column_mm) ** 2
        if across >= nearest.max():
            break
        np.minimum(nearest[:, step:], column[:, :-step] + across, out=nearest[:, step:])
        np.minimum(nearest[:, :-step], column[:, step:] + across, out=nearest[:, :-step])
    return np.asarray(np.sqrt(nearest), np.float32)
