"""Shapes that lesions are made of, as distances in mm: packed cysts, tubes, lines."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ipfvision.synthetic.field import Image, LungField, Mask, Values

FAR_MM = 99.0


@dataclass(frozen=True, slots=True, eq=False)
class Cysts:
    """Round cells packed beside one another, with the distances that their walls follow from."""

    nearest: Image
    """(h, w) mm to the surface of the nearest cell; negative inside it."""
    second: Image
    """(h, w) mm to the surface of the second nearest."""
    index: npt.NDArray[np.int32]
    """(h, w) number of the nearest cell; -1 where none is near."""
    count: int

    @property
    def to_border(self) -> Image:
        """(h, w) mm to the border shared with the neighboring cell; large where there is no neighbor."""
        return np.asarray((self.second - self.nearest) / 2, np.float32)


def pack_cysts(
    field: LungField,
    where: Mask,
    radii_mm: npt.NDArray[np.float64],
    *,
    closeness: float = 0.8,
    warp_mm: float = 0.5,
    warp_scale_mm: float = 4.0,
    size: Values | None = None,
    reach_mm: float | None = None,
    most: int = 2000,
) -> Cysts:
    """Throw cells at random places, large ones first; one that would overlap what lies there is left out.

    The distance to a cell is |p - center| - radius (an additively weighted Voronoi diagram), so that neighbors of different
    size share a curved wall.

    Parameters
    ----------
    where
        (h, w) bool: centers lie here.
    radii_mm
        (n,) radii of the candidates.
    closeness
        1: cells just touch; below, they cut into one another and share a flat wall; above, they keep a distance.
    warp_mm, warp_scale_mm
        Irregularity of the outlines.
    size
        (h, w) factor on the radius, for regions of small and of large cells.
    reach_mm
        Distance from its surface up to which a cell can be the second nearest; by default as far as packed cells need.
    most
        Cells at most.
    """
    mm = field.mm
    height, width = field.shape
    nearest = np.full(field.shape, FAR_MM / mm, np.float32)
    second = nearest.copy()
    index = np.full(field.shape, -1, np.int32)
    places = np.flatnonzero(where)
    if not places.size or not radii_mm.size:
        return Cysts(nearest * np.float32(mm), second * np.float32(mm), index, 0)
    rng = field.rng
    chosen = places[rng.integers(places.size, size=radii_mm.size)]
    radii = np.asarray(radii_mm / mm, np.float64)
    if size is not None:
        radii = radii * size.ravel()[chosen]
    order = np.argsort(-radii, kind="stable")
    radii, chosen = radii[order], chosen[order]
    largest = float(radii[0])
    grid_y, grid_x = np.indices(field.shape, np.float32)
    grid_y += np.clip(field.noise(warp_scale_mm), -2.5, 2.5) * np.float32(warp_mm / mm)
    grid_x += np.clip(field.noise(warp_scale_mm), -2.5, 2.5) * np.float32(warp_mm / mm)
    pad = 2.5 * warp_mm / mm + 1
    stretches = np.exp(rng.normal(0, 0.13, radii.size))
    turns = rng.uniform(0, math.pi, radii.size)
    jitter = rng.uniform(-0.5, 0.5, (radii.size, 2))
    count = 0
    for k in range(radii.size):
        row, column = divmod(int(chosen[k]), width)
        radius = float(radii[k])
        if nearest[row, column] < radius * closeness:
            continue
        # Beyond one more large cell, a cell is neither the nearest nor the second nearest of its neighbors.
        beyond = min(2.2 * radius + 3 / mm, 1.6 * largest) if reach_mm is None else reach_mm / mm
        reach = int(radius * 1.3 + beyond + pad) + 1
        rows = slice(max(0, row - reach), min(height, row + reach + 1))
        columns = slice(max(0, column - reach), min(width, column + reach + 1))
        down = grid_y[rows, columns] - (grid_y[row, column] + np.float32(jitter[k, 0]))
        right = grid_x[rows, columns] - (grid_x[row, column] + np.float32(jitter[k, 1]))
        stretch = np.float32(stretches[k])
        cosine, sine = np.float32(math.cos(turns[k])), np.float32(math.sin(turns[k]))
        along = (right * cosine + down * sine) * stretch
        beside = (down * cosine - right * sine) / stretch
        distance = np.sqrt(along * along + beside * beside) - np.float32(radius)
        before = nearest[rows, columns]
        closer = distance < before
        second[rows, columns] = np.where(closer, before, np.minimum(second[rows, columns], distance))
        nearest[rows, columns] = np.minimum(before, distance)
        index[rows, columns][closer] = count
        count += 1
        if count >= most:
            break
    return Cysts(nearest * np.float32(mm), second * np.float32(mm), index, count)


def radii_between(
    field: LungField, where: Mask, smallest_mm: float, largest_mm: float, *, tries: float = 5.0, skew: float = 1.6
) -> npt.NDArray[np.float64]:
    """(n,) radii in mm, more small than large for `skew` above 1; `tries` times as many as would fill the area."""
    mean = smallest_mm + (largest_mm - smallest_mm) / (1 + skew)
    n = int(tries * field.area_mm2(where) / (math.pi * mean * mean)) + 8
    return smallest_mm + (largest_mm - smallest_mm) * field.rng.random(min(n, 9000)) ** skew


def net(field: LungField, where: Mask, smallest_mm: float, largest_mm: float) -> Image:
    """(h, w) mm to the lines of an irregular polygonal net with meshes of about these radii."""
    radii = radii_between(field, where, smallest_mm, largest_mm, tries=3.5, skew=1.2)
    cells = pack_cysts(
        field,
        where,
        radii * 0.5,
        closeness=2.2,
        warp_mm=0.16 * smallest_mm + 0.2,
        warp_scale_mm=smallest_mm,
        reach_mm=1.5 * largest_mm,
    )
    return cells.to_border


@dataclass(frozen=True, slots=True)
class Course:
    """How tubes run and vary."""

    radius_mm: tuple[float, float]
    length_mm: tuple[float, float] = (8.0, 30.0)
    cut_across: float = 0.5
    """Share of tubes that cross the slice and show as a ring."""
    beading: float = 0.15
    """Relative change of the radius along the tube: about 0.1 is cylindrical, 0.35 varicose."""
    wander: float = 0.1
    """Irregularity of the direction, in radians per 2 mm."""
    taper: float = 0.0
    """Share of the radius lost from beginning to end."""


def tubes(field: LungField, where: Mask, count: int, course: Course) -> Image:
    """(h, w) mm: signed distance to the outside of `count` tubes, negative inside. They begin in `where` and run outwards."""
    rng, mm = field.rng, field.mm
    height, width = field.shape
    distance = np.full(field.shape, FAR_MM, np.float32)
    grid_y = np.arange(height, dtype=np.float32)[:, None]
    grid_x = np.arange(width, dtype=np.float32)[None, :]
    margin = int(5 / mm) + 1
    for _ in range(count):
        place = field.pick(where)
        if place is None:
            break
        y, x = float(place[0]), float(place[1])
        radius = rng.uniform(*course.radius_mm)
        length = 0.0 if rng.random() < course.cut_across else float(rng.uniform(*course.length_mm))
        # Bronchi run from the hilum, near the middle of the picture, towards the ribs.
        angle = math.atan2(y - 0.5 * height, x - (0.5 + 0.2 * math.copysign(1, x / width - 0.5)) * width)
        angle += rng.normal(0, 0.35)
        stretch = float(np.exp(rng.normal(0, 0.2)))
        phase, period = rng.uniform(0, 6.3), rng.uniform(4.0, 9.0) * radius
        step = max(0.7 * mm, 0.3 * radius)
        turning = 0.0
        gone = 0.0
        while True:
            # Two waves of different length, so that the beads do not repeat.
            wave = math.sin(phase + 6.283 * gone / period) + 0.6 * math.sin(2.7 * phase + 6.283 * gone / (0.43 * period))
            here = radius * (1 + 0.7 * course.beading * wave)
            here *= 1 - course.taper * gone / max(length, 1.0)
            reach = int(here * 1.3 / mm) + margin
            rows = slice(max(0, int(y) - reach), int(y) + reach + 1)
            columns = slice(max(0, int(x) - reach), int(x) + reach + 1)
            down, right = (grid_y[rows] - np.float32(y)) * mm, (grid_x[:, columns] - np.float32(x)) * mm
            to_here = np.sqrt(down * down * stretch + right * right / stretch) - np.float32(here)
            distance[rows, columns] = np.minimum(distance[rows, columns], to_here)
            gone += step
            if gone > length:
                break
            y += math.sin(angle) * step / mm
            x += math.cos(angle) * step / mm
            turning = 0.8 * turning + rng.normal(0, course.wander)
            angle += turning * step / 2.0
            if not (0 <= y < height and 0 <= x < width and field.lungs[int(y), int(x)]):
                break
    return distance


def coverage(distance_mm: Values, mm_per_pixel: float) -> Image:
    """(h, w) in [0, 1]: share of a pixel inside a shape, from its signed distance (positive inside)."""
    return np.asarray(np.clip(distance_mm / np.float32(mm_per_pixel) + 0.5, 0, 1), np.float32)


def line(distance_mm: Values, thickness_mm: float, mm_per_pixel: float) -> Image:
    """(h, w) in [0, 1]: share of a pixel that a line of this thickness covers, from the distance to its middle."""
    half = np.float32(thickness_mm / 2)
    inner = np.clip((half - np.abs(distance_mm)) / np.float32(mm_per_pixel) + 0.5, 0, 1)
    return np.asarray(inner * min(1.0, thickness_mm / mm_per_pixel), np.float32)
