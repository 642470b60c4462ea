"""Marks that somebody drew on a picture before it came here: arrows, arrowheads, circles, letters.

Teaching pictures carry them, mostly on disease, so that a network can learn the mark instead of the disease. They are found
by color, or by being plain black or white with an edge sharper than a scanner draws, and then by their shape. A shape that
is not recognized is left alone unless it is colored: bones, calcifications and cysts are plain white and black, too.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

import cv2
import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import Annotation, Finding, OnSlice, PointAnnotation, Said
from ipfvision.core.lungs import Lungs
from ipfvision.core.slice import Scale, Slice

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32]

NEAR = 0.15
"""Room around the lungs' bounding box in which marks are looked for, as a share of its sides: more than the model sees."""
PLAIN = 12 / 255
"""What is nearer to black or white than this is plain; JPEG moves a flat area by less."""
HALF = 0.35
"""Share of the background's distance to black or white below which a pixel belongs to a thin line that is smoothed."""
LEAST_CONTRAST = 40 / 255
"""Least difference between a mark and what is around it."""
SHARP = 0.85
"""How much of the way to the background two pixels beside a mark must have gone: tissue needs three to five pixels."""
SHORTEST = 7.0
"""Pixels: nothing shorter has a shape."""
LONGEST = 0.35
"""Longest mark, as a share of the picture's longer side."""
WELL_FITTED = 0.2
"""Largest misfit of an arrow or arrowhead, as a share of its head's half width."""
ROUND = 0.93
"""Least overlap (IoU) of an outline's inside with the ellipse or rectangle that fits it best."""
FRINGE = 2
"""Pixels around a mark that are filled in with it: smoothed edges, and color that JPEG has spread."""


class MarkKind(Enum):
    """What a mark is by its shape."""

    CIRCLE = "circle"
    """Any closed outline: circle, ellipse, box, or drawn by hand."""
    ARROW = "arrow"
    ARROWHEAD = "arrowhead"
    TEXT = "text"
    OTHER = "other"


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """One mark on one slice.

    Raises
    ------
    ValueError
        If it has no pixels, or a tip or a region that does not go with its kind.
    """

    kind: MarkKind
    pixels: Mask
    """(H, W), read-only: the mark itself."""
    tip: tuple[float, float] | None = None
    """(x, y) in continuous slice coordinates, of the pointed end: arrows and arrowheads only."""
    region: Mask | None = None
    """(H, W), read-only: what the outline goes around; circles only."""

    def __post_init__(self) -> None:
        if not self.pixels.any():
            raise ValueError("a mark has pixels")
        if (self.tip is not None) != (self.kind in (MarkKind.ARROW, MarkKind.ARROWHEAD)):
            raise ValueError("an arrow or arrowhead has a tip, and nothing else has")
        if (self.region is not None) != (self.kind is MarkKind.CIRCLE):
            raise ValueError("a circle has a region, and nothing else has")
        for name, mask in (("pixels", self.pixels), ("region", self.region)):
            if mask is not None:
                view = mask.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) in pixels."""
        left, top, width, height = cv2.boundingRect(self.pixels.astype(np.uint8))
        return left, top, width, height

    @property
    def place(self) -> tuple[float, float]:
        """(x, y) in continuous slice coordinates of what it points at: its tip, or the middle of its bounds."""
        if self.tip is not None:
            return self.tip
        left, top, width, height = self.bounds
        return left + width / 2, top + height / 2


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a component's outline says: in its own crop's coordinates."""

    kind: MarkKind
    tip: tuple[float, float] | None = None
    region: Mask | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """One connected component: its mask, cut out, and where it was cut."""

    mask: Mask
    left: int
    top: int

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    def on(self, shape: tuple[int, int], mask: Mask | None = None) -> Mask:
        """A mask of the piece's own size (itself if none is given), on the whole slice."""
        full = np.zeros(shape, np.bool_)
        full[self.top : self.top + self.height, self.left : self.left + self.width] = self.mask if mask is None else mask
        return full


def find_marks(scan: Slice, lungs: Lungs | None = None) -> tuple[Mark, ...]:
    """Find the marks that were drawn on a slice.

    Colored ones are found anywhere. Black and white ones only near the lungs, or anywhere without `lungs`, and only on an image
    without Hounsfield units: a scanner's numbers have no black and white, and what is extreme in them is air, metal or padding.

    Returns
    -------
    From left to right; empty where there are none.
    """
    found: list[Mark] = []
    if scan.colored is not None:
        joined = cv2.morphologyEx(scan.colored.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        pieces = [piece for piece in _pieces(joined > 0, SHORTEST, max(scan.shape)) if piece.mask.sum() >= SHORTEST]
        found += _named(pieces, scan.shape, keep_unknown=True)
    if scan.scale is Scale.GREY:
        taken = np.zeros(scan.shape, np.bool_) if scan.colored is None else _grown(scan.colored, FRINGE)
        near = _near(lungs, scan.shape)
        for from_plain in (scan.pixels, 1 - scan.pixels):
            for mark in _plain_marks(np.asarray(from_plain, np.float32), near & ~taken):
                if not (mark.pixels & taken).any():
                    found.append(mark)
                    taken |= mark.pixels
    return tuple(sorted(found, key=lambda mark: mark.place))


def as_annotations(marks: Iterable[Mark]) -> tuple[OnSlice, ...]:
    """What the marks say is where: a circle's inside as an area, an arrow's tip as a point. Text and the rest say nothing.

    What they were drawn to show is not known, so the finding is `Finding.OTHER`.
    """
    found: list[OnSlice] = []
    for mark in marks:
        said = Said(Finding.OTHER, "the picture's author", mark.kind.value, "burned-in mark")
        if mark.tip is not None:
            found.append(PointAnnotation(*mark.tip, said))
        elif mark.region is not None:
            found.append(Annotation(mark.region, said))
    return tuple(found)


def fill_in(scan: Slice, pixels: Mask) -> Slice:
    """The same slice with some pixels, and a fringe of them, filled in from around (Telea, J Graphics Tools 2004;9:23-34).

    The source stays what it was, with its hash: it is the same document. A warning says that it was changed.

    Parameters
    ----------
    pixels
        (H, W) bool; if it is empty, the slice comes back as it is.
    """
    if pixels.shape != scan.shape or pixels.dtype != np.bool_:
        raise ValueError(f"pixels to fill in are (H, W) bool like the slice, not {pixels.shape} {pixels.dtype}")
    if not pixels.any():
        return scan
    hole = _grown(pixels, FRINGE) & ~scan.padding
    values = np.asarray(cv2.inpaint(scan.pixels.astype(np.float32), hole.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.float32)
    filled = scan.pixels.copy()
    around = scan.pixels[~hole]
    low, high = (float(around.min()), float(around.max())) if around.size else (0.0, 0.0)
    chosen = np.clip(values[hole], low, high)
    filled[hole] = np.rint(chosen) if filled.dtype == np.int16 else chosen
    warning = (
        f"Marks drawn on the picture ({hole.mean():.1%} of it) were filled in from around before the model read it: what lies "
        "under them is not known."
    )
    return replace(scan, pixels=filled, colored=None, warnings=(*scan.warnings, warning))


def _grown(mask: Mask, by: int) -> Mask:
    disk = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1)), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disk)) > 0


def _near(lungs: Lungs | None, shape: tuple[int, int]) -> Mask:
    near = np.ones(shape, np.bool_)
    if lungs is not None and lungs.problem is None:
        left, top, width, height = lungs.bounds()
        x, y = round(NEAR * width), round(NEAR * height)
        near[:] = False
        near[max(0, top - y) : top + height + y, max(0, left - x) : left + width + x] = True
    return near


def _pieces(mask: Mask, shortest: float, longest: float) -> Iterator[_Piece]:
    """8-connected components whose longer side lies in [shortest, longest] pixels."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sides = statistics[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    for label in np.flatnonzero((sides >= shortest) & (sides <= longest)):
        if label:
            x, y, width, height, _ = (int(value) for value in statistics[label])
            yield _Piece(labels[y : y + height, x : x + width] == label, x, y)


def _named(pieces: list[_Piece], shape: tuple[int, int], *, keep_unknown: bool) -> list[Mark]:
    """Marks by shape; what stands in a row of similar height is text, whatever its letters look like."""
    shapes = [_shape(piece.mask, by_hand=keep_unknown) for piece in pieces]
    lines = _lines([piece for piece in pieces if piece.height <= 0.08 * shape[0]])
    letters = [piece for line in lines for piece in line]
    found = []
    for line in lines:
        pixels = np.zeros(shape, np.bool_)
        for piece in line:
            pixels |= piece.on(shape)
        found.append(Mark(MarkKind.TEXT, pixels))
    for piece, seen in zip(pieces, shapes, strict=True):
        if any(piece is letter for letter in letters):
            continue
        if seen is not None:
            tip = None if seen.tip is None else (seen.tip[0] + piece.left, seen.tip[1] + piece.top)
            region = None if seen.region is None else piece.on(shape, seen.region)
            found.append(Mark(seen.kind, piece.on(shape), tip, region))
        elif keep_unknown:
            found.append(Mark(MarkKind.OTHER, piece.on(shape)))
    return found


def _lines(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Rows of at least three pieces of about one height, less than a height apart."""
    rows: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.left):
        for row in rows:
            last = row[-1]
            apart = piece.left - (last.left + last.width)
            higher = max(piece.height, last.height)
            level = abs(piece.top + piece.height - last.top - last.height) <= 0.25 * higher
            if level and -0.3 * higher <= apart <= 1.2 * higher and min(piece.height, last.height) >= 0.6 * higher:
                row.append(piece)
                break
        else:
            rows.append([piece])
    return [row for row in rows if len(row) >= 3]


def _plain_marks(distance: Values, near: Mask) -> list[Mark]:
    """Marks among what is nearly 0 in `distance`, the distance to black or to white, with a sharp edge."""
    plain = distance <= PLAIN
    if not (plain & near).any():
        return []
    level = np.rint(distance * 255).astype(np.uint8)
    side = 2 * max(5, round(max(distance.shape) / 40)) + 1
    background = np.asarray(cv2.medianBlur(level, side), np.float32) / np.float32(255)
    thin = (distance <= HALF * background) & (background >= LEAST_CONTRAST)
    found: list[Mark] = []
    taken = np.zeros(distance.shape, np.bool_)
    for mask in (plain, plain | thin):
        longest = LONGEST * max(distance.shape)
        pieces = [
            piece
            for piece in _pieces(mask, SHORTEST, longest)
            if near[piece.top : piece.top + piece.height, piece.left : piece.left + piece.width].any()
            and not taken[piece.top : piece.top + piece.height, piece.left : piece.left + piece.width][piece.mask].any()
            and _is_sharp(distance, piece)
        ]
        for mark in _named(pieces, (distance.shape[0], distance.shape[1]), keep_unknown=False):
            found.append(mark)
            taken |= _grown(mark.pixels, FRINGE)
    return found


def _is_sharp(distance: Values, piece: _Piece) -> bool:
    """Whether the background is reached within two pixels all around, and differs enough."""
    room = 6
    rows, columns = distance.shape
    top, left = max(0, piece.top - room), max(0, piece.left - room)
    around = distance[top : min(rows, piece.top + piece.height + room), left : min(columns, piece.left + piece.width + room)]
    mask = np.zeros(around.shape, np.uint8)
    y, x = piece.top - top, piece.left - left
    mask[y : y + piece.height, x : x + piece.width] = piece.mask
    steps = np.asarray(cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5), np.float32)
    beside = (steps > 1.9) & (steps < 2.9)
    farther = (steps >= 3.5) & (steps < room)
    if not beside.any() or not farther.any():
        return False
    weight = farther.astype(np.float32)
    sums = cv2.GaussianBlur(around * weight, (0, 0), 2.0, borderType=cv2.BORDER_CONSTANT)
    weights = cv2.GaussianBlur(weight, (0, 0), 2.0, borderType=cv2.BORDER_CONSTANT)
    background = sums[beside] / np.maximum(weights[beside], 1e-3)
    if float(np.median(background)) < LEAST_CONTRAST:
        return False
    return float(np.median(around[beside] / np.maximum(background, 1e-3))) >= SHARP


def _shape(mask: Mask, *, by_hand: bool) -> _Shape | None:
    """What one component is, or None.

    Parameters
    ----------
    by_hand
        Whether any closed line counts as a circle, as it may where color says that it was drawn.
    """
    region = _outlined(mask, by_hand=by_hand)
    if region is not None:
        return _Shape(MarkKind.CIRCLE, region=region)
    return _pointed(mask)


def _outlined(mask: Mask, *, by_hand: bool) -> Mask | None:
    """(h, w) what a closed thin line goes around, or None if it is none."""
    padded = np.pad(mask.astype(np.uint8), 1)
    contours, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(padded)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    inside = (filled[1:-1, 1:-1] > 0) & ~mask
    area = int(filled.sum())
    if min(mask.shape) < SHORTEST or inside.sum() < 0.5 * area or len(contours[0]) < 5:
        return None
    if by_hand:
        hull = float(cv2.contourArea(cv2.convexHull(contours[0])))
        return inside if area >= 0.75 * hull else None
    best = np.zeros_like(filled)
    cv2.ellipse(best, cv2.fitEllipse(contours[0]), (1,), cv2.FILLED)
    overlaps = [_iou(best, filled)]
    best[:] = 0
    corners = cv2.boxPoints(cv2.minAreaRect(contours[0]))
    cv2.fillConvexPoly(best, np.rint(corners).astype(np.int32), (1,))
    overlaps.append(_iou(best, filled))
    return inside if max(overlaps) >= ROUND else None


def _iou(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    return float((first & second).sum() / max(1, int((first | second).sum())))


def _pointed(mask: Mask) -> _Shape | None:
    """Arrow or arrowhead, from its profile along the axis through each corner of its hull that may be the tip."""
    rows, columns = np.nonzero(mask)
    points = np.stack([columns, rows], axis=1).astype(np.float32) + np.float32(0.5)
    contours, _ = cv2.findContours(np.pad(mask.astype(np.uint8), 1), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(contours[0])
    corners = np.asarray(cv2.approxPolyDP(hull, 1.0, closed=True), np.float32)[:, 0, :] - np.float32(0.5)
    if len(corners) > 12:
        return None  # a disk has no tip
    middle = points.mean(axis=0)
    best, best_misfit = None, WELL_FITTED
    for corner in corners:
        offsets = points - corner
        farthest = offsets[int((offsets**2).sum(axis=1).argmax())]
        for toward in (middle - corner, farthest):
            direction = math.atan2(float(toward[1]), float(toward[0]))
            for turn in (-8, -4, 0, 4, 8):
                seen = _profile(offsets, direction + math.radians(turn))
                if seen is not None and seen[1] < best_misfit:
                    best_misfit = seen[1]
                    best = _Shape(seen[0], tip=(float(corner[0]), float(corner[1])))
    return best


def _profile(offsets: Values, direction: float) -> tuple[MarkKind, float] | None:
    """Kind and misfit of a shape whose tip is at the origin and which lies along `direction` from it.

    The half width must grow in proportion to the distance from the tip, alike on both sides, up to the head's end; behind it
    there is nothing (arrowhead) or a thin shaft (arrow).
    """
    along = offsets[:, 0] * math.cos(direction) + offsets[:, 1] * math.sin(direction)
    across = offsets[:, 1] * math.cos(direction) - offsets[:, 0] * math.sin(direction)
    length = float(along.max()) + 0.5
    if length < SHORTEST or float(along.min()) < -1.5:
        return None
    bins = np.clip(along, 0, None).astype(np.intp)
    count = int(bins.max()) + 1
    right, left = np.full(count, -np.inf), np.full(count, -np.inf)
    np.maximum.at(right, bins, across)
    np.maximum.at(left, bins, -across)
    occupied = np.isfinite(right)
    if occupied.mean() < 0.95:
        return None
    steps = np.arange(count) + 0.5
    right, left = (np.interp(steps, steps[occupied], side[occupied]) + 0.5 for side in (right, left))
    half = (right + left) / 2
    end = int(half.argmax())
    widest = float(half[end])
    if widest < 2 or end < 2:
        return None
    slope = widest / (end + 0.5)
    if not math.tan(math.radians(8)) <= slope <= math.tan(math.radians(60)):
        return None
    head, tail = slice(0, end + 1), slice(end + 1, count)
    misfit = float(np.abs(half[head] - slope * steps[head]).mean()) / widest
    misfit += float(np.abs(right - left)[head].mean()) / 2 / widest
    center = np.zeros(count, np.bool_)
    center[bins[np.abs(across) <= 1.0]] = True
    behind = count - end - 1
    if behind <= max(2, 0.2 * count):
        area = len(offsets) / (widest * (end + 1))
        if not 0.45 <= area <= 1.2 or not center[: max(3, int(0.4 * count))].all():
            return None
        return MarkKind.ARROWHEAD, misfit
    shaft = half[end + 1 + behind // 5 :]
    thick = float(np.median(shaft))
    if thick > 0.6 * widest or float(np.abs(shaft - thick).mean()) > 0.15 * widest + 0.4 or center[tail].mean() < 0.9:
        return None
    return MarkKind.ARROW, misfit
