"""Outlines, boxes and points that were drawn on pictures in LabelMe, or are listed in COCO's format.

Both count pixels as `ipfvision.core.geometry` does, continuously from the picture's top left corner: LabelMe draws the picture
with that corner at (0, 0), and COCO's data format says "0-indexed from the top left image corner". Outlines become pixels by
the rule for contours (`ipfvision.core.placement.trace`). LabelMe's own program and pycocotools draw along the outline too, so
that theirs are up to half a pixel larger.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import (
    Annotation,
    AnnotationFile,
    BoxAnnotation,
    DrawnOnImage,
    FromFile,
    OnSlice,
    PointAnnotation,
    Said,
    finding_of,
)
from ipfvision.core.placement import trace
from ipfvision.core.rasterize import FARTHEST, crosses_itself
from ipfvision.errors import AnnotationUnusable, InputRefused, NotAnAnnotation, TooLarge

LARGEST_FILE = 2**26
"""Bytes; parsed it takes up to twenty times as much. The picture that LabelMe puts into its file takes most of it."""
MOST_PIXELS = 2**24
"""Of one image, as for pictures (`ipfvision.images.MOST_PIXELS`)."""
MOST_MASK_PIXELS = 2**29
"""Of all masks of one file together: 2,048 areas on slices of 512 x 512."""
MOST_CORNERS = 2**17
"""Of one area."""
LONGEST_LABEL = 64

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITESPACE = b" \t\r\n"

Polygon = npt.NDArray[np.float64]


def is_json(content: bytes) -> bool:
    """Whether the content begins like a JSON object or list."""
    return content[:1024].removeprefix(_BYTE_ORDER_MARK).lstrip(_WHITESPACE)[:1] in (b"{", b"[")


def is_annotation(content: bytes) -> bool:
    """Whether the content is JSON with the names that LabelMe or COCO use, unparsed: enough to tell it from other JSON."""
    return is_json(content) and (b'"shapes"' in content or (b'"annotations"' in content and b'"images"' in content))


def read(
    content: bytes, is_open: Callable[[str], bool], read_drawn: Callable[[bytes], npt.NDArray[np.bool_]]
) -> AnnotationFile:
    """Read LabelMe's or COCO's JSON.

    LabelMe's polygons, circles and masks become masks, rectangles boxes and points points; a line encloses no area and is left
    out. COCO's polygons become one mask, the union of their parts, its run lengths a mask (they go down the columns), and an
    annotation with nothing but a `bbox` a box. Where an outline crosses itself, what it winds around twice is outside.

    Parameters
    ----------
    content
        UTF-8, -16 or -32.
    is_open
        Whether a picture of this file name is open: of a COCO file on several images only those are read.
    read_drawn
        From a PNG to the (h, w) pixels that are drawn in it: how LabelMe stores a mask.

    Raises
    ------
    NotAnAnnotation
        If it is neither LabelMe nor COCO.
    AnnotationUnusable
        If it is damaged, holds nothing to show, or is about several images of which none is open.
    TooLarge
        If the file, an image or the masks of the file exceed the limits.
    """
    if len(content) > LARGEST_FILE:
        raise TooLarge(
            f"This JSON file is larger than {LARGEST_FILE // 2**20} MB; please give the annotations of the open slices alone."
        )
    try:
        found = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise AnnotationUnusable("This JSON file is damaged or incomplete; please export it again.") from None
    if isinstance(found, dict) and isinstance(found.get("shapes"), list):
        return _labelme(found, read_drawn)
    if isinstance(found, dict) and isinstance(found.get("annotations"), list) and isinstance(found.get("images"), list):
        return _coco(found, is_open)
    raise NotAnAnnotation(
        "This JSON file is neither LabelMe's (with `shapes`) nor COCO's (with `images` and `annotations`); please export the "
        "annotations in one of these."
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


class _UnreadableError(Exception):
    """One annotation that makes no sense; the others of its file do."""


@dataclass(slots=True)
class _Sheet:
    """What was read of one file so far, and what was not."""

    format: str
    items: list[FromFile] = field(default_factory=list)
    pixels: int = 0
    lines: int = 0
    unreadable: int = 0
    outside: int = 0
    crossing: int = 0

    def said(self, label: object) -> Said:
        words = " ".join("".join(c if c.isprintable() else " " for c in label).split()) if isinstance(label, str) else ""
        return Said(finding_of(words), reader=self.format, label=words[:LONGEST_LABEL], origin=self.format)

    def add(self, on: OnSlice | None, shape: tuple[int, int], name: str | None) -> None:
        """Keep an annotation; None is one that lies outside its image."""
        if on is None:
            self.outside += 1
            return
        self.items.append(DrawnOnImage(on, shape, name))

    def count_mask(self, shape: tuple[int, int]) -> None:
        """Before a mask is drawn."""
        self.pixels += shape[0] * shape[1]
        if self.pixels > MOST_MASK_PIXELS:
            raise TooLarge(
                f"This {self.format} file holds more than {MOST_MASK_PIXELS // 2**18:,} areas on slices of 512 x 512; please "
                "give the annotations of fewer slices at a time."
            )

    def fill(self, polygons: Sequence[Polygon], shape: tuple[int, int], said: Said) -> Annotation | None:
        """The union of polygons."""
        if sum(map(len, polygons)) > MOST_CORNERS:
            raise _UnreadableError
        self.count_mask(shape)
        self.crossing += any(crosses_itself(polygon) for polygon in polygons)
        mask = np.zeros(shape, np.bool_)
        for polygon in polygons:
            mask |= trace([polygon], shape)
        return Annotation(mask, said) if mask.any() else None

    def finish(self) -> AnnotationFile:
        notes = [
            f"{_counted(many, 'annotation')} of this {self.format} file {what}"
            for many, what in (
                (self.lines, "left out: a line encloses no area."),
                (self.unreadable, "left out: their numbers are missing, damaged or do not fit their image."),
                (self.outside, "left out: entirely outside their image."),
                (self.crossing, "with an outline that crosses itself: what it winds around twice was taken as outside."),
            )
            if many
        ]
        if not self.items:
            raise AnnotationUnusable(
                " ".join(notes) or f"This {self.format} file holds no annotation; please check that it was saved."
            )
        return AnnotationFile(tuple(self.items), tuple(notes))


def _counted(many: int, what: str) -> str:
    return f"1 {what}" if many == 1 else f"{many:,} {what}s"


def _labelme(found: dict[str, Any], read_drawn: Callable[[bytes], npt.NDArray[np.bool_]]) -> AnnotationFile:
    sheet = _Sheet("LabelMe")
    shape = _shape(found.get("imageHeight"), found.get("imageWidth"))
    if shape is None:
        raise AnnotationUnusable(
            "This LabelMe file does not say how large its image is (imageHeight, imageWidth), so it cannot be put on a slice; "
            "please save it again."
        )
    name = _file_name(found.get("imagePath"))
    for drawn in found["shapes"]:
        try:
            if not isinstance(drawn, dict):
                raise _UnreadableError  # noqa: TRY301  like the others of this loop, raised deeper
            points, said = _points(drawn.get("points")), sheet.said(drawn.get("label"))
            kind = drawn.get("shape_type") or "polygon"
            if kind in ("line", "linestrip"):
                sheet.lines += 1
            elif kind in ("point", "points"):
                for x, y in points.tolist():
                    sheet.add(_point(x, y, shape, said), shape, name)
            elif kind == "polygon" and len(points) >= 3:
                sheet.add(sheet.fill([points], shape, said), shape, name)
            elif kind == "rectangle" and len(points) >= 2:
                (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
                sheet.add(_box(left, top, right, bottom, shape, said), shape, name)
            elif kind == "circle" and len(points) == 2:
                sheet.count_mask(shape)
                sheet.add(_disc(points, shape, said), shape, name)
            elif kind == "mask" and len(points) == 2:
                sheet.count_mask(shape)
                sheet.add(_stored_mask(drawn.get("mask"), points, shape, said, read_drawn), shape, name)
            else:
                sheet.unreadable += 1
        except _UnreadableError:
            sheet.unreadable += 1
    return sheet.finish()


def _coco(found: dict[str, Any], is_open: Callable[[str], bool]) -> AnnotationFile:
    sheet = _Sheet("COCO")
    images = {_key(image.get("id")): image for image in found["images"] if isinstance(image, dict)}
    annotations = [one for one in found["annotations"] if isinstance(one, dict)]
    sheet.unreadable = len(found["annotations"]) - len(annotations)
    annotated = {_key(one.get("image_id")) for one in annotations} & set(images)
    chosen = {key for key in annotated if is_open(_file_name(images[key].get("file_name")) or "")}
    if not chosen:
        if len(images) > 1:
            raise AnnotationUnusable(
                f"This COCO file is about {len(images):,} images, and none that it annotates is open; please open the images "
                "by the file names that it gives."
            )
        chosen = annotated
    categories = found.get("categories")
    names = {
        _key(category.get("id")): category.get("name")
        for category in (categories if isinstance(categories, list) else [])
        if isinstance(category, dict)
    }
    for one in annotations:
        key = _key(one.get("image_id"))
        if key not in chosen:
            sheet.unreadable += key not in images
            continue
        image = images[key]
        shape = _shape(image.get("height"), image.get("width"))
        try:
            if shape is None:
                raise _UnreadableError  # noqa: TRY301  like the others of this loop, raised deeper
            on = _coco_area(one, shape, sheet, sheet.said(names.get(_key(one.get("category_id")))))
            sheet.add(on, shape, _file_name(image.get("file_name")))
        except _UnreadableError:
            sheet.unreadable += 1
    return sheet.finish()


def _coco_area(one: dict[str, Any], shape: tuple[int, int], sheet: _Sheet, said: Said) -> OnSlice | None:
    area, box = one.get("segmentation"), one.get("bbox")
    if isinstance(area, dict):
        sheet.count_mask(shape)
        mask = _run_lengths(area, shape)
        return Annotation(mask, said) if mask.any() else None
    if isinstance(area, list) and area:
        parts = area if isinstance(area[0], list) else [area]
        polygons = [_pairs(part) for part in parts]
        return sheet.fill(polygons, shape, said)
    if isinstance(box, list) and len(box) == 4:
        x, y, width, height = map(_number, box)
        return _box(x, y, x + width, y + height, shape, said)
    raise _UnreadableError


def _run_lengths(area: dict[str, Any], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Runs of 0 and 1 in turn, down the columns, the first of 0 (COCO's maskApi.h); packed as text or plain."""
    size, counts = area.get("size"), area.get("counts")
    if not isinstance(size, list) or size != list(shape):
        raise _UnreadableError
    runs = _unpacked(counts, shape) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or any(type(run) is not int or run < 0 for run in runs) or sum(runs) != shape[0] * shape[1]:
        raise _UnreadableError
    drawn = np.arange(len(runs)) % 2 == 1
    return np.repeat(drawn, runs).reshape(shape, order="F")


def _unpacked(text: str, shape: tuple[int, int]) -> list[int]:
    """Runs from COCO's text: five bits a character from 48 on, least first, a sixth bit for "more follows".

    From the fourth run on it is the difference to the run before the last one (`rleFrString` in maskApi.c).
    """
    runs: list[int] = []
    value = bits = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or bits > 30 or len(runs) > shape[0] * shape[1]:
            raise _UnreadableError
        value |= (digit & 31) << bits
        bits += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << bits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    if bits:
        raise _UnreadableError
    return runs


def _point(x: float, y: float, shape: tuple[int, int], said: Said) -> PointAnnotation | None:
    return PointAnnotation(x, y, said) if 0 <= x < shape[1] and 0 <= y < shape[0] else None


def _box(left: float, top: float, right: float, bottom: float, shape: tuple[int, int], said: Said) -> BoxAnnotation | None:
    """Cut to the image; None if none of it is inside."""
    if not (left < right and top < bottom):
        raise _UnreadableError
    left, top, right, bottom = max(0.0, left), max(0.0, top), min(float(shape[1]), right), min(float(shape[0]), bottom)
    return BoxAnnotation(left, top, right, bottom, said) if left < right and top < bottom else None


def _disc(points: Polygon, shape: tuple[int, int], said: Said) -> Annotation | None:
    """From the center and a point on the rim: the pixels whose centers are inside, or the one that holds the center."""
    (x, y), radius = points[0], float(np.linalg.norm(points[1] - points[0]))
    row, column = np.arange(shape[0])[:, None] + 0.5, np.arange(shape[1]) + 0.5
    mask = np.asarray((column - x) ** 2 + (row - y) ** 2 <= radius**2, np.bool_)
    if not mask.any() and 0 <= x < shape[1] and 0 <= y < shape[0]:
        mask[int(y), int(x)] = True
    return Annotation(mask, said) if mask.any() else None


def _stored_mask(
    stored: object,
    points: Polygon,
    shape: tuple[int, int],
    said: Said,
    read_drawn: Callable[[bytes], npt.NDArray[np.bool_]],
) -> Annotation | None:
    """LabelMe's own mask: a PNG in base64 for the pixels from the first point to the second one, both included."""
    if not isinstance(stored, str):
        raise _UnreadableError
    try:
        part = read_drawn(base64.b64decode(stored, validate=True))
    except (binascii.Error, ValueError, InputRefused):
        raise _UnreadableError from None
    left, top = np.floor(points[0]).astype(int).tolist()
    height, width = part.shape
    mask = np.zeros(shape, np.bool_)
    if left < 0 or top < 0 or top + height > shape[0] or left + width > shape[1]:
        raise _UnreadableError
    mask[top : top + height, left : left + width] = part
    return Annotation(mask, said) if mask.any() else None


def _shape(height: object, width: object) -> tuple[int, int] | None:
    """(rows, columns), or None if that is no size."""
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        return None
    if height * width > MOST_PIXELS:
        raise TooLarge(
            f"This file is about an image of more than {MOST_PIXELS:,} pixels, and no slice is that large; please check it."
        )
    return height, width


def _file_name(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _key(value: object) -> int | str | None:
    """An id; None for what is none. Some programs write numbers as text."""
    if type(value) is int:
        return value
    return (int(value) if value.isdecimal() and len(value) < 19 else value) if isinstance(value, str) else None


def _number(value: object) -> float:
    if type(value) not in (int, float) or not -FARTHEST <= value <= FARTHEST:  # type: ignore[operator]
        raise _UnreadableError
    return float(value)  # type: ignore[arg-type]


def _points(value: object) -> Polygon:
    if not isinstance(value, list) or not value or not all(isinstance(point, list) and len(point) == 2 for point in value):
        raise _UnreadableError
    return np.array([[_number(x), _number(y)] for x, y in value])


def _pairs(value: object) -> Polygon:
    """COCO's x, y, x, y, ..., at least three."""
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2:
        raise _UnreadableError
    return np.array([_number(one) for one in value]).reshape(-1, 2)
