"""The lungs of one slice as a surface to draw on: scale, depth below the pleura, and the scan's own blur and noise."""

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
"""(h, w) float32."""
Values = npt.NDArray[np.floating[Any]]
"""(h, w) of any floating type: what functions take."""
Mask = npt.NDArray[np.bool_]
"""(h, w) bool."""

SMALLEST_LUNGS_MM2 = 2000.0
"""Area of both lungs on a slice below which nothing is drawn: apex and costophrenic angles have no room for a pattern."""
REACH_MM = 2.5
"""How far outside the lungs the blur of what was drawn may reach."""


def logistic(values: Values) -> Image:
    """1 / (1 + exp(-values)), without overflow."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))), np.float32)


def millimetres_per_pixel_from_lungs(lungs: Mask) -> float:
    """Guess the scale of a slice that states none, from a typical width of both lungs together (265 mm).

    A guess, good to about a fifth on slices through the middle of the chest and worse at the apex. Use the pixel spacing
    wherever there is one.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    columns = np.flatnonzero(lungs.any(axis=0))
    if not columns.size:
        raise ValueError("the scale of a slice cannot be guessed from an empty lung mask")
    return 265.0 / float(columns[-1] - columns[0] + 1)


class LungField:
    """A mutable surface over the bounding box of the lungs.

    Everything that draws works on these arrays, in mm; `result` puts the box back into the slice.

    Parameters
    ----------
    hu
        (H, W) float32 Hounsfield units.
    lungs
        (H, W) bool. Small holes (vessels) are filled; trachea, large bronchi and dense tissue as large as a heart are not
        drawn on.
    mm_per_pixel
        Distance between pixel centers in mm, the same in both directions.
    rng
        The only source of chance.

    Raises
    ------
    ValueError
        If shapes disagree, the scale is not positive, or the lungs are smaller than `SMALLEST_LUNGS_MM2`.
    """

    def __init__(self, hu: Values, lungs: Mask, mm_per_pixel: float, rng: np.random.Generator) -> None:
        if hu.ndim != 2 or hu.shape != lungs.shape:
            raise ValueError(f"a slice and its lung mask are (H, W) both, not {hu.shape} and {lungs.shape}")
        if not 0.05 < mm_per_pixel < 10:
            raise ValueError(f"mm_per_pixel must be a plausible CT pixel spacing, not {mm_per_pixel}")
        area = float(np.count_nonzero(lungs)) * mm_per_pixel**2
        if area < SMALLEST_LUNGS_MM2:
            raise ValueError(
                f"lungs of {area:.0f} mm2 are too small to draw in; at least {SMALLEST_LUNGS_MM2:.0f} mm2 are needed"
            )
        self.rng = rng
        self.mm = float(mm_per_pixel)
        self._slice = np.asarray(hu, np.float32)
        rows, columns = np.flatnonzero(lungs.any(axis=1)), np.flatnonzero(lungs.any(axis=0))
        margin = math.ceil(REACH_MM / self.mm) + 3
        self.box = (
            slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
            slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
        )
        self.hu: Image = self._slice[self.box].copy()
        """(h, w) Hounsfield units, drawn on in place."""
        whole = _without_small_holes(lungs[self.box], self.mm)
        self.lungs: Mask = _parenchyma(whole, self.hu, self.mm)
        self.shape: tuple[int, int] = (self.hu.shape[0], self.hu.shape[1])
        self.inside: Image = self.lungs.astype(np.float32)
        self.depth: Image = _distance(whole) * np.float32(self.mm)
        """(h, w) mm below the surface of the lung mask, large vessels counted in: a hilar vessel is no pleura."""
        self.outer_depth: Image = _distance(_hull(whole)) * np.float32(self.mm)
        """(h, w) mm below the convex hull of both lungs: small at the ribs, large at the mediastinum."""
        height, width = self.shape
        top, bottom = margin, max(margin + 1, height - margin)
        left, right = margin, max(margin + 1, width - margin)
        self.height: Image = np.clip(
            np.broadcast_to((np.arange(height, dtype=np.float32)[:, None] - top) / (bottom - top), self.shape), 0, 1
        )
        """(h, w) from 0 at the front of the lungs to 1 at the back (patient supine, as the slice is shown)."""
        self.across: Image = np.broadcast_to(
            2 * (np.arange(width, dtype=np.float32)[None, :] - left) / (right - left) - 1, self.shape
        )
        """(h, w) from -1 at the left edge of the picture to 1 at the right."""
        self.noise_hu, self.blur_px = self._measure_noise()

    def result(self) -> Image:
        """(H, W) float32: the whole slice with what was drawn; untouched farther than `REACH_MM` outside the lungs."""
        pixels = self._slice.copy()
        near = cv2.distanceTransform((~self.lungs).astype(np.uint8), cv2.DIST_L2, 5) * self.mm <= REACH_MM
        pixels[self.box] = np.where(near, self.hu, pixels[self.box])
        return pixels

    def whole(self, mask: Mask) -> Mask:
        """(H, W) bool: a mask on the box, on the whole slice."""
        on_slice = np.zeros(self._slice.shape, np.bool_)
        on_slice[self.box] = mask
        return on_slice

    def area_mm2(self, mask: Mask) -> float:
        return float(np.count_nonzero(mask)) * self.mm**2

    def noise(self, scale_mm: float) -> Image:
        """(h, w) smooth random field with mean about 0, standard deviation 1 and structures of about `scale_mm`."""
        step = max(scale_mm / self.mm, 1.5)
        height, width = self.shape
        grid = self.rng.standard_normal((int(height / step) + 5, int(width / step) + 5), np.float32)
        shift_y, shift_x = self.rng.uniform(1, 2, 2)
        matrix = np.array([[1 / step, 0, shift_x], [0, 1 / step, shift_y]])
        field = cv2.warpAffine(grid, matrix, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        return np.asarray(field / (float(field.std()) + 1e-6), np.float32)

    def blurred(self, image: Values) -> Image:
        """(h, w) through the scan's own point spread."""
        return np.asarray(cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), self.blur_px), np.float32)

    def fresh_noise(self) -> Image:
        """(h, w) Hounsfield units: new image noise as strong and as fine as the scan's own."""
        white = self.rng.standard_normal(self.shape, np.float32)
        fine = self.blurred(white)
        return np.asarray(fine * (self.noise_hu / (float(fine.std()) + 1e-6)), np.float32)

    def paint(self, texture: Values | float, cover: Values) -> None:
        """Replace what is there: partial volume, blur and noise as the scan has them.

        Parameters
        ----------
        texture
            (h, w) or one number, Hounsfield units.
        cover
            (h, w) in [0, 1]: the share of each pixel that is replaced. Nothing is painted outside the lungs.
        """
        cover = np.asarray(cover * self.inside, np.float32)
        share = self.blurred(cover)
        painted = self.blurred(cover * texture)
        self.hu = np.asarray(self.hu * (1 - share) + painted + self.fresh_noise() * share, np.float32)

    def brighten(self, amount: Values, ceiling: float = -250.0) -> None:
        """Add attenuation to aerated lung; vessels and walls denser than `ceiling` stay as they are.

        Parameters
        ----------
        amount
            (h, w) Hounsfield units to add; negative darkens.
        ceiling
            Hounsfield units from which nothing is added; fades in over the 150 below.
        """
        room = np.clip((ceiling - self.hu) / 150, 0, 1)
        self.hu = np.asarray(self.hu + self.blurred(amount * self.inside) * room, np.float32)

    def distort(self, strength: Values, amplitude_mm: float, scale_mm: float) -> None:
        """Displace the lung's inside smoothly (architectural distortion); its surface stays where it is.

        Parameters
        ----------
        strength
            (h, w) in [0, 1]: where, and how much.
        amplitude_mm, scale_mm
            Typical displacement, and distance over which it changes.
        """
        hold = strength * np.clip((self.depth - 1) / 8, 0, 1) * np.float32(amplitude_mm / self.mm)
        rows, columns = np.indices(self.shape, np.float32)
        map_x = np.asarray(columns + self.noise(scale_mm) * hold, np.float32)
        map_y = np.asarray(rows + self.noise(scale_mm) * hold, np.float32)
        moved = cv2.remap(self.hu, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        self.hu = np.asarray(np.where(hold > 0.02, moved, self.hu), np.float32)

    def pick(self, where: Mask) -> tuple[int, int] | None:
        """A random pixel (row, column) of a mask; None if it is empty."""
        places = np.flatnonzero(where)
        if not places.size:
            return None
        row, column = divmod(int(places[self.rng.integers(places.size)]), self.shape[1])
        return row, column

    def blob(self, where: Mask, area_mm2: float, roughness: float) -> Image:
        """(h, w) mm: signed distance, positive inside, of one irregular patch around a random place of `where`."""
        place = self.pick(where)
        if place is None:
            return np.full(self.shape, -99, np.float32)
        radius = math.sqrt(area_mm2 / math.pi)
        stretch, turn = self.rng.uniform(0.6, 1.7), self.rng.uniform(0, math.pi)
        down = (np.arange(self.shape[0], dtype=np.float32)[:, None] - place[0]) * self.mm
        right = (np.arange(self.shape[1], dtype=np.float32)[None, :] - place[1]) * self.mm
        along = right * math.cos(turn) + down * math.sin(turn)
        beside = down * math.cos(turn) - right * math.sin(turn)
        distance = np.sqrt(along**2 * stretch + beside**2 / stretch)
        wobble = self.noise(max(4.0, radius * 0.7)) + 0.4 * self.noise(max(2.5, radius * 0.2))
        return np.asarray(radius * (1 - 0.35 * roughness * wobble) - distance, np.float32)

    def _measure_noise(self) -> tuple[float, float]:
        """Standard deviation of the image noise (HU) and sigma (pixels) of a Gaussian that would make noise as smooth.

        White noise through a Gaussian of sigma s has the autocorrelation exp(-1 / (4 s^2)) between neighbors.
        """
        fine = self.hu - cv2.GaussianBlur(self.hu, (0, 0), 2.0)
        calm = (self.depth > 5) & (self.hu < -720) & (self.hu > -1010)
        pairs = calm[:, 1:] & calm[:, :-1]
        if np.count_nonzero(pairs) < 200:
            return 25.0, 0.7
        values = np.clip(fine, -150, 150)
        variance = float(np.var(values[calm])) + 1e-6
        correlation = float(np.mean(values[:, 1:][pairs] * values[:, :-1][pairs])) / variance
        # Subtracting the local mean takes away about 0.1 of the correlation.
        correlation = min(0.93, max(0.03, correlation + 0.1))
        sigma = math.sqrt(-1 / (4 * math.log(correlation)))
        spread = float(np.median(np.abs(values[calm]))) * 1.4826 * 1.1
        return min(80.0, max(4.0, spread)), min(1.1, max(0.45, sigma))


def _distance(mask: Mask) -> Image:
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0,))
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)


def _hull(mask: Mask) -> Mask:
    points = cv2.findNonZero(mask.astype(np.uint8))
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), (1,))
    return filled > 0


def _parenchyma(mask: Mask, hu: Image, mm: float) -> Mask:
    """The mask without what cannot be lung: thick dense tissue, and the lumen of trachea and large bronchi."""
    calm = cv2.GaussianBlur(hu, (0, 0), 1.0 / mm)
    dense = cv2.morphologyEx(((calm > -250) & mask).astype(np.uint8), cv2.MORPH_OPEN, _disc(6.0, mm)) > 0
    hollow = cv2.morphologyEx(((calm < -930) & mask).astype(np.uint8), cv2.MORPH_OPEN, _disc(2.5, mm))
    airway = np.zeros(mask.shape, np.bool_)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(hollow)
    for label in range(1, count):
        if 20 < int(stats[label, cv2.CC_STAT_AREA]) * mm**2 < 900:
            airway |= labels == label
    airway = cv2.dilate(airway.astype(np.uint8), _disc(1.5, mm)) > 0
    return mask & ~dense & ~airway


def _disc(radius_mm: float, mm: float) -> npt.NDArray[np.uint8]:
    size = 2 * max(1, round(radius_mm / mm)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _without_small_holes(mask: Mask, mm: float) -> Mask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    filled = mask.copy()
    for label in range(1, count):
        left, top, wide, high, area = (int(value) for value in stats[label])
        touches_edge = left == 0 or top == 0 or left + wide == width or top + high == height
        if area * mm**2 < 400 and not touches_edge:
            filled[labels == label] = True
    return filled
