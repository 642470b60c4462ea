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
BLACK_CONTRAST, WHITE_CONTRAST = 35 / 255, 80 / 255
"""Least mean difference between a mark and what is around it. A black one differs little from lung; bone in soft tissue is as
white as a mark, so that a white mark is told apart on lung only."""
SHARP = 0.8
"""How much of the way to the background two pixels beside a mark must have gone: tissue needs three to five pixels."""
SHARP_ALONG = 0.8
"""Share of a mark's edge that must be so sharp: the rest may lie on a border in the background."""
LEAST_PLAIN = 0.25
"""Least share of plain black or white pixels in a thin line that is smoothed."""
SHORTEST = 7.0
"""Pixels: nothing shorter has a shape."""
LONGEST = 0.35
"""Longest mark, as a share of the picture's longer side."""
NARROWEST, WIDEST = 8.0, 60.0
"""Degrees between an arrow's axis and the sides of its head."""
MOST_CORNERS = 12
"""A shape whose hull has more is round and has no tip."""
ROUND = 0.85
"""Least overlap (IoU) of an outline's inside with the ellipse or rectangle that fits it best."""
FILL_RADIUS = 3
"""Pixels from which a pixel is filled in."""
FRINGE = 2
"""Pixels around a mark that are filled in with it: smoothed edges, and color that JPEG has spread."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """What an arrow or arrowhead must be like."""

    misfit: float
    """Largest misfit of the sides, as a share of the head's half width."""
    overlap: float
    """Least overlap (IoU) with the ideal shape that fits best: bones and vessels have curved sides."""
    shaft: float
    """Widest shaft, as a share of the head's width."""
    shortest: float
    """Pixels. A vessel cut across looks like a small arrowhead."""
    shortest_arrow: float
    """Pixels, with its shaft. A small vessel that branches looks like a shorter one."""


PLAIN_LIMITS = _Limits(misfit=0.17, overlap=0.65, shaft=0.52, shortest=11, shortest_arrow=16)
COLOR_LIMITS = _Limits(misfit=0.3, overlap=0.5, shaft=0.75, shortest=7, shortest_arrow=9)


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
    def box(self) -> tuple[slice, slice]:
        """Where it lies, as an index into the slice."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    def on(self, shape: tuple[int, int], mask: Mask | None = None) -> Mask:
        """A mask of the piece's own size (itself if none is given), on the whole slice."""
        full = np.zeros(shape, np.bool_)
        full[self.box] = self.mask if mask is None else mask
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
        found += _named(pieces, scan.shape, drawn=True)
    if scan.scale is Scale.GREY:
        taken = np.zeros(scan.shape, np.bool_) if scan.colored is None else _grown(scan.colored, FRINGE)
        near = _near(lungs, scan.shape)
        for distance, contrast in ((scan.pixels, BLACK_CONTRAST), (1 - scan.pixels, WHITE_CONTRAST)):
            for mark in _plain_marks(np.asarray(distance, np.float32), contrast, near & ~taken):
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
    known = scan.pixels[~hole & ~scan.padding]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    step = max(high - low, 1e-6) / 65535  # OpenCV rounds to whole numbers here, also in float32
    levels = np.clip((scan.pixels.astype(np.float32) - np.float32(low)) / np.float32(step), 0, 65535)
    levels = np.asarray(cv2.inpaint(levels, hole.astype(np.uint8), FILL_RADIUS, cv2.INPAINT_TELEA), np.float32)
    chosen = np.clip(low + levels[hole] * step, low, high)
    filled = scan.pixels.copy()
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


def _named(pieces: list[_Piece], shape: tuple[int, int], *, drawn: bool) -> list[Mark]:
    """Marks by shape; what stands in a row of similar height is text, whatever its letters look like.

    Parameters
    ----------
    drawn
        Whether the pieces are known to be drawn, so that text and unknown shapes are marks, too. Rows of bright vessels or
        black cysts look like text, so that without color no text is found.
    """
    shapes = [_shape(piece.mask, drawn=drawn) for piece in pieces]
    lines = _lines([piece for piece in pieces if piece.height <= 0.08 * shape[0]])
    letters = [piece for line in lines for piece in line]
    found = []
    for line in lines if drawn else []:
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
        elif drawn:
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


def _plain_marks(distance: Values, contrast: float, near: Mask) -> list[Mark]:
    """Marks among what is nearly 0 in `distance`, the distance to black or to white, with a sharp edge."""
    plain = distance <= PLAIN
    if not (plain & near).any():
        return []
    rows, columns = distance.shape
    small = cv2.resize(distance, (-(-columns // 4), -(-rows // 4)), interpolation=cv2.INTER_AREA)
    side = 2 * max(1, round(max(distance.shape) / 160)) + 1
    level = cv2.medianBlur(np.rint(small * 255).astype(np.uint8), side)
    background = cv2.resize(np.asarray(level, np.float32) / np.float32(255), (columns, rows))
    thin = (distance <= HALF * background) & (background >= contrast)
    found: list[Mark] = []
    taken = np.zeros(distance.shape, np.bool_)
    for mask in (plain, plain | thin):
        pieces = _sharp_pieces(distance, mask & ~taken, plain, contrast, near)
        for mark in _named(pieces, (rows, columns), drawn=False):
            pixels = mark.pixels
            for _ in range(4):  # smoothed pixels that are the mark's by half, and thin ends that they cut off
                pixels = pixels | (_grown(pixels, 1) & (distance < 0.5 * background))
            found.append(replace(mark, pixels=pixels, region=None if mark.region is None else mark.region & ~pixels))
            taken |= _grown(mark.pixels, FRINGE)
    return found


def _sharp_pieces(distance: Values, mask: Mask, plain: Mask, least: float, near: Mask) -> list[_Piece]:
    """Components beside which the background is reached within two pixels, and differs enough."""
    pieces = [
        piece
        for piece in _pieces(mask, SHORTEST, LONGEST * max(distance.shape))
        if near[piece.box].any()
        and piece.left > 0 < piece.top
        and piece.left + piece.width < distance.shape[1]
        and piece.top + piece.height < distance.shape[0]
        and np.count_nonzero(plain[piece.box] & piece.mask) >= LEAST_PLAIN * np.count_nonzero(piece.mask)
    ]
    if not pieces:
        return []
    kept = np.ones(distance.shape, np.uint8)
    for piece in pieces:
        kept[piece.box][piece.mask] = 0
    steps, nearest = cv2.distanceTransformWithLabels(kept, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    away = (steps >= 3.5).astype(np.float32)
    sums = cv2.GaussianBlur(distance * away, (0, 0), 2.5, borderType=cv2.BORDER_CONSTANT)
    weights = cv2.GaussianBlur(away, (0, 0), 2.5, borderType=cv2.BORDER_CONSTANT)
    beside = (steps > 1.9) & (steps < 2.9) & (weights > 0.01)
    background = sums[beside] / weights[beside]
    owner = nearest[beside]
    count = int(nearest.max()) + 1
    pixels = np.maximum(np.bincount(owner, minlength=count), 1)
    contrast = np.bincount(owner, background, count) / pixels
    reached = np.bincount(owner, distance[beside] >= SHARP * background, count) / pixels
    sharp = (contrast >= least) & (reached >= SHARP_ALONG)
    return [piece for piece in pieces if sharp[nearest[piece.box][piece.mask][0]]]


def _shape(mask: Mask, *, drawn: bool) -> _Shape | None:
    """What one component is, or None.

    Parameters
    ----------
    drawn
        Whether color says that it was drawn: any closed line counts as a circle then, and an arrow may be crooked.
    """
    region = _outlined(mask, by_hand=drawn)
    if region is not None:
        return _Shape(MarkKind.CIRCLE, region=region)
    return _pointed(mask, COLOR_LIMITS if drawn else PLAIN_LIMITS)


def _outlined(mask: Mask, *, by_hand: bool) -> Mask | None:
    """(h, w) what a closed thin line goes around, or None if it is none."""
    padded = np.pad(mask.astype(np.uint8), 1)
    contours, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(padded)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    inside = (filled[1:-1, 1:-1] > 0) & ~mask
    area = int(filled.sum())
    if min(mask.shape) < SHORTEST or inside.sum() < 0.4 * area or len(contours[0]) < 5:
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


@dataclass(frozen=True, slots=True)
class _Pointer:
    """An arrow or arrowhead that a shape may be: along `direction` (radians) from `tip`."""

    tip: tuple[float, float]
    direction: float
    head: float
    """Length of the head, in pixels, like everything here."""
    right: float
    left: float
    """Half widths of the head at its end."""
    notch: float
    """How far from the tip the head is filled along its axis."""
    length: float
    shaft: float | None
    """Half width of the shaft; None for an arrowhead."""
    misfit: float

    def _at(self, along: float, across: float) -> tuple[float, float]:
        cosine, sine = math.cos(self.direction), math.sin(self.direction)
        return self.tip[0] + along * cosine - across * sine, self.tip[1] + along * sine + across * cosine

    def drawn(self, shape: tuple[int, ...], *, hollow: bool) -> npt.NDArray[np.uint8]:
        """(h, w) of 0 and 1: the ideal shape, filled, or of three lines."""
        canvas = np.zeros(shape, np.uint8)
        back_right, back_left = self._at(self.head, self.right), self._at(self.head, -self.left)
        thick = self.shaft if self.shaft is not None else 0.0
        if hollow:
            for end in (back_right, back_left, self._at(self.length, 0)):
                _line(canvas, self.tip, end, thick)
            return canvas
        corners = [self.tip, back_right]
        if self.shaft is None:
            corners.append(self._at(self.notch, 0))
        else:
            notch = min(self.notch, self.head)
            corners += [self._at(along, side * thick) for side in (1, -1) for along in (notch, self.length)[::side]]
        _fill(canvas, [*corners, back_left])
        return canvas


def _fill(canvas: npt.NDArray[np.uint8], corners: list[tuple[float, float]]) -> None:
    fixed = np.rint((np.array(corners) - 0.5) * 16).astype(np.int32)  # OpenCV counts from the first pixel's center
    cv2.fillPoly(canvas, [fixed], (1,), cv2.LINE_8, 4)


def _line(canvas: npt.NDArray[np.uint8], begin: tuple[float, float], end: tuple[float, float], half: float) -> None:
    first, last = (tuple(round((value - 0.5) * 16) for value in point) for point in (begin, end))
    cv2.line(canvas, first, last, (1,), max(1, round(2 * half)), cv2.LINE_8, 4)


def _pointed(mask: Mask, limits: _Limits) -> _Shape | None:
    """Arrow or arrowhead, from its profile along the axis through each corner of its hull that may be the tip."""
    solid = mask.astype(np.uint8)
    padded = np.pad(solid, 1)
    contours, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(contours[0])
    corners = np.asarray(cv2.approxPolyDP(hull, 1.0, closed=True), np.float32)[:, 0, :] - np.float32(0.5)
    if not 3 <= len(corners) <= MOST_CORNERS:
        return None
    rows, columns = np.nonzero(mask)
    points = np.stack([columns, rows], axis=1).astype(np.float32) + np.float32(0.5)
    middle = points.mean(axis=0)
    wider = np.asarray(cv2.dilate(padded, np.ones((3, 3), np.uint8)))[1:-1, 1:-1] > 0
    best, best_overlap = None, limits.overlap
    for corner in corners:
        offsets = points - corner
        farthest = offsets[int((offsets**2).sum(axis=1).argmax())]
        tip = float(corner[0]), float(corner[1])
        seen = [
            _profile(offsets, wider, limits, tip, math.atan2(toward[1], toward[0]) + math.radians(turn))
            for toward in (middle - corner, farthest)
            for turn in (-8, -4, 0, 4, 8)
        ]
        pointer = min((one for one in seen if one is not None), key=lambda one: one.misfit, default=None)
        if pointer is not None and pointer.misfit <= limits.misfit:
            overlap = max(
                _iou(solid, pointer.drawn(solid.shape, hollow=hollow)) for hollow in {False, pointer.shaft is not None}
            )
            if overlap > best_overlap:
                best, best_overlap = pointer, overlap
    if best is None:
        return None
    return _Shape(MarkKind.ARROWHEAD if best.shaft is None else MarkKind.ARROW, tip=best.tip)


def _profile(offsets: Values, wider: Mask, limits: _Limits, tip: tuple[float, float], direction: float) -> _Pointer | None:
    """What a shape is if its tip is at the origin of `offsets` and it lies along `direction` from there.

    The half width must grow in proportion to the distance from the tip, alike on both sides, up to the head's end; behind it
    there is nothing (arrowhead) or a thin shaft (arrow).

    Parameters
    ----------
    offsets
        (N, 2) from the tip to the shape's pixels.
    wider
        (h, w) the shape and the pixels beside it: an axis that runs beside a line one pixel wide is still on it.
    """
    cosine, sine = math.cos(direction), math.sin(direction)
    along = offsets[:, 0] * cosine + offsets[:, 1] * sine
    across = offsets[:, 1] * cosine - offsets[:, 0] * sine
    length = float(along.max()) + 0.5
    if length < limits.shortest or float(along.min()) < -1.5:
        return None
    bins = np.clip(along, 0, None).astype(np.intp)
    count = int(bins.max()) + 1
    order = bins.argsort()
    occupied, starts = np.unique(bins[order], return_index=True)
    if len(occupied) < 0.95 * count:
        return None
    steps = np.arange(count) + 0.5
    right, left = (
        np.interp(steps, steps[occupied], np.maximum.reduceat(side[order], starts)) + 0.5 for side in (across, -across)
    )
    half = (right + left) / 2
    end = int(half.argmax())
    widest = float(half[end])
    if widest < 2 or end < 2:
        return None
    slope = widest / (end + 0.5)
    if not NARROWEST <= math.degrees(math.atan(slope)) <= WIDEST:
        return None
    head, tail = slice(0, end + 1), slice(end + 1, count)
    misfit = float(np.abs(half[head] - slope * steps[head]).mean()) / widest
    misfit += float(np.abs(right - left)[head].mean()) / 2 / widest
    x = np.clip(tip[0] + steps * cosine, 0, wider.shape[1] - 1).astype(np.intp)
    y = np.clip(tip[1] + steps * sine, 0, wider.shape[0] - 1).astype(np.intp)
    center = wider[y, x]
    notch = float(count if center.all() else int(center.argmin()))
    behind = count - end - 1
    shaft = None
    if behind <= max(2, 0.2 * count):
        if notch < max(3, 0.4 * count):
            return None
    else:
        behind_head = half[end + 1 + behind // 5 :]
        shaft = float(np.median(behind_head))
        if length < limits.shortest_arrow or shaft > limits.shaft * widest:
            return None
        if float(np.abs(behind_head - shaft).mean()) > 0.15 * widest + 0.4 or center[tail].mean() < 0.9:
            return None
    return _Pointer(
        tip, direction, end + 0.5, float(right[end]), float(left[end]), min(notch, end + 0.5), length, shaft, misfit
    )
