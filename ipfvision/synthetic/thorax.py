"""A schematic axial CT of the chest, drawn from geometry alone: no patient is in it.

Standard anatomy in mm, scaled to the field of view; as is usual, the patient's right is on the left of the picture and the
patient lies on the back. Attenuation in Hounsfield units is that of an unenhanced scan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.slice import PixelSpacing
from ipfvision.synthetic.field import Image, Mask, Values, logistic

AIR_HU = -1000.0
FAT_HU = -100.0
MUSCLE_HU = 55.0
BLOOD_HU = 45.0
LIVER_HU = 60.0
CORTICAL_HU = 850.0
CANCELLOUS_HU = 200.0
STANDARD_HALF_WIDTH_MM = 168.0

Point = tuple[float, float]
Window = tuple[slice, slice]
WHOLE: Window = (slice(None), slice(None))


@dataclass(frozen=True, slots=True, eq=False)
class Thorax:
    """A drawn slice."""

    pixels: npt.NDArray[np.int16]
    """(H, W) Hounsfield units."""
    lungs: Mask
    """(H, W); vessels and bronchi inside the lungs belong to them, trachea and main bronchi do not."""
    spacing: PixelSpacing


def draw_thorax(
    rng: np.random.Generator, *, level: float, size: int = 512, spacing_mm: float = 0.7, reconstruction_circle: bool = False
) -> Thorax:
    """Draw one axial slice through a chest.

    Parameters
    ----------
    rng
        Same state, same slice. Two calls with the same seed and near levels give neighboring slices of one chest, apart from
        their vessels and their noise.
    level
        In [0, 1]: 0 is the apex of the lungs, 1 their base.
    size
        Rows and columns.
    spacing_mm
        Distance between pixel centers.
    reconstruction_circle
        Whether the corners outside the inscribed circle are empty (-1024).

    Raises
    ------
    ValueError
        If level, size or spacing make no sense.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"a level lies between 0 (apex) and 1 (base), not at {level}")
    if size < 64 or not 0.2 <= spacing_mm <= 10:
        raise ValueError(
            f"a chest needs at least 64 pixels and a spacing of 0.2 to 10 mm, not {size} pixels of {spacing_mm} mm"
        )
    chest = _Chest(rng, level, size, spacing_mm)
    chest.wall()
    chest.mediastinum()
    chest.bones()
    chest.fill_lungs()
    chest.below_diaphragm()
    chest.table()
    pixels = chest.scanned()
    if reconstruction_circle:
        middle = (size - 1) / 2
        rows, columns = np.indices(pixels.shape)
        pixels[(rows - middle) ** 2 + (columns - middle) ** 2 > (size / 2) ** 2] = -1024
    return Thorax(pixels, chest.lung > 0, PixelSpacing(spacing_mm, spacing_mm))


def _between(level: float, levels: Sequence[float], values: Sequence[float]) -> float:
    return float(np.interp(level, levels, values))


@dataclass(frozen=True, slots=True)
class _Branch:
    """A piece of a vessel between two divisions, in standard mm."""

    x: float
    y: float
    angle: float
    radius: float
    height: float
    """Above the slice."""
    slope: float
    """Height gained per mm."""
    entered: bool
    """Whether it has reached the lung from the hilum."""


class _Chest:
    """The slice while it is drawn. Coordinates in standard mm: x to the right of the picture, y towards the back."""

    def __init__(self, rng: np.random.Generator, level: float, size: int, spacing_mm: float) -> None:
        self.rng, self.level, self.size, self.spacing_mm = rng, level, size, spacing_mm
        half_field = size * spacing_mm / 2
        width = min(rng.uniform(150, 178), 0.965 * half_field)
        self.scale = width / STANDARD_HALF_WIDTH_MM
        """mm in this patient for one standard mm."""
        self.pixel = spacing_mm / self.scale
        """Standard mm per pixel."""
        axis = ((np.arange(size, dtype=np.float32) + 0.5) * spacing_mm - half_field) / self.scale
        self.x, self.y = np.meshgrid(axis, axis + np.float32(rng.uniform(-4, 10)))
        self.hu: Image = np.full((size, size), AIR_HU, np.float32)
        self.trabeculae = self.noise(2.2)
        self.shape_x, self.shape_y = rng.uniform(0.95, 1.04), rng.uniform(0.93, 1.06)
        self.fat_mm = rng.uniform(4, 16)

        wide = _between(level, [0, 0.1, 0.25, 0.45, 1], [0.5, 0.68, 0.86, 1, 1.02]) * self.shape_x
        deep = _between(level, [0, 0.1, 0.25, 0.5, 1], [0.55, 0.68, 0.85, 1, 1.02]) * self.shape_y
        self.cavity_half = (132 * wide, 98 * deep)
        self.cavity_y = _between(level, [0, 0.5], [10, -8])
        self.cavity = self.oval((0, self.cavity_y), *self.cavity_half, power=2.3, wobble=0.018)
        """(H, W) mm: signed distance to the inner chest wall, positive inside."""
        shoulders = _between(level, [0, 0.12, 0.3], [1.1, 1.03, 1])
        body_half = (168 * shoulders, _between(level, [0, 0.15, 0.5], [100, 112, 126]) * self.shape_y)
        self.body = self.oval((0, 0), *body_half, power=_between(level, [0, 0.3], [2.9, 2.4]), wobble=0.01)
        self.body = np.maximum(self.body, np.minimum(self.cavity + 24, self.body + 30))
        self.back_y = self.cavity_y + self.cavity_half[1]
        self.spine_y = self.back_y - 30
        self.heart: Values = np.full_like(self.x, -99)
        self.lung: Values = self._lungs()

    # Shapes: signed distances in standard mm, positive inside.

    def oval(
        self, center: Point, half_x: float, half_y: float, *, power: float = 2.0, turn: float = 0.0, wobble: float = 0.0
    ) -> Image:
        """Superellipse; the distance is of first order (level set over its gradient)."""
        dx, dy = self.x - np.float32(center[0]), self.y - np.float32(center[1])
        if turn:
            dx, dy = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        radius = (np.abs(dx / half_x) ** power + np.abs(dy / half_y) ** power + 1e-9) ** (1 / power)
        if wobble:
            angle = np.arctan2(dy / half_y, dx / half_x)
            for order in (2, 3, 5):
                radius = radius * (1 + self.rng.normal(0, wobble / order) * np.cos(order * angle + self.rng.uniform(0, 6.3)))
        down, right = np.gradient(radius, self.pixel)
        return np.asarray((1 - radius) / np.maximum(np.hypot(down, right), 0.3 / max(half_x, half_y)), np.float32)

    def disc(self, center: Point, radius: float) -> Image:
        return np.asarray(radius - np.hypot(self.x - np.float32(center[0]), self.y - np.float32(center[1])), np.float32)

    def rod(self, begin: Point, end: Point, radius: float, radius_end: float | None = None) -> Image:
        """Capsule, tapering if the radius at the end is another."""
        dx, dy = end[0] - begin[0], end[1] - begin[1]
        along = ((self.x - begin[0]) * dx + (self.y - begin[1]) * dy) / (dx * dx + dy * dy + 1e-9)
        along = np.clip(along, 0, 1)
        local = radius + ((radius if radius_end is None else radius_end) - radius) * along
        return np.asarray(local - np.hypot(self.x - begin[0] - along * dx, self.y - begin[1] - along * dy), np.float32)

    def noise(self, scale_mm: float) -> Image:
        """(H, W) smooth random field, standard deviation 1."""
        step = max(1.5, scale_mm / self.pixel)
        cells = int(self.size / step) + 5
        grid = self.rng.standard_normal((cells, cells), np.float32)
        matrix = np.array([[1 / step, 0, 1.5], [0, 1 / step, 1.5]])
        field = cv2.warpAffine(grid, matrix, (self.size, self.size), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        return np.asarray(field / (float(field.std()) + 1e-6), np.float32)

    def window(self, center: Point, reach: float) -> Window:
        """Rows and columns within `reach` mm of a point."""
        column, row, pixels = *self.at(*center), int(reach / self.pixel) + 2
        return slice(max(0, row - pixels), max(0, row + pixels + 1)), slice(
            max(0, column - pixels), max(0, column + pixels + 1)
        )

    def at(self, x: float, y: float) -> tuple[int, int]:
        """(column, row) of a point; it may lie outside the picture."""
        return round((x - float(self.x[0, 0])) / self.pixel), round((y - float(self.y[0, 0])) / self.pixel)

    def paint(self, hu: Values | float, shape: Values, window: Window = WHOLE) -> None:
        """Fill a shape, with partial volume at its edge. Shape and texture belong to the window."""
        cover = np.clip(shape / self.pixel + 0.5, 0, 1)
        self.hu[window] += cover * (hu - self.hu[window])

    def bone(self, shape: Values, cortex_mm: float = 1.4, cancellous_hu: float = CANCELLOUS_HU, window: Window = WHOLE) -> None:
        """Cortical bone around cancellous bone with its trabeculae."""
        self.paint(CORTICAL_HU * self.rng.uniform(0.85, 1.1), shape, window)
        self.paint(cancellous_hu + 45 * self.trabeculae[window], shape - cortex_mm, window)

    # What is drawn, from outside to inside.

    def wall(self) -> None:
        """Skin, fat, muscle in layers, intercostal muscle."""
        outside = -self.cavity
        angle = np.arctan2(self.y - self.cavity_y, self.x)
        back, side = np.clip(np.sin(angle), 0, 1), np.abs(np.cos(angle))
        self.paint(20, self.body)
        self.paint(FAT_HU + 6 * self.noise(6), self.body - 1.8)
        thick = 9 + 11 * side**2 * _between(self.level, [0, 0.5, 1], [2.2, 1.2, 0.7]) + 24 * back**3
        thick = thick + 9 * np.clip(-np.sin(angle), 0, 1) * side * _between(self.level, [0.2, 0.4, 0.8], [2, 1, 0])
        thick = np.minimum(thick * self.rng.uniform(0.85, 1.15), outside + self.body - self.fat_mm)
        self.paint(MUSCLE_HU + 5 * self.noise(5), np.maximum(thick, 7) - outside)
        for depth in (9.0, 17.0, 25.0):
            # Fat planes between layers of muscle.
            plane = 0.7 - np.abs(outside - depth - 1.5 * self.noise(25))
            self.paint(FAT_HU, np.where(self.noise(30) > -0.1, plane, -1) - 0.2)
        self.paint(20, np.minimum(self.body, 1.8 - self.body))

    def bones(self) -> None:
        """Ribs, spine, sternum, shoulder girdle."""
        rng, level = self.rng, self.level
        half_x, half_y = self.cavity_half
        outside = -self.cavity
        self.paraspinal_muscle()
        for side in (-1, 1):
            place = rng.uniform(-1.15, -0.95)
            while place < 1.22:
                # A rib crosses the slice obliquely: an arc along the wall.
                point = (side * half_x * math.cos(place), self.cavity_y + half_y * math.sin(place))
                tangent = np.array([-side * half_x * math.sin(place), half_y * math.cos(place)])
                tangent /= float(np.linalg.norm(tangent))
                long = rng.uniform(8, 17)
                window = self.window(point, 32)
                along = (self.x[window] - point[0]) * tangent[0] + (self.y[window] - point[1]) * tangent[1]
                tilt = rng.normal(0, 0.08)
                middle = 5.2 + rng.normal(0, 0.6) + tilt * along
                thin = rng.uniform(3.2, 4.4)
                shape = thin * (1 - np.sqrt((along / long) ** 4 + ((outside[window] - middle) / thin) ** 2 + 1e-9))
                if place < -0.8 and level > 0.3:
                    self.paint(110, shape, window)  # cartilage
                else:
                    self.bone(shape, 1.3, window=window)
                place += (2 * long + rng.uniform(10, 24)) / math.hypot(half_x * math.sin(place), half_y * math.cos(place))
        self.spine()
        if level > 0.12:
            wide = _between(level, [0.12, 0.3, 0.85, 1], [30, 21, 17, 8])
            front = self.cavity_y - half_y
            self.bone(self.oval((rng.normal(0, 1), front - 7), wide, _between(level, [0.12, 1], [8, 5]), power=2.5), 1.2)
        for side in (-1, 1):
            if level < 0.55:
                # Blade of the scapula, behind the ribs.
                reach = _between(level, [0, 0.3, 0.55], [1, 1, 0.4])
                inner = (side * (half_x * 0.72 + 6), self.cavity_y + half_y * 0.86 + 11)
                outer = (side * (half_x * 0.72 + 6 + 42 * reach), self.cavity_y + half_y * 0.86 + 11 - 48 * reach)
                self.bone(np.minimum(self.rod(inner, outer, 2.6, 3.6), self.body - 6), 1.1)
            if level < 0.14:
                head = (side * min(150.0, half_x + 72), self.cavity_y - 5)
                self.paint(MUSCLE_HU, np.minimum(self.disc(head, 39) + 3 * self.noise(25), self.body - 4))
                self.bone(np.minimum(self.disc(head, 23), self.body - 5), 1.6)
                clavicle = self.rod((side * 16, self.cavity_y - half_y - 8), (side * 75, self.cavity_y - half_y - 4), 6.5, 5.5)
                self.bone(np.minimum(clavicle, self.body - 4), 1.4)

    def paraspinal_muscle(self) -> None:
        for side in (-1, 1):
            muscle = self.oval((side * 27, self.back_y + 17), 21, 13, turn=side * 0.25, power=2.4)
            self.paint(MUSCLE_HU + 6 * self.noise(4), np.minimum(muscle, self.body - 4))

    def spine(self) -> None:
        """Vertebral body, arch with processes, canal."""
        y = self.spine_y
        body = self.oval((0, y), 20, 16, power=2.5, wobble=0.01)
        arch = self.rod((0, y + 36), (0, y + 36 + self.rng.uniform(16, 26)), 3.4, 2.6)
        for side in (-1, 1):
            arch = np.maximum(arch, self.rod((side * 13.5, y + 8), (side * 15, y + 24), 4.8, 4.4))
            arch = np.maximum(arch, self.rod((side * 15, y + 24), (0, y + 36), 3.6, 3.8))
            arch = np.maximum(arch, self.rod((side * 15, y + 24), (side * self.rng.uniform(31, 37), y + 33), 4.6, 3.6))
        self.bone(arch, 1.5)
        self.bone(body, 1.3, 170)
        self.paint(25, self.oval((0, y + 23.5), 10.2, 8.4))
        self.paint(40, self.disc((0, y + 23.5), 4.8))

    def _lungs(self) -> Image:
        """(H, W) mm: signed distance to the lungs' surface: the cavity without all that is solid in it."""
        level, half_x = self.level, self.cavity_half[0]
        front = self.cavity_y - self.cavity_half[1]
        solid = [
            self.rod((0, front - 6), (2, self.spine_y), _between(level, [0, 0.2, 0.5], [14, 7, 5])),
            self.oval((0, self.spine_y), 23, 19),
            *(self.rod((side * 8, self.back_y - 4), (side * 27, self.back_y + 5), 11, 7) for side in (-1, 1)),
            *(shape + 3.0 for shape, _ in self._organs()),
        ]
        joined = solid[0]
        for shape in solid[1:]:
            # Smooth maximum: fat fills the notches between organs.
            blend = np.clip(0.5 + (shape - joined) / 24, 0, 1)
            joined = joined * (1 - blend) + shape * blend + 12 * blend * (1 - blend)
        lung = np.minimum(self.cavity - 2.2, -joined)
        if level < 0.22:
            wide = _between(level, [0, 0.1, 0.22], [22, 42, 75])
            apex = np.full_like(self.x, -99)
            middle_y = self.spine_y - _between(level, [0, 0.1, 0.22], [14, 28, 58])
            for side in (-1, 1):
                apex = np.maximum(apex, self.oval((side * (half_x - wide - 2), middle_y), wide, wide * 1.12, power=2.2))
            lung = np.minimum(lung, apex)
        for shape, _ in self._domes():
            lung = np.minimum(lung, -shape - 1.5)
        smooth = cv2.GaussianBlur(np.asarray(lung, np.float32), (0, 0), 1.5 / self.pixel)
        mask = (smooth > 0).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        slivers = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] * self.pixel**2 < 400]
        return np.asarray(np.where(np.isin(labels, slivers), -2, smooth), np.float32)

    def _domes(self) -> list[tuple[Image, float]]:
        """What the diaphragm lifts into the slice: (shape, Hounsfield units)."""
        found = []
        right, left = (self.level - 0.78) / 0.22, (self.level - 0.84) / 0.16
        if right > 0:
            found.append(
                (self.oval((-58, self.cavity_y - 10 - 8 * right), 16 + 62 * right, 12 + 62 * right, power=2.2), LIVER_HU)
            )
        if left > 0:
            found.append((self.oval((62, self.cavity_y - 2 - 8 * left), 14 + 56 * left, 10 + 56 * left, power=2.2), 48.0))
        return found

    def _organs(self) -> list[tuple[Image, float]]:
        """Soft-tissue organs of the mediastinum at this level: (shape, Hounsfield units)."""
        level, y = self.level, self.cavity_y
        spine = self.spine_y
        organs: list[tuple[Image, float]] = [(self.oval((6, spine - 25), 8, 5.5), 38.0)]
        if level < 0.2:
            # In front of the apex there is more muscle and vessels than fat.
            front = y - 0.72 * self.cavity_half[1]
            organs.extend((self.oval((side * 30, front), 22, 9, turn=-side * 0.3), MUSCLE_HU) for side in (-1, 1))
            for x, dy, radius in ((-13, -6, 6.5), (9, -8, 4.5), (19, 0, 5.5), (-24, -14, 7.5), (17, -21, 7.0)):
                organs.append((self.disc((x, y + dy), radius), BLOOD_HU))
        if 0.2 <= level < 0.31:
            organs.append((self.rod((-4, y - 22), (25, y + 22), 12, 11.5), BLOOD_HU))
        if level >= 0.31:
            down = _between(level, [0.31, 1], [0, 1])
            organs.append((self.disc((27 - 9 * down, spine - 14 + 2 * down), 12.0), BLOOD_HU))
            organs.append((self.disc((-9, spine - 19), 3.6), BLOOD_HU))
        if 0.31 <= level < 0.6:
            organs.append((self.disc((-13, y - 20), 16.5), BLOOD_HU))
        if 0.2 <= level < 0.6:
            organs.append((self.oval((-28, y - 8), 8.5, 10), BLOOD_HU))
        if 0.37 <= level < 0.55:
            organs.append((self.rod((14, y - 26), (31, y + 4), 13.5, 10), BLOOD_HU))
            organs.append((self.rod((12, y - 4), (-36, y + 8), 9.5, 8.5), BLOOD_HU))
        if level >= 0.55:
            wide = _between(level, [0.55, 0.65, 0.85, 1], [46, 60, 66, 50])
            deep = _between(level, [0.55, 0.65, 0.85, 1], [36, 45, 47, 34])
            self.heart = self.oval((16, y - 34 + deep * 0.35), wide, deep, turn=0.45, power=2.1, wobble=0.02)
            organs.append((self.heart, 44.0))
            if level < 0.72:
                veins = (self.rod((side * 12, y + 12), (side * 44, y + 26), 8.5, 6) for side in (-1, 1))
                organs.extend((vein, BLOOD_HU) for vein in veins)
        if level >= 0.92:
            organs.append((self.rod((-58, y - 12), (60, y - 8), 22), LIVER_HU))
        return organs

    def _airways(self) -> list[tuple[Point, float]]:
        """Trachea and main bronchi: (center, radius in mm)."""
        level, y = self.level, self.cavity_y
        if level < 0.38:
            return [((2, y + _between(level, [0, 0.38], [2, 14])), 9.0)]
        if level < 0.44:
            return [((-8, y + 15), 8.0), ((8, y + 16), 7.5)]
        if level < 0.56:
            apart = _between(level, [0.44, 0.56], [21, 32])
            return [((-apart, y + 19), 7.5), ((apart, y + 21), 6.5)]
        return []

    def mediastinum(self) -> None:
        """Fat, heart, vessels, esophagus, airways."""
        inside = self.cavity
        self.paint(FAT_HU + 8 * self.noise(5), np.minimum(inside, -self.lung - 1.2))
        self.paint(25, np.minimum(self.cavity, np.minimum(-self.lung, self.lung + 1.4)))
        for shape, hu in self._organs():
            self.paint(hu + 4 * self.noise(8), shape)
        if float(self.heart.max()) > 0:
            # Muscle is a little denser than unenhanced blood, and fat runs in the grooves.
            wall = 9 - np.abs(self.heart - 9 - 2 * self.noise(20))
            self.paint(56, np.minimum(self.heart, np.where(self.x > 10, wall, -1)))
            groove = 2.2 - np.abs(self.x - 4 + 0.5 * (self.y - self.cavity_y + 20) - 4 * self.noise(25))
            self.paint(-60, np.minimum(np.minimum(self.heart, groove), 7 - self.heart))
        for center, radius in self._airways():
            shape = self.oval(center, radius * self.rng.uniform(0.9, 1.05), radius)
            self.paint(20, shape + 1.6)
            self.paint(AIR_HU, shape)
            self.lung = np.where(shape > -3, -2, self.lung)

    def below_diaphragm(self) -> None:
        """Liver, spleen and stomach where they rise into the slice."""
        if self.level >= 0.92:
            shape, hu = self._organs()[-1]
            self.paint(hu + 4 * self.noise(8), shape)
        for shape, hu in self._domes():
            self.paint(hu + 4 * self.noise(6), shape)
        left = (self.level - 0.84) / 0.16
        if left > 0.55:
            bubble = self.oval((60, self.cavity_y - 22), 26 * left, 15 * left)
            level_y = self.cavity_y - 22 + self.rng.uniform(-4, 8)
            self.paint(30, bubble + 2.5)
            self.paint(-990, np.minimum(bubble, level_y - self.y))

    def fill_lungs(self) -> None:
        """Parenchyma with its gravity gradient, fissures, vessels and bronchi."""
        rng = self.rng
        front = self.cavity_y - self.cavity_half[1]
        low = np.clip((self.y - front) / (2 * self.cavity_half[1]), 0, 1)
        base = rng.uniform(-895, -865)
        parenchyma = base + rng.uniform(45, 95) * low + 9 * self.noise(4) + 10 * self.noise(14)
        self.paint(parenchyma, self.lung)
        if 0.25 < self.level < 0.85:
            for side in (-1, 1):
                end_y = self.cavity_y + rng.uniform(-25, 25)
                bend = rng.uniform(-18, 18)
                across = np.clip(side * self.x / self.cavity_half[0], 0, 1)
                fissure = self.y - (
                    self.cavity_y + 20 + (end_y - self.cavity_y - 20) * across + bend * across * (1 - across) * 2
                )
                faint = np.clip(1 - np.abs(fissure + self.noise(20)) / 1.2, 0, 1) * (side * self.x > 25) * (self.lung > 0)
                self.hu = np.asarray(self.hu + faint * rng.uniform(60, 220), np.float32)
        for side in (-1, 1):
            self._tree(side)

    def _tree(self, side: int) -> None:
        """Vessels and bronchi of one lung: branches in the plane, and cut ones that thin out towards the pleura."""
        rng, pixel = self.rng, self.pixel
        lung = (self.lung > 1.5) & (self.x * side > 0)
        if np.count_nonzero(lung) * pixel**2 < 900:
            return
        hilum = (
            side * _between(self.level, [0, 0.4, 1], [30, 36, 42]),
            self.cavity_y + _between(self.level, [0, 0.5, 1], [25, 16, 32]),
        )
        vessel = np.full_like(self.x, -99)
        middle_x, middle_y = float(self.x[lung].mean()), float(self.y[lung].mean())
        toward = math.atan2(middle_y - hilum[1], middle_x - hilum[0])
        stem = _between(self.level, [0, 0.2, 0.4, 0.8, 1], [1.2, 2.2, 3.9, 3.6, 2.0])
        count = int(_between(self.level, [0, 0.4, 1], [4, 9, 7]))
        branches = []
        for k in range(count):
            angle = toward + (k + rng.uniform(0.2, 0.8)) / count * 3.4 - 1.7
            branches.append(
                _Branch(*hilum, angle, stem * rng.uniform(0.55, 1.0), rng.uniform(-3, 3), rng.normal(0, 0.15), False)
            )
        while branches:
            branches += self._grow(branches.pop(), vessel, side)
        self._cut_vessels(vessel, lung, hilum, stem)
        self.paint(40, np.minimum(vessel, self.lung + 0.8))
        self._bronchi(hilum, stem)

    def _grow(self, branch: _Branch, vessel: Values, side: int) -> list[_Branch]:
        """Draw one branch of a vessel where it lies in the slice; what it divides into."""
        rng = self.rng
        x, y, angle, radius, height, entered = branch.x, branch.y, branch.angle, branch.radius, branch.height, branch.entered
        length = rng.uniform(4, 9) + 5.5 * radius + (0 if entered else 25)
        gone, step = 0.0, max(0.7, 0.4 * radius)
        while gone < length:
            x, y = x + step * math.cos(angle), y + step * math.sin(angle)
            height += step * branch.slope
            angle += rng.normal(0, 0.06)
            gone += step
            radius *= 1 - 0.006 * step
            if self._depth_at(x, y) < 2.5 or x * side < 5:
                if entered:
                    return []
                continue
            if not entered:
                entered, length = True, gone + rng.uniform(6, 20)
            # The slice is about 1.5 mm thick: a vessel that leaves it fades.
            seen = math.sqrt(max(0.0, radius**2 - max(0.0, abs(height) - 0.75) ** 2))
            if seen > 0.25:
                self._stamp(vessel, x, y, seen)
        if radius < 0.5 or not entered:
            return []
        wide, narrow = rng.uniform(0.35, 0.8), -rng.uniform(0.15, 0.6)
        return [
            _Branch(x, y, angle + wide, radius * rng.uniform(0.6, 0.78), height, rng.normal(0, 0.3), True),
            _Branch(x, y, angle + narrow, radius * rng.uniform(0.74, 0.9), height, rng.normal(0, 0.3), True),
        ]

    def _cut_vessels(self, vessel: Values, lung: Mask, hilum: Point, stem: float) -> None:
        """Vessels that cross the slice: dots, larger near the hilum."""
        rng = self.rng
        places = np.flatnonzero(lung)
        taken = (vessel > -2.5).copy()
        for k in rng.integers(places.size, size=int(places.size * self.pixel**2 / 45)):
            row, column = divmod(int(places[k]), self.size)
            if taken[row, column] or self.lung[row, column] < 4:
                continue
            x, y = float(self.x[row, column]), float(self.y[row, column])
            taken[self.window((x, y), rng.uniform(2.5, 6))] = True
            away = math.hypot(x - hilum[0], y - hilum[1])
            radius = 0.4 + rng.random() ** 3 * 0.9 + 0.8 * stem * rng.random() ** 2 * math.exp(-away / 28)
            angle = math.atan2(y - hilum[1], x - hilum[0]) + rng.normal(0, 0.5)
            long = radius * rng.uniform(0.3, 4.5) if rng.random() < 0.28 else 0.0
            for t in np.arange(-long, long + 0.01, max(0.4, 0.6 * radius)):
                self._stamp(vessel, x + t * math.cos(angle), y + t * math.sin(angle), radius * (1 - 0.25 * t / (long + 0.1)))

    def _bronchi(self, hilum: Point, stem: float) -> None:
        """Rings with a wall, each beside an artery of its own size."""
        rng = self.rng
        if stem < 2:
            return
        for _ in range(int(rng.integers(5, 11))):
            angle, away = rng.uniform(0, 2 * math.pi), rng.uniform(5, 48)
            x, y = hilum[0] + away * math.cos(angle), hilum[1] + away * math.sin(angle)
            if self._depth_at(x, y) < 6 or x * hilum[0] < 0:
                continue
            radius = max(1.0, 0.95 * stem * math.exp(-away / 35) * rng.uniform(0.7, 1.1))
            beside = rng.uniform(0, 2 * math.pi)
            window = self.window((x, y), 5 * radius + 3)
            ring = radius - np.hypot(self.x[window] - x, self.y[window] - y)
            artery_x, artery_y = x + 2.1 * radius * math.cos(beside), y + 2.1 * radius * math.sin(beside)
            self.paint(40, 1.05 * radius - np.hypot(self.x[window] - artery_x, self.y[window] - artery_y), window)
            self.paint(-50, ring + max(0.5, 0.3 * radius), window)
            self.paint(-985, ring, window)

    def _depth_at(self, x: float, y: float) -> float:
        column, row = self.at(x, y)
        if not (0 <= row < self.size and 0 <= column < self.size):
            return -99.0
        return float(self.lung[row, column])

    def _stamp(self, shape: Values, x: float, y: float, radius: float) -> None:
        """Unite a disc with a shape, in a small window."""
        window = self.window((x, y), radius + 1.5)
        distance = radius - np.hypot(self.x[window] - x, self.y[window] - y)
        shape[window] = np.maximum(shape[window], distance)

    def table(self) -> None:
        """The curved top of the table, and a thin mattress, where the field of view reaches them."""
        lowest = float(self.y[self.body > 0].max()) if (self.body > 0).any() else 110.0
        top = lowest + 3 - 0.0006 * self.x**2
        below = self.y - top
        air = self.body < -0.5
        width = 205 - np.abs(self.x)
        for offset, thick, hu in ((0.0, 1.2, -880.0), (9.0, 1.4, -250.0), (30.0, 1.6, -300.0)):
            band = np.minimum(thick - np.abs(below - offset - 0.0009 * self.x**2 * (offset > 20)), width)
            self.paint(hu, np.where(air, band, -9))
        self.paint(-930, np.where(air, np.minimum(10 - np.abs(below - 20), width), -9))

    def scanned(self) -> npt.NDArray[np.int16]:
        """What a scanner makes of it: blur, and noise that is stronger in the middle and runs from side to side."""
        rng = self.rng
        blurred = cv2.GaussianBlur(self.hu, (0, 0), max(0.45, 0.55 * self.scale / self.spacing_mm))
        grain = rng.standard_normal(self.hu.shape, np.float32)
        fine = cv2.GaussianBlur(grain, (0, 0), 0.75) - cv2.GaussianBlur(grain, (0, 0), 2.2)
        streaks = cv2.GaussianBlur(rng.standard_normal(self.hu.shape, np.float32), (0, 0), sigmaX=7, sigmaY=0.8)
        spread = rng.uniform(10, 22)
        inside = logistic(self.body / 6)
        strength = spread * (0.5 + 0.6 * inside * np.exp(-((self.x / 130) ** 2) - (self.y / 90) ** 2))
        share = _between(self.level, [0, 0.25], [0.9, 0.25])
        noise = fine / float(fine.std()) + share * streaks / float(streaks.std()) * (np.abs(self.y) < 70)
        return np.asarray(np.clip(np.round(blurred + strength * noise), -1024, 3071), np.int16)
