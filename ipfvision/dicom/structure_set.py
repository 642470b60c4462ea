"""RT Structure Set (RTSTRUCT) to contours in the patient."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ipfvision.core.annotation import ContoursInPatient, Said, finding_of
from ipfvision.dicom.attributes import Attributes
from ipfvision.errors import InputRefused, NotAnImage, TooLarge

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
MOST_POINTS = 2**23
"""Of all contours together: 100 regions on 300 slices with 280 points each."""
FARTHEST_MM = 1e5
"""No coordinate of a patient in a scanner is larger."""
SAME_PLANE_MM = 0.05
"""Contours of one region closer than this along its normal lie on one plane, where a contour in another is a hole."""

_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR", None}
"""Contour Geometric Type (3006,0042). Old files leave it out; all contours were closed then."""


@dataclass(frozen=True, slots=True, eq=False)
class _Contour:
    points: npt.NDArray[np.float64]
    uid: str | None


def read_structure_set(dataset: Dataset) -> tuple[ContoursInPatient, ...]:
    """The closed contours of each region, plane by plane, and its points one by one.

    A region without a closed contour or a point comes once, without contours: an open line encloses nothing. Use inside
    `quiet`.
    """
    attributes = Attributes(dataset)
    _check_whole(dataset)
    names: dict[int, str] = {}
    frames: dict[int, str | None] = {}
    reference = attributes.item(0x30060010)
    common_frame = (reference.uid(0x00200052) if reference else None) or attributes.uid(0x00200052)
    for region in attributes.items(0x30060020):
        number = region.integer(0x30060022)
        if number is not None:
            names[number] = region.text(0x30060026) or f"region {number}"
            frames[number] = region.uid(0x30060024) or common_frame
    uses = Counter(names.values())

    found: list[ContoursInPatient] = []
    left = MOST_POINTS
    for roi in _items(dataset, 0x30060039):
        number = Attributes(roi).integer(0x30060084)
        name = names.get(number, "") if number is not None else ""
        label = name if uses[name] < 2 else f"{name} ({number})"
        said = Said(finding_of(name), "RTSTRUCT", label, "RTSTRUCT")
        frame = frames.get(number, common_frame) if number is not None else common_frame
        closed, points = [], []
        for item in _items(roi, 0x30060040):
            contour = _contour(item, left)
            left -= len(contour.points)
            kind = Attributes(item).text(0x30060042)
            if kind == "POINT" or (kind in _CLOSED and len(contour.points) == 1):
                points += [_Contour(point[None], contour.uid) for point in contour.points]
            elif kind in _CLOSED and len(contour.points):
                closed.append(contour)
        planes = [*_planes(closed), *([point] for point in points)]
        found += [ContoursInPatient(tuple(one.points for one in plane), said, plane[0].uid, frame) for plane in planes] or [
            ContoursInPatient((), said, None, frame)
        ]
    if not any(item.contours for item in found):
        raise InputRefused(
            "This RTSTRUCT holds no closed contour and no point (ROI Contour Sequence (3006,0039)): there is nothing to show."
        )
    return tuple(found)


def _check_whole(dataset: Dataset) -> None:
    """Refuse a file that ends inside an element: pydicom gives the regions before the end as if they were all."""
    for tag in dataset.keys():  # noqa: SIM118  a Dataset iterates over elements, and would convert them
        raw = dataset.get_item(tag)
        length, value = getattr(raw, "length", None), getattr(raw, "value", None)
        if isinstance(value, bytes) and length not in (None, 0xFFFFFFFF) and len(value) < length:
            raise NotAnImage("This RTSTRUCT is truncated: it ends in the middle of its contours; please export it again.")


def _items(dataset: Dataset, tag: int) -> Sequence[Dataset]:
    """Items of a sequence as pydicom has them, so that the text of a contour is not converted number by number."""
    value = Attributes(dataset).value(tag)
    return [] if value is None or isinstance(value, (str, bytes)) else [item for item in value if isinstance(item, Dataset)]


def _contour(item: Dataset, most: int) -> _Contour:
    raw = item.get_item(0x30060050) if 0x30060050 in item else None
    text = getattr(raw, "value", None)
    converted = () if isinstance(text, bytes) else Attributes(item).numbers(0x30060050)
    many = text.count(b"\\") + 1 if isinstance(text, bytes) else len(converted)
    if many > 3 * most:
        raise TooLarge(
            f"This RTSTRUCT holds more than {MOST_POINTS:,} points (Contour Data (3006,0050)), more than are read here; please "
            "export fewer regions."
        )
    try:
        numbers = text.strip(b" \0").split(b"\\") if isinstance(text, bytes) else converted
        points = np.array([] if numbers == [b""] else numbers, np.float64).reshape(-1, 3)
    except ValueError:
        _refuse_numbers()
    if len(points) and not (np.abs(points) <= FARTHEST_MM).all():
        _refuse_numbers()
    image = Attributes(item).item(0x30060016)
    return _Contour(points, image.uid(0x00081155) if image is not None else None)


def _refuse_numbers() -> NoReturn:
    raise NotAnImage(
        "A contour of this RTSTRUCT is damaged: its points (Contour Data (3006,0050)) are not three coordinates in mm each; "
        "please export it again."
    ) from None


def _planes(contours: Sequence[_Contour]) -> list[list[_Contour]]:
    """Contours of one region put together by plane: by the slice that they name, and by their place along the normal."""
    if not contours:
        return []
    normal = _normal(contours)
    by_slice: defaultdict[str | None, list[tuple[float, int]]] = defaultdict(list)
    for index, contour in enumerate(contours):
        by_slice[contour.uid].append((float((contour.points @ normal).mean()), index))
    planes = []
    for places in by_slice.values():
        previous = -np.inf
        for place, index in sorted(places):
            if place - previous > SAME_PLANE_MM:
                planes.append([contours[index]])
            else:
                planes[-1].append(contours[index])
            previous = place
    return planes


def _normal(contours: Sequence[_Contour]) -> npt.NDArray[np.float64]:
    """(3,) unit normal of the contour with the largest area (Newell's sum); the patient's long axis if none has one."""
    sums = [np.cross(one.points, np.roll(one.points, -1, axis=0)).sum(axis=0) for one in contours]
    largest = max(sums, key=lambda one: float(np.linalg.norm(one)))
    length = float(np.linalg.norm(largest))
    return np.asarray(largest / length if length > 1e-6 else np.array([0.0, 0.0, 1.0]))
