"""Annotations as they come from files, brought to the slices that they were drawn on, or a sentence that says why not."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import (
    Annotation,
    ContoursInPatient,
    DrawnOnImage,
    FromFile,
    MaskInPatient,
    OnSlice,
    PointAnnotation,
    Said,
    matched,
)
from ipfvision.core.rasterize import FARTHEST, fill_polygons
from ipfvision.core.slice import PixelSpacing, Plane, Scale, Series, Slice

LARGEST_ANGLE_DEGREES = 1.0
"""Between the planes of an annotation and a slice that still count as parallel; one degree is 3 mm at the chest wall."""
SAME_PLANE_MM = 0.01
"""Planes closer than this are one: positions are written with 2 to 6 decimals."""
ON_LINE_PIXELS = 0.01
"""A pixel center this close to a contour is on it: contours are written in mm with 3 decimals or more."""
MOST_SAMPLES = 8
"""Per side of a slice's pixel, when a finer mask is brought to it."""
FARTHEST_NAMED_MM = 2.5
"""How far a plane may lie from the slice that it names, if a slice spacing is not more: a real RTSTRUCT of rt-utils names the
right slices and puts its planes up to a slice off, because it spreads them evenly over a scan with a slice missing."""
UNKNOWN_THICKNESS_MM = 1.0
"""Taken where a slice stands alone and does not say how thick it is."""

_ROUNDING = 1e-6
"""In pixels: coordinates that meet a border but for rounding all fall on the same side of it."""
_STEPS_AT_ONCE = 2**20

Target: TypeAlias = tuple[int, int]
"""Index of a series, and of a slice in it."""
InPatient: TypeAlias = MaskInPatient | ContoursInPatient


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Annotations on their slices, and what there is to say about the others."""

    by_slice: Mapping[Target, tuple[OnSlice, ...]]
    """Only slices that have an annotation."""
    problems: tuple[str, ...]
    """Why something is not shown: one sentence for each reason, with a count."""
    notes: tuple[str, ...]
    """What a reader should know of what is shown."""


class _Problem(Enum):
    """Why an annotation is on no slice, as the rest of a sentence that begins with how many there are."""

    OTHER_FRAME = (
        "in another frame of reference than the open scan (Frame of Reference UID (0020,0052)); please open the CT that the "
        "annotation was drawn on."
    )
    NAMED_IN_OTHER_FRAME = (
        "that name an open slice (SOP Instance UID (0008,0018)) but not its frame of reference (Frame of Reference UID "
        "(0020,0052)): the file contradicts itself; please export it again from the program that it was drawn in."
    )
    NOWHERE = (
        "on no open slice, neither by SOP Instance UID nor by position; please open the whole series that the annotation was "
        "drawn on."
    )
    NOT_PARALLEL = (
        "on a plane that is not parallel to the open slices; please give an annotation that was drawn on axial slices."
    )
    CONTRADICTION = (
        "with the SOP Instance UID (0008,0018) of one slice and a position elsewhere: the file is damaged; please export it "
        "again."
    )
    OUTSIDE = "entirely outside the area of the slice; please check that the annotation and the CT belong together."
    NO_PLACE = (
        "on a slice whose own position or pixel size is not known (Image Position (Patient) (0020,0032), Pixel Spacing "
        "(0028,0030)); please open the original CT slices."
    )
    AMBIGUOUS = "whose position fits more than one open scan; please open only the scan that the annotation belongs to."
    NO_POSITIONS = (
        "with a position in the patient, which the open pictures do not have; please open the DICOM slices, or give a mask of "
        "the picture's own size."
    )


@dataclass(frozen=True, slots=True)
class _Seat:
    """A slice for an annotation, and how it was found."""

    target: Target
    distance_mm: float
    by_uid: bool
    is_off: bool
    """Farther away than half a slice spacing: then only a SOP Instance UID leads here."""

    @property
    def words(self) -> str:
        how = "SOP Instance UID" if self.by_uid else "position"
        return how if self.by_uid and not self.is_off else f"{how}, {self.distance_mm:.1f} mm away"


def place(items: Sequence[FromFile], series: Sequence[Series]) -> Placed:
    """Put each annotation on the slice that it was drawn on.

    In the patient (SEG, RTSTRUCT, NIfTI): on the slice whose SOP Instance UID it names, unless its plane is elsewhere; else
    on the nearest parallel slice of each series in the same frame of reference, within half a slice spacing and one slice
    thickness. Never on a slice of another frame of reference, and never by position alone where two frames would do. If
    several planes of one region fall on one slice, the nearest is taken, not their union: a slice is one plane, and a union
    would be larger than what was drawn on any.

    On an image (mask, LabelMe, COCO): on the slice of the same file name, else on the only one of the same size.

    Returns
    -------
    A mask on another grid becomes the pixels that it covers at least half (of a coarser one: those whose center it covers).
    Contours become the pixels whose center is inside by the even-odd rule, or on a contour's line: programs that trace a mask
    draw through the centers of its outermost pixels (`cv2.findContours` does). A contour or mask too small for that is not
    lost: of a contour the pixels on its way are taken, of a mask those that it covers most.
    """
    by_slice: defaultdict[Target, list[OnSlice]] = defaultdict(list)
    problems: list[str] = []
    notes: list[str] = []
    _place_in_patient([item for item in items if not isinstance(item, DrawnOnImage)], series, by_slice, problems, notes)
    _place_on_images([item for item in items if isinstance(item, DrawnOnImage)], series, by_slice, problems)
    return Placed(
        {target: tuple(by_slice[target]) for target in sorted(by_slice)}, tuple(dict.fromkeys(problems)), tuple(notes)
    )


def _place_in_patient(
    items: Sequence[InPatient],
    series: Sequence[Series],
    by_slice: defaultdict[Target, list[OnSlice]],
    problems: list[str],
    notes: list[str],
) -> None:
    found = _Found(series)
    refused: Counter[tuple[_Problem, str]] = Counter()
    seated: defaultdict[tuple[Target, Said], list[tuple[_Seat, InPatient]]] = defaultdict(list)
    empty = 0
    for item in items:
        if isinstance(item, ContoursInPatient) and not item.contours:
            empty += 1
            continue
        seats = found.seats(item)
        if isinstance(seats, _Problem):
            refused[seats, _kind(item)] += _count(item)
            continue
        for seat in seats:
            seated[seat.target, item.said].append((seat, item))

    passed_over = 0
    off: list[float] = []
    for (target, _), rivals in seated.items():
        (number, index) = target
        scan = series[number].slices[index]
        nearest = min(rivals, key=_nearness)[0]
        for seat, item in rivals:
            if not _is_point(item) and (
                seat.by_uid != nearest.by_uid or seat.distance_mm > nearest.distance_mm + SAME_PLANE_MM
            ):
                passed_over += 1
                continue
            on_slice = _on_slice(item, scan)
            if isinstance(on_slice, _Problem):
                refused[on_slice, _kind(item)] += _count(item)
            else:
                by_slice[target].append(matched(on_slice, seat.words))
                if seat.is_off:
                    off.append(seat.distance_mm)

    problems += [f"Not shown: {_counted(many, kind)} {problem.value}" for (problem, kind), many in refused.items()]
    if passed_over:
        notes.append(
            f"Of several planes of one region on one slice the nearest was taken; {_counted(passed_over, 'plane')} farther "
            "away not."
        )
    if off:
        notes.append(
            f"{_counted(len(off), 'annotation')} up to {max(off):.1f} mm away from the slice that the file names by SOP "
            "Instance UID: shown on that slice."
        )
    if empty:
        notes.append(f"{_counted(empty, 'region')} without a closed contour: nothing to show.")


def _nearness(rival: tuple[_Seat, InPatient]) -> tuple[bool, float]:
    return not rival[0].by_uid, rival[0].distance_mm


class _Found:
    """Where the open slices lie, asked once for each annotation."""

    def __init__(self, series: Sequence[Series]) -> None:
        self._series = series
        self._by_uid: defaultdict[str, list[Target]] = defaultdict(list)
        self._reach: dict[Target, float] = {}
        self._has_planes = False
        for number, one in enumerate(series):
            reach = _reach(one.slices)
            for index, scan in enumerate(one.slices):
                if scan.source.sop_instance_uid is not None:
                    self._by_uid[scan.source.sop_instance_uid].append((number, index))
                if scan.plane is not None:
                    self._has_planes = True
                    self._reach[number, index] = reach[index]
        self._stacks = [_stack(one.slices) for one in series]

    def seats(self, item: InPatient) -> list[_Seat] | _Problem:
        """At least one slice, or why there is none."""
        uids = item.sop_instance_uids if isinstance(item, MaskInPatient) else (item.sop_instance_uid,)
        named = [target for uid in uids if uid is not None for target in self._by_uid.get(uid, ())]
        if named:
            return self._named(item, named)
        if not self._has_planes:
            return _Problem.NO_POSITIONS
        return self._by_position(item, names_others=any(uid is not None for uid in uids))

    def _named(self, item: InPatient, targets: Sequence[Target]) -> list[_Seat] | _Problem:
        seats = []
        problem = _Problem.CONTRADICTION
        for target in dict.fromkeys(targets):
            scan = self._slice(target)
            if not _may_share_frame(item, scan):
                problem = _Problem.NAMED_IN_OTHER_FRAME
            elif scan.plane is None:
                problem = _Problem.NO_PLACE
            elif (distance := _distance(item, scan.plane)) is None:
                problem = _Problem.NOT_PARALLEL
            elif distance <= max(2 * self._reach[target], FARTHEST_NAMED_MM):
                is_off = distance > self._reach[target] + SAME_PLANE_MM
                seats.append(_Seat(target, distance, by_uid=True, is_off=is_off))
        # Of an Enhanced CT all frames have one UID.
        return [min(seats, key=lambda seat: seat.distance_mm)] if seats else problem

    def _by_position(self, item: InPatient, *, names_others: bool) -> list[_Seat] | _Problem:
        problems = []
        seats = []
        for number, (indices, normal, offsets) in enumerate(self._stacks):
            if not len(indices):
                continue
            middle = _middle(item)
            near = int(np.argmin(np.abs(offsets - normal @ middle)))
            target = (number, int(indices[near]))
            scan = self._slice(target)
            if scan.plane is None:
                continue
            if not _may_share_frame(item, scan):
                problems.append(_Problem.OTHER_FRAME)
            elif names_others and not _shares_frame(item, scan):
                # It says which slices it was drawn on, these are not the ones, and nothing else ties it to this patient.
                problems.append(_Problem.NOWHERE)
            elif (distance := _distance(item, scan.plane)) is None:
                problems.append(_Problem.NOT_PARALLEL)
            elif distance > self._reach[target] + SAME_PLANE_MM:
                problems.append(_Problem.NOWHERE)
            else:
                seats.append(_Seat(target, distance, by_uid=False, is_off=False))
        if not seats:
            return next(problem for problem in _BY_WEIGHT if problem in problems)
        frames = {self._slice(seat.target).source.frame_of_reference_uid for seat in seats}
        if len(seats) > 1 and (len(frames) > 1 or None in frames):
            return _Problem.AMBIGUOUS
        return seats

    def _slice(self, target: Target) -> Slice:
        return self._series[target[0]].slices[target[1]]


_BY_WEIGHT = (_Problem.NOT_PARALLEL, _Problem.NOWHERE, _Problem.OTHER_FRAME)
"""What to say where the open series disagree: what the series in the right frame of reference says, first."""


def _stack(
    slices: Sequence[Slice],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Indices of the slices that have a plane, their common normal, and where each lies along it in mm."""
    planes = [(index, scan.plane) for index, scan in enumerate(slices) if scan.plane is not None]
    if not planes:
        return np.empty(0, np.int64), np.zeros(3), np.empty(0)
    normal = planes[0][1].normal
    offsets = [float(normal @ np.asarray(plane.position)) for _, plane in planes]
    return np.array([index for index, _ in planes]), normal, np.array(offsets)


def _reach(slices: Sequence[Slice]) -> list[float]:
    """How far from each slice a plane may lie, in mm: half the way to the nearer neighbor, and at most one slice thickness.

    The thickness counts where few slices of a scan are open, or where it was taken with gaps.
    """
    indices, _, offsets = _stack(slices)
    reach = [0.0] * len(slices)
    for index, offset in zip(indices, offsets, strict=True):
        ways = np.abs(offsets - offset)
        ways = ways[ways > SAME_PLANE_MM]
        thickness = slices[index].thickness_mm
        if len(ways):
            half = float(ways.min()) / 2
            reach[index] = half if thickness is None else min(half, thickness)
        else:
            reach[index] = (thickness or UNKNOWN_THICKNESS_MM) / 2
    return reach


def _may_share_frame(item: InPatient, scan: Slice) -> bool:
    frames = {item.frame_of_reference_uid, scan.source.frame_of_reference_uid} - {None}
    return len(frames) < 2


def _shares_frame(item: InPatient, scan: Slice) -> bool:
    return item.frame_of_reference_uid is not None and item.frame_of_reference_uid == scan.source.frame_of_reference_uid


def _middle(item: InPatient) -> npt.NDArray[np.float64]:
    """(3,) a point in the middle of the annotation's plane, in mm."""
    if isinstance(item, ContoursInPatient):
        return np.asarray(np.concatenate(item.contours).mean(axis=0))
    rows, columns = item.mask.shape
    return _in_patient(item.plane, item.spacing, (columns - 1) / 2, (rows - 1) / 2)


def _in_patient(plane: Plane, spacing: PixelSpacing, column: float, row: float) -> npt.NDArray[np.float64]:
    """Center of pixel (column, row) in mm (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1)."""
    along_row, along_column = np.asarray(plane.row) * spacing.column_mm, np.asarray(plane.column) * spacing.row_mm
    return np.asarray(np.asarray(plane.position) + along_row * column + along_column * row)


def _distance(item: InPatient, plane: Plane) -> float | None:
    """How far the annotation's plane is from the slice's, in mm; None if they are not parallel."""
    if isinstance(item, MaskInPatient):
        if abs(float(item.plane.normal @ plane.normal)) < np.cos(np.radians(LARGEST_ANGLE_DEGREES)):
            return None
        return abs(float(plane.normal @ (_middle(item) - np.asarray(plane.position))))
    points = np.concatenate(item.contours)
    along = (points - np.asarray(plane.position)) @ plane.normal
    extent = float(np.linalg.norm(np.ptp(points, axis=0)))
    if float(np.ptp(along)) > np.sin(np.radians(LARGEST_ANGLE_DEGREES)) * extent + SAME_PLANE_MM:
        return None
    return abs(float(along.mean()))


def _is_point(item: InPatient) -> bool:
    return isinstance(item, ContoursInPatient) and len(item.contours) == 1 and len(item.contours[0]) == 1


def _kind(item: InPatient) -> str:
    if isinstance(item, MaskInPatient):
        return "mask"
    return "point" if _is_point(item) else "contour"


def _count(item: InPatient) -> int:
    return 1 if isinstance(item, MaskInPatient) else len(item.contours)


def _counted(many: int, what: str) -> str:
    return f"1 {what}" if many == 1 else f"{many:,} {what}s"


def _on_slice(item: InPatient, scan: Slice) -> OnSlice | _Problem:
    if scan.plane is None or scan.spacing is None:
        return _Problem.NO_PLACE
    if isinstance(item, MaskInPatient):
        mask = _resampled(item, scan.plane, scan.spacing, scan.shape)
        return _Problem.OUTSIDE if mask is None else Annotation(mask, item.said)
    contours = [_in_pixels(contour, scan.plane, scan.spacing) for contour in item.contours]
    rows, columns = scan.shape
    if _is_point(item):
        x, y = contours[0][0].tolist()
        return PointAnnotation(x, y, item.said) if 0 <= x < columns and 0 <= y < rows else _Problem.OUTSIDE
    if any(np.abs(contour).max() > FARTHEST for contour in contours):
        return _Problem.OUTSIDE
    mask = trace(contours, scan.shape)
    return Annotation(mask, item.said) if mask.any() else _Problem.OUTSIDE


def _in_pixels(points: npt.NDArray[np.float64], plane: Plane, spacing: PixelSpacing) -> npt.NDArray[np.float64]:
    """(N, 2): x, y of points in mm, seen along the normal, in continuous slice coordinates."""
    relative = points - np.asarray(plane.position)
    x = relative @ np.asarray(plane.row) / spacing.column_mm
    y = relative @ np.asarray(plane.column) / spacing.row_mm
    return np.stack([x + 0.5, y + 0.5], axis=1)


def _resampled(
    item: MaskInPatient, plane: Plane, spacing: PixelSpacing, shape: tuple[int, int]
) -> npt.NDArray[np.bool_] | None:
    """The mask on a slice's own pixels; None if none of it lies within the slice."""
    mask = np.zeros(shape, np.bool_)
    drawn = np.argwhere(item.mask)
    if not len(drawn):
        return mask
    (top, left), (bottom, right) = drawn.min(axis=0), drawn.max(axis=0) + 1
    corners = np.array([_in_patient(item.plane, item.spacing, x - 0.5, y - 0.5) for x in (left, right) for y in (top, bottom)])
    reach = _in_pixels(corners, plane, spacing)
    limit = np.array(shape[::-1])
    first = np.clip(np.floor(reach.min(axis=0) + _ROUNDING), 0, limit).astype(int)
    last = np.clip(np.ceil(reach.max(axis=0) - _ROUNDING), 0, limit).astype(int)
    if (first >= last).any():
        return None

    origin, right_by_one, down_by_one = (
        _in_pixels(point[None], item.plane, item.spacing)[0]
        for point in (_in_patient(plane, spacing, x, y) for x, y in ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5)))
    )
    to_right, down = right_by_one - origin, down_by_one - origin
    # Mask pixels along each side of a slice's pixel: more than one means that the mask is finer.
    ratio = float(np.abs([to_right, down]).max())
    samples = 1 if ratio <= 1.01 else 2 * int(np.ceil(min(ratio, MOST_SAMPLES / 2)))
    covered = np.zeros((last[1] - first[1], last[0] - first[0]))
    for share_y in (np.arange(samples) + 0.5) / samples:
        for share_x in (np.arange(samples) + 0.5) / samples:
            x, y = np.arange(first[0], last[0]) + share_x, (np.arange(first[1], last[1]) + share_y)[:, None]
            column, row = (origin[axis] + to_right[axis] * x + down[axis] * y for axis in (0, 1))
            covered += _at(item.mask, np.floor(column + _ROUNDING), np.floor(row + _ROUNDING))
    if not covered.any():
        covered = _at_middle(drawn, item, plane, spacing, (first, last))
        if not covered.any():
            return None
    enough = min(samples**2 / 2, float(covered.max()))
    mask[first[1] : last[1], first[0] : last[0]] = covered >= enough
    return mask


def _at(mask: npt.NDArray[np.bool_], column: npt.NDArray[np.float64], row: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    rows, columns = mask.shape
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    return np.asarray(
        inside & mask[np.clip(row, 0, rows - 1).astype(int), np.clip(column, 0, columns - 1).astype(int)], np.bool_
    )


def _at_middle(
    drawn: npt.NDArray[np.int64],
    item: MaskInPatient,
    plane: Plane,
    spacing: PixelSpacing,
    window: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> npt.NDArray[np.float64]:
    """1 where the center of a drawn mask pixel lies: for what is so small that it falls between all samples."""
    first, last = window
    hit = np.zeros((last[1] - first[1], last[0] - first[0]))
    points = np.array([_in_patient(item.plane, item.spacing, column, row) for row, column in drawn])
    x, y = np.floor(_in_pixels(points, plane, spacing) + _ROUNDING).astype(int).T
    inside = (x >= first[0]) & (x < last[0]) & (y >= first[1]) & (y < last[1])
    hit[y[inside] - first[1], x[inside] - first[0]] = 1
    return hit


def trace(contours: Sequence[npt.NDArray[np.float64]], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels of closed contours by the rules of `place`: inside by even-odd, or on a line; none too small to be seen.

    Parameters
    ----------
    contours
        Each (N, 2): x, y in continuous slice coordinates, at most `FARTHEST`. They may reach beyond the slice.

    Returns
    -------
    (H, W) bool, a new array.
    """
    mask = fill_polygons(contours, shape)
    small = np.zeros(shape, np.bool_)
    for contour in contours:
        is_lost = not (len(contours) == 1 and mask.any()) and not fill_polygons([contour], shape).any()
        for column, row, error in _way(contour, shape):
            on_line = error <= ON_LINE_PIXELS
            mask[row[on_line], column[on_line]] = True
            is_lost = is_lost and not on_line.any()
        if is_lost:
            _mark_small(small, contour)
    return np.asarray(mask | small, np.bool_)


def _mark_small(mask: npt.NDArray[np.bool_], contour: npt.NDArray[np.float64]) -> None:
    """Mark the pixel that a contour without any pixel center lies in, or, if it is longer than a pixel, those on its way."""
    rows, columns = mask.shape
    x, y = np.floor((contour.min(axis=0) + contour.max(axis=0)) / 2).tolist()
    if (np.ptp(contour, axis=0) < 1).all():
        if 0 <= x < columns and 0 <= y < rows:
            mask[int(y), int(x)] = True
        return
    for column, row, _ in _way(contour, mask.shape):
        mask[row, column] = True


def _way(
    contour: npt.NDArray[np.float64], shape: tuple[int, int]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Walk a closed contour from pixel center to pixel center along the longer direction of each edge.

    Yields
    ------
    Columns and rows of the nearest pixels of the slice, and how far in pixels the line passes from each one's center.
    """
    start = contour - 0.5
    end = np.roll(start, -1, axis=0)
    steep = np.abs(end - start)[:, 1] > np.abs(end - start)[:, 0]
    for is_steep in (False, True):
        # Along the first axis of these the edge is longer; a pixel center has whole numbers.
        axes = [1, 0] if is_steep else [0, 1]
        first, last = start[steep == is_steep][:, axes], end[steep == is_steep][:, axes]
        low, high = np.minimum(first[:, 0], last[:, 0]), np.maximum(first[:, 0], last[:, 0])
        begin = np.clip(np.ceil(low - ON_LINE_PIXELS), 0, None)
        counts = np.clip(np.floor(high + ON_LINE_PIXELS), None, shape[1 - axes[0]] - 1) - begin + 1
        counts = np.clip(counts, 0, None).astype(np.int64)
        group = np.cumsum(counts) // _STEPS_AT_ONCE
        for part in np.split(np.arange(len(counts)), np.flatnonzero(np.diff(group)) + 1):
            many = counts[part]
            edge = np.repeat(part, many)
            along = begin[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(many) - many, many)
            length = (last - first)[edge, 0]
            share = np.clip((along - first[edge, 0]) / np.where(length == 0, 1, length), 0, 1)
            across = first[edge, 1] + share * (last - first)[edge, 1]
            nearest = np.floor(across + 0.5 + _ROUNDING)
            inside = (nearest >= 0) & (nearest < shape[axes[0]])
            way = (along[inside].astype(np.int64), nearest[inside].astype(np.int64))
            yield way[axes[0]], way[axes[1]], np.abs(across - nearest)[inside]


_ENDINGS = re.compile(r"(\.nii)?\.[a-z0-9]{1,5}$")
_KIND = r"masks?|annotations?|labels?|seg(mentation)?|roi"
_FINDING = r"honeycomb\w*|reticul\w*|ggo|ground[ _-]?glass|(subpleural[ _-])?cysts?|traction([ _-]?bronchi\w*)?"
_ADDED = re.compile(rf"^({_KIND})[ _.-]+(?=.)|([ _.-]*({_KIND})|[ _.-]+({_FINDING}))+$")


def stem(name: str) -> str:
    """A file's name without folder, ending, and what is commonly added to an annotation's name.

    "scan/slice_07.png", "slice_07_mask.png", "mask_slice_07.tif" and "slice_07_honeycombing.png" are one.
    """
    bare = _ENDINGS.sub("", PurePosixPath(name.replace("\\", "/")).name.lower())
    return _ADDED.sub("", bare) or bare


def _place_on_images(
    items: Sequence[DrawnOnImage],
    series: Sequence[Series],
    by_slice: defaultdict[Target, list[OnSlice]],
    problems: list[str],
) -> None:
    slices = {(i, j): scan for i, one in enumerate(series) for j, scan in enumerate(one.slices)}
    by_stem: defaultdict[str, list[Target]] = defaultdict(list)
    for target, scan in slices.items():
        by_stem[stem(scan.source.file)].append(target)
    names: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.image_name is not None and item.on.said.origin != "mask":
            names[item.on.said.origin].add(stem(item.image_name))

    refused: Counter[str] = Counter()
    for item in items:
        alike = [] if item.image_name is None else by_stem.get(stem(item.image_name), [])
        # A mask's own name says little, but LabelMe and COCO name the image. A DICOM slice may have been exported to it.
        named = item.image_name is not None and item.on.said.origin != "mask"
        others = [target for target, scan in slices.items() if not named or scan.scale is Scale.HOUNSFIELD]
        fitting = [target for target in alike or others if slices[target].shape == item.image_shape]
        size = _size(item.image_shape)
        if alike and not fitting:
            sizes = " and ".join(sorted({_size(slices[target].shape) for target in alike}))
            refused[
                f"drawn on an image of {size} pixels, and the slice of that name has {sizes}; please give an annotation of "
                "the slice's own size."
            ] += 1
        elif not alike and (len(names[item.on.said.origin]) > 1 or (named and not others)):
            # One slice of the right size does not make the annotations of a whole collection its own.
            refused["of other images than the open ones; please open the images that the annotation names."] += 1
        elif not fitting:
            refused[
                f"drawn on an image of {size} pixels, and no open slice has that size; please open the slice that it was "
                "drawn on."
            ] += 1
        elif len(fitting) > 1:
            refused[
                f"drawn on an image of {size} pixels, which {len(fitting):,} open slices "
                f"{'of that name ' if alike else ''}have, so whose it is is not known; please name its file like the slice."
            ] += 1
        else:
            by_slice[fitting[0]].append(matched(item.on, "file name" if alike else "only slice of this size"))
    problems += [f"Not shown: {_counted(many, 'annotation')} {why}" for why, many in refused.items()]


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
