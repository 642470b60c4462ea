"""DICOM Segmentation (SEG) to masks in the patient.

Read with pydicom alone. highdicom, which writes the SEGs of the tests, wants objects as the standard has them; those of other
programs lack a Derivation Image, name a segment in the shared groups, or leave out the dimension index that its reader starts
from, and none of that is needed to know where a mask lies.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.encaps import generate_frames
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from ipfvision.core.annotation import MaskInPatient, Said, finding_of
from ipfvision.core.slice import PixelSpacing, Plane
from ipfvision.dicom.attributes import Attributes, syntax_name
from ipfvision.dicom.decoding import LOSSY, NATIVE, SUPPORTED, Layout, cells
from ipfvision.dicom.reading import LARGEST_SIDE
from ipfvision.errors import InputRefused, NotAnImage, TooLarge, UnsupportedEncoding

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
MOST_PIXELS = 2**31
"""Of all frames: 32 segments on 256 slices of 512 x 512. They are decoded one by one, and only what is drawn is kept."""
MOST_FRAMES = 2**16
HALF = 0.5
"""Share of Maximum Fractional Value (0062,000E) from which a pixel of a fractional segmentation counts as drawn."""

_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
"""Deflated Image Frame Compression (PS3.5 A.4.13): each frame's bits on their own, the usual choice for single bits."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the header says of one frame."""

    plane: Plane
    spacing: PixelSpacing
    segment: int | None
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Pixel Data (7FE0,0010), not decoded yet."""

    layout: Layout
    syntax: str
    data: bytes
    frames: int
    is_fractional: bool
    half: float
    """Stored value from which a pixel counts; of a fractional segmentation only."""
    extended_offsets: tuple[bytes, bytes] | None


def read_segmentation(attributes: Attributes, named_syntax: str | None) -> tuple[MaskInPatient, ...]:
    """The frames of a SEG, each cut to what is drawn on it; of a label map one for each segment on each frame.

    Of a fractional segmentation a pixel counts from `HALF` on, and the label says so. A frame on which nothing is drawn is
    kept as one empty pixel. Use inside `quiet`.
    """
    is_label_map = attributes.text(0x00620001) == "LABELMAP" or attributes.uid(0x00080016) == LABEL_MAP
    pixels = _pixels(attributes, named_syntax)
    said = _segments(attributes, is_fractional=pixels.is_fractional)
    frames = _frames(attributes, pixels.frames)
    frame_of_reference = attributes.uid(0x00200052)

    masks = []
    for frame, stored in zip(frames, _decoded(pixels), strict=True):
        if is_label_map:
            numbers = [int(number) for number in np.unique(stored) if number]
            drawn = [(number, np.asarray(stored == number, np.bool_)) for number in numbers]
        else:
            number = _segment_number(frame, said)
            drawn = [(number, np.asarray(stored >= pixels.half if pixels.is_fractional else stored != 0, np.bool_))]
        for number, mask in drawn:
            cut, plane = _cut(mask, frame)
            label = said.get(number) or _said(f"segment {number}", is_fractional=pixels.is_fractional)
            masks.append(MaskInPatient(cut, plane, frame.spacing, label, frame.sop_instance_uids, frame_of_reference))
    if not masks:
        raise InputRefused("This segmentation holds no segment on any of its frames: there is nothing to show.")
    return tuple(masks)


def _pixels(attributes: Attributes, named_syntax: str | None) -> _Pixels:
    """Sizes counted, and what is not read here refused, before anything is decoded (PS3.3 C.8.20.2)."""
    rows, columns = attributes.integer(0x00280010), attributes.integer(0x00280011)
    if not rows or not columns or rows < 0 or columns < 0:
        raise NotAnImage(
            "The size of this segmentation is missing or unreadable (Rows (0028,0010), Columns (0028,0011)): the file is "
            "damaged; please export it again."
        )
    frames = max(1, attributes.integer(0x00280008) or 1)
    if max(rows, columns) > LARGEST_SIDE or frames > MOST_FRAMES or rows * columns * frames > MOST_PIXELS:
        raise TooLarge(
            f"This segmentation says that it has {rows} x {columns} pixels in {frames:,} frame(s) (Rows (0028,0010), Columns "
            f"(0028,0011), Number of Frames (0028,0008)); at most {LARGEST_SIDE} x {LARGEST_SIDE} pixels in a frame and "
            f"{MOST_PIXELS:,} in all are read. Please export fewer segments or slices."
        )
    allocated = attributes.integer(0x00280100) or 1
    kind = attributes.text(0x00620001)
    if allocated not in (1, 8, 16) or (attributes.integer(0x00280002) or 1) != 1:
        raise UnsupportedEncoding(
            f"This segmentation stores {allocated} bits for each pixel (Bits Allocated (0028,0100)), and 1, 8 or 16 are read "
            "here; please export it again."
        )
    syntax = named_syntax or ImplicitVRLittleEndian
    is_read = syntax in NATIVE or syntax == _DEFLATED_FRAMES or (allocated > 1 and syntax in SUPPORTED - LOSSY)
    if not is_read or (allocated == 1 and syntax == ExplicitVRBigEndian):
        raise UnsupportedEncoding(
            f"This segmentation is stored as {syntax_name(syntax)} with {allocated} bit(s) for each pixel (Transfer Syntax UID "
            "(0002,0010)), which is not read here; please export it without compression (Explicit VR Little Endian)."
        )
    data = attributes.value(0x7FE00010)
    if not isinstance(data, bytes) or not data:
        raise NotAnImage(
            "This segmentation has no pixels (Pixel Data (7FE0,0010) is missing): the file is truncated; please export it "
            "again."
        )
    needed = -(-rows * columns * frames * allocated // 8)
    if syntax in NATIVE and len(data) < needed:
        raise NotAnImage(
            f"This segmentation is truncated: it holds {len(data):,} bytes of pixels (Pixel Data (7FE0,0010)) where its size "
            f"asks for {needed:,}; please export it again."
        )
    offsets = attributes.value(0x7FE00001), attributes.value(0x7FE00002)
    # One bit cannot be a fraction, whatever the type says.
    is_fractional = kind == "FRACTIONAL" and allocated > 1
    most = attributes.number(0x0062000E) or 255
    return _Pixels(
        layout=Layout(rows, columns, allocated, allocated, allocated - 1, is_signed=False),
        syntax=syntax,
        data=data,
        frames=frames,
        is_fractional=is_fractional,
        half=most * HALF,
        extended_offsets=(offsets[0], offsets[1]) if all(isinstance(one, bytes) for one in offsets) else None,
    )


def _decoded(pixels: _Pixels) -> Iterator[npt.NDArray[Any]]:
    """(rows, columns) uint8 or uint16 stored values of one frame after the other."""
    layout = pixels.layout
    count = layout.rows * layout.columns
    if pixels.syntax in NATIVE and layout.bits_allocated == 1:
        # Frames follow each other bit by bit, lowest bit first, without filling up a byte (PS3.5 8.1.1, 8.2).
        stored = np.frombuffer(pixels.data, np.uint8)
        for start in range(0, count * pixels.frames, count):
            bits = np.unpackbits(stored[start // 8 : -(-(start + count) // 8)], bitorder="little")
            yield bits[start % 8 : start % 8 + count].reshape(layout.rows, layout.columns)
        return
    if pixels.syntax in NATIVE:
        size = layout.frame_bytes
        for start in range(0, size * pixels.frames, size):
            yield cells(memoryview(pixels.data)[start : start + size], UID(pixels.syntax), layout)
        return
    for stream in _streams(pixels):
        if pixels.syntax == _DEFLATED_FRAMES:
            yield _inflated(stream, layout)
        else:
            yield cells(stream, UID(pixels.syntax), layout)


def _streams(pixels: _Pixels) -> list[bytes]:
    """The compressed frames."""
    frames = generate_frames(pixels.data, number_of_frames=pixels.frames, extended_offsets=pixels.extended_offsets)
    try:
        streams = list(islice(frames, pixels.frames))
    except Exception:  # noqa: BLE001  pydicom walks damaged fragments here
        streams = []
    if len(streams) < pixels.frames:
        raise NotAnImage(
            f"The compressed pixel data of this segmentation do not hold its {pixels.frames} frame(s) (Pixel Data "
            "(7FE0,0010)): the file is damaged or truncated; please export it again."
        )
    return streams


def _inflated(stream: bytes, layout: Layout) -> npt.NDArray[Any]:
    count = layout.rows * layout.columns
    needed = -(-count * layout.bits_allocated // 8)
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream, needed)
    except zlib.error:
        data = b""
    if len(data) < needed:
        raise NotAnImage(
            "The compressed pixel data of this segmentation are damaged or incomplete (Pixel Data (7FE0,0010)); please export "
            "it again."
        )
    if layout.bits_allocated == 1:
        values = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:count]
    else:
        values = np.frombuffer(data, f"<u{layout.bits_allocated // 8}")
    return values.reshape(layout.rows, layout.columns)


def _segments(attributes: Attributes, *, is_fractional: bool) -> dict[int, Said]:
    """Segment Sequence (PS3.3 C.8.20.2): what each segment number is called."""
    labels: dict[int, str] = {}
    codes: dict[int, str] = {}
    for item in attributes.items(0x00620002):
        number = item.integer(0x00620004)
        if number is None:
            continue
        code = item.item(0x0062000F)
        codes[number] = (code.text(0x00080104) if code else None) or ""
        labels[number] = item.text(0x00620005) or codes[number] or f"segment {number}"
    uses = Counter(labels.values())
    return {
        number: _said(
            label if uses[label] == 1 else f"{label} ({number})", f"{label}, {codes[number]}", is_fractional=is_fractional
        )
        for number, label in labels.items()
    }


def _said(label: str, words: str = "", *, is_fractional: bool) -> Said:
    shown = f"{label} (at least {HALF:.0%})" if is_fractional else label
    return Said(finding_of(words), "DICOM SEG", shown, "DICOM SEG")


def _frames(attributes: Attributes, count: int) -> list[_Frame]:
    """Functional groups of each frame: its own, else the shared ones, else the object itself (PS3.3 C.7.6.16)."""
    own, shared = attributes.items(0x52009230), attributes.item(0x52009229)
    if own and len(own) != count:
        raise NotAnImage(
            f"This segmentation has {count} frames but describes {len(own)} of them (Per-frame Functional Groups Sequence "
            "(5200,9230)): the file is damaged or incomplete; please export it again."
        )
    frames = []
    for number in range(count):
        groups = [group for group in (own[number] if own else None, shared, attributes) if group is not None]
        values = _first(groups, 0x00209113, 0x00200032), _first(groups, 0x00209116, 0x00200037)
        spacing = _first(groups, 0x00289110, 0x00280030)
        try:
            (x, y, z), (a, b, c, d, e, f) = values
            plane, measures = Plane((x, y, z), (a, b, c), (d, e, f)), PixelSpacing(*spacing)
        except (TypeError, ValueError):
            raise InputRefused(
                "This segmentation does not say where it lies in the patient (Image Position (Patient) (0020,0032), Image "
                "Orientation (Patient) (0020,0037) or Pixel Spacing (0028,0030) of a frame is missing or unreadable), so it "
                "cannot be put on a slice; please export it again."
            ) from None
        segment = _first(groups, 0x0062000A, 0x0062000B)
        frames.append(_Frame(plane, measures, int(segment[0]) if segment else None, _sources(groups)))
    return frames


def _first(groups: Sequence[Attributes], sequence: int, tag: int) -> tuple[float, ...]:
    """Values of a tag in the first of the groups that has them, in the sequence or, in old objects, beside it."""
    for group in groups:
        item = group.item(sequence)
        if values := (item.numbers(tag) if item is not None else ()) or group.numbers(tag):
            return values
    return ()


def _sources(groups: Sequence[Attributes]) -> tuple[str, ...]:
    """SOP Instance UIDs that Derivation Image Sequence (0008,9124) names (PS3.3 C.7.6.16.2.6)."""
    for group in groups:
        sources = [source for item in group.items(0x00089124) for source in item.items(0x00082112)]
        if uids := [uid for source in sources if (uid := source.uid(0x00081155)) is not None]:
            return tuple(dict.fromkeys(uids))
    return ()


def _segment_number(frame: _Frame, said: dict[int, Said]) -> int:
    if frame.segment is not None:
        return frame.segment
    if len(said) == 1:
        return next(iter(said))
    raise NotAnImage(
        "A frame of this segmentation does not say which segment it shows (Referenced Segment Number (0062,000B)): the file is "
        "damaged or incomplete; please export it again."
    )


def _cut(mask: npt.NDArray[np.bool_], frame: _Frame) -> tuple[npt.NDArray[np.bool_], Plane]:
    """The part of a mask that holds all that is drawn, and where that part lies: a tenth of the memory or less."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros((1, 1), np.bool_), frame.plane
    top, left = int(rows[0]), int(columns[0])
    plane, spacing = frame.plane, frame.spacing
    along_row, along_column = np.asarray(plane.row) * spacing.column_mm, np.asarray(plane.column) * spacing.row_mm
    x, y, z = (np.asarray(plane.position) + left * along_row + top * along_column).tolist()
    return mask[top : rows[-1] + 1, left : columns[-1] + 1].copy(), Plane((x, y, z), plane.row, plane.column)
