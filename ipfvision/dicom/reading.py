"""A DICOM file to CT slices in Hounsfield units, or a sentence that says why not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.encaps import generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
)

from ipfvision.core.slice import PixelSpacing, Plane, Scale, Slice, Source, hash_pixels
from ipfvision.core.window import Window
from ipfvision.dicom.attributes import Attributes, parse, quiet, syntax_name
from ipfvision.dicom.decoding import LOSSY, NATIVE, SUPPORTED, Layout, cells, stored_values
from ipfvision.dicom.kernels import is_soft
from ipfvision.dicom.padding import find_padding
from ipfvision.errors import NotAnImage, NotAxialCT, TooLarge, UnsupportedEncoding

LARGEST_SIDE = 4096
"""Rows or columns of a frame. Scanners write 512 to 1024, ultra-high-resolution ones 2048."""
MOST_PIXELS = 2**28
"""Pixels of all frames of one object: 1,024 frames of 512 x 512."""
LARGEST_TILT_DEGREES = 30.5
"""Between the slice's normal and the patient's long axis: gantries tilt up to 30 degrees."""
THICK_SLICE_MM = 2.5
"""Fibrosis needs thin slices, 1.5 mm or less by guideline (Raghu et al., Am J Respir Crit Care Med 2022;205:e18-e47)."""
LARGEST_HU = 1_000_000
"""Beyond this, Rescale Slope and Intercept are not those of a CT."""

_SINGLE_FRAME = {CTImageStorage}
_ENHANCED = {EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
_LOCALIZER = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM"}
_MODALITIES = {
    "CR": "a radiograph",
    "DX": "a radiograph",
    "MG": "a mammogram",
    "MR": "magnetic resonance",
    "NM": "nuclear medicine",
    "OT": "another kind of image",
    "PR": "a presentation state",
    "PT": "positron emission tomography",
    "REG": "a registration",
    "RF": "fluoroscopy",
    "RTDOSE": "a radiotherapy dose",
    "RTIMAGE": "a radiotherapy image",
    "RTPLAN": "a radiotherapy plan",
    "RTSTRUCT": "a set of drawn contours",
    "SC": "a screen capture",
    "SEG": "a segmentation",
    "SM": "microscopy",
    "SR": "a report",
    "US": "ultrasound",
    "XA": "angiography",
    "XC": "a photograph",
}
"""Words for other values of Modality (0008,0060). A value that is not here is not repeated: it may be anything."""
_OTHER_QUANTITIES = {
    "OD": "optical density",
    "MGML": "mg/ml",
    "Z_EFF": "effective atomic number",
    "ED": "electron density",
    "EDW": "electron density",
    "PCT": "percent",
}
"""Values of Rescale Type (0028,1054) that are not Hounsfield units (PS3.3 C.11.1.1.2)."""
_POSITIONS = {
    "HFP": "prone",
    "FFP": "prone",
    "HFDR": "on the right side",
    "FFDR": "on the right side",
    "HFDL": "on the left side",
    "FFDL": "on the left side",
}
"""Words for Patient Position (0018,5100) (PS3.3 C.7.3.1.1.2) other than supine."""

_TAKEN_AS_AXIAL = (
    "The file does not say how the slice lies in the patient (Image Orientation (Patient) (0020,0037) is missing); it was "
    "taken as axial because Image Type (0008,0008) says so."
)
_TAKEN_AS_HOUNSFIELD = (
    "The file does not say that its values are Hounsfield units (Rescale Type (0028,1054)); they were taken as such because "
    "air and soft tissue lie where Hounsfield units put them."
)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the header says of one frame."""

    source: Source
    slope: float
    intercept: float
    says_hounsfield: bool
    spacing: PixelSpacing | None
    plane: Plane | None
    thickness_mm: float | None
    window: Window | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Object:
    """What the header says of the whole object, and its frames as they are stored."""

    layout: Layout
    syntax: UID
    inverted: bool
    padding_range: tuple[int, int] | None
    """Lowest and highest stored value that is padding, as signed or unsigned as the pixels."""
    frames: tuple[_Frame, ...]
    streams: Sequence[bytes | memoryview]


def read(content: bytes, file: str) -> tuple[Slice, ...]:
    """Read a CT Image, or every frame of an Enhanced CT Image, in Hounsfield units.

    Parameters
    ----------
    content
        A DICOM file, with or without preamble.
    file
        What the user calls it: kept in `Source.file`, and in no message.

    Returns
    -------
    At least one slice, in the order of the file. ``HU = Rescale Slope * stored value + Rescale Intercept`` (PS3.3 C.11.1.1.2):
    int16 where slope and intercept are whole numbers and the result fits, else float32.

    Raises
    ------
    NotAxialCT
        If it is not an axial CT image, or has no Hounsfield units.
    NotAnImage
        If it is empty, damaged, truncated or has no pixels.
    UnsupportedEncoding
        If its transfer syntax or pixel layout is not read here.
    TooLarge
        If Rows, Columns and Number of Frames ask for too much; nothing is decoded then.
    """
    if not content:
        raise NotAnImage("This file is empty; please export it again.")
    with quiet():
        dataset, named_syntax = parse(content)
        described = _describe(Attributes(dataset), named_syntax, _meta_class(dataset), file)
    return tuple(_decode(described))


def _meta_class(dataset: Any) -> str | None:
    """Media Storage SOP Class UID (0002,0002): some exports keep the class only there."""
    meta = getattr(dataset, "file_meta", None)
    return None if meta is None else Attributes(meta).uid(0x00020002)


def _describe(attributes: Attributes, named_syntax: str | None, meta_class: str | None, file: str) -> _Object:
    sop_class = attributes.uid(0x00080016) or meta_class
    _check_kind(attributes, sop_class)
    if 0x7FE00010 not in attributes:
        raise NotAnImage(
            "This CT object has no pixels (Pixel Data (7FE0,0010) is missing): the file is truncated, or holds no image; "
            "please export it again."
        )
    layout, frame_count = _layout(attributes)
    pixels = attributes.value(0x7FE00010)
    if not isinstance(pixels, bytes) or not pixels:
        raise NotAnImage(
            "The pixel data of this image are empty or unreadable (Pixel Data (7FE0,0010)); please export it again."
        )
    syntax = _syntax(named_syntax, pixels, layout, frame_count)
    streams, is_longer = _streams(attributes, pixels, syntax, layout, frame_count)

    common = _common_warnings(attributes, syntax)
    if is_longer:
        common.append(
            "The file holds more pixel data than Rows (0028,0010) and Columns (0028,0011) ask for; the rest was ignored."
        )
    shared = attributes.item(0x52009229)
    per_frame = attributes.items(0x52009230)
    is_enhanced = sop_class in _ENHANCED
    if is_enhanced and len(per_frame) != frame_count:
        raise NotAnImage(
            f"This Enhanced CT has {frame_count} frames but describes {len(per_frame)} of them (Per-frame Functional Groups "
            "Sequence (5200,9230)): the file is damaged or incomplete; please export it again."
        )
    source = Source(
        file=file,
        format="DICOM",
        pixel_sha256="",
        sop_instance_uid=attributes.uid(0x00080018),
        series_instance_uid=attributes.uid(0x0020000E),
        study_instance_uid=attributes.uid(0x0020000D),
        frame_of_reference_uid=attributes.uid(0x00200052),
        instance_number=attributes.integer(0x00200013),
        manufacturer=attributes.text(0x00080070),
        transfer_syntax=syntax.name,
    )
    frames = []
    for number in range(frame_count):
        own = per_frame[number] if is_enhanced else None
        groups = _Groups(attributes, own, shared if is_enhanced else None)
        frame_source = source if frame_count == 1 and not is_enhanced else replace(source, frame=number + 1)
        frames.append(_frame(groups, frame_source, common, is_multi=frame_count > 1 and not is_enhanced))
    return _Object(
        layout=layout,
        syntax=syntax,
        inverted=attributes.text(0x00280004) == "MONOCHROME1",
        padding_range=_padding_range(attributes, layout),
        frames=tuple(frames),
        streams=streams,
    )


def _check_kind(attributes: Attributes, sop_class: str | None) -> None:
    """Refuse what is not a CT image, before anything else is asked of it."""
    if sop_class == MediaStorageDirectoryStorage or (sop_class is None and 0x00041220 in attributes):
        raise NotAxialCT(
            "This is a DICOMDIR, the list of contents of a disc, and holds no image; please give the images themselves."
        )
    modality = attributes.text(0x00080060)
    if modality is not None and modality != "CT":
        words = _MODALITIES.get(modality)
        found = f"{modality}, {words}" if words else "another one"
        raise NotAxialCT(
            f"This is not a CT image: its Modality (0008,0060) is {found}, and CT was expected; please give the CT slices."
        )
    if sop_class == SecondaryCaptureImageStorage:
        raise NotAxialCT(
            "This is a screen capture of a CT (SOP Class (0008,0016) is Secondary Capture) and has no Hounsfield units; "
            "please give the original CT slices."
        )
    if sop_class is not None and sop_class not in _SINGLE_FRAME | _ENHANCED:
        raise NotAxialCT(
            f"This is not a CT image: its SOP Class (0008,0016) is {_class_name(sop_class)}, and CT Image Storage or Enhanced "
            "CT Image Storage was expected; please give the CT slices."
        )
    if sop_class is None and modality is None:
        raise NotAxialCT(
            "This file does not say that it is a CT image: Modality (0008,0060) and SOP Class (0008,0016) are missing; please "
            "give the original CT slices."
        )


def _class_name(uid: str) -> str:
    name = UID(uid).name
    return "an unknown one" if name == uid else name


def _layout(attributes: Attributes) -> tuple[Layout, int]:
    """Image Pixel Module (PS3.3 C.7.6.3) and Number of Frames, counted before anything is decoded."""
    rows, columns = attributes.integer(0x00280010), attributes.integer(0x00280011)
    if not rows or not columns or rows < 0 or columns < 0:
        raise NotAnImage(
            "The size of this image is missing or unreadable (Rows (0028,0010), Columns (0028,0011)): the file is damaged; "
            "please export it again."
        )
    frames = attributes.integer(0x00280008) if 0x00280008 in attributes else 1
    if frames is None or frames < 1:
        frames = 1
    if max(rows, columns) > LARGEST_SIDE or rows * columns * frames > MOST_PIXELS:
        raise TooLarge(
            f"This image says that it has {rows} x {columns} pixels in {frames:,} frame(s) (Rows (0028,0010), Columns "
            f"(0028,0011), Number of Frames (0028,0008)); at most {LARGEST_SIDE} x {LARGEST_SIDE} pixels in a frame and "
            f"{MOST_PIXELS:,} in all are read. Please export a smaller part of the series."
        )
    samples = attributes.integer(0x00280002)
    photometric = attributes.text(0x00280004)
    if (samples or 1) != 1:
        raise NotAxialCT(
            f"This image is in color ({samples} Samples per Pixel (0028,0002), and a CT slice has 1): it is a picture made "
            "from a CT; please give the original CT slices."
        )
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotAxialCT(
            "This image is not grey: its Photometric Interpretation (0028,0004) is neither MONOCHROME1 nor MONOCHROME2, as "
            "every CT slice is; please give the original CT slices."
        )
    allocated = attributes.integer(0x00280100)
    stored = attributes.integer(0x00280101)
    if allocated is None:
        raise NotAnImage("Bits Allocated (0028,0100) is missing or unreadable: the file is damaged; please export it again.")
    stored = allocated if stored is None else stored
    high_bit = attributes.integer(0x00280102)
    high_bit = stored - 1 if high_bit is None else high_bit
    representation = attributes.integer(0x00280103) or 0
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise UnsupportedEncoding(
            f"This image stores {stored} bits in cells of {allocated} up to bit {high_bit} (Bits Stored (0028,0101), Bits "
            "Allocated (0028,0100), High Bit (0028,0102)), and cells of 8, 16 or 32 bits are read here; please export it "
            "again."
        )
    return Layout(rows, columns, allocated, stored, high_bit, representation == 1), frames


def _syntax(named: str | None, pixels: bytes, layout: Layout, frames: int) -> UID:
    """The transfer syntax, if it is one that is read here. A file without meta information is implicit or explicit native."""
    if named is None or named == "":
        if len(pixels) < layout.frame_bytes * frames and pixels[:4] == b"\xfe\xff\x00\xe0":
            raise UnsupportedEncoding(
                "This image is compressed, but the file does not say how (Transfer Syntax UID (0002,0010) is missing); please "
                "export it again."
            )
        return ImplicitVRLittleEndian
    syntax = UID(named)
    if syntax not in SUPPORTED:
        raise UnsupportedEncoding(
            f"This image is stored as {syntax_name(named)} (Transfer Syntax UID (0002,0010)), which is not read here; please "
            "export it without compression (Explicit VR Little Endian)."
        )
    return syntax


def _streams(
    attributes: Attributes, pixels: bytes, syntax: UID, layout: Layout, frames: int
) -> tuple[Sequence[bytes | memoryview], bool]:
    """One piece of Pixel Data for each frame, and whether there was clearly more than that."""
    if syntax in NATIVE:
        expected = layout.frame_bytes * frames
        if len(pixels) < expected:
            raise NotAnImage(
                f"This file is truncated: it holds {len(pixels):,} bytes of pixels (Pixel Data (7FE0,0010)) where its size "
                f"asks for {expected:,}; please export it again."
            )
        view = memoryview(pixels)
        size = layout.frame_bytes
        return [view[i * size : (i + 1) * size] for i in range(frames)], len(pixels) > expected + 1
    offsets = attributes.value(0x7FE00001), attributes.value(0x7FE00002)
    extended = (offsets[0], offsets[1]) if isinstance(offsets[0], bytes) and isinstance(offsets[1], bytes) else None
    streams: list[bytes | memoryview] = []
    try:
        for stream in generate_frames(pixels, number_of_frames=frames, extended_offsets=extended):
            streams.append(stream)
            if len(streams) == frames:
                break
    except Exception:  # noqa: BLE001  pydicom walks damaged fragments here
        streams = []
    if len(streams) < frames:
        raise NotAnImage(
            f"The compressed pixel data of this image do not hold its {frames} frame(s) (Pixel Data (7FE0,0010)): the file is "
            "damaged or truncated; please export it again."
        )
    return streams, False


def _padding_range(attributes: Attributes, layout: Layout) -> tuple[int, int] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2), as signed or unsigned as the pixels are."""
    value = attributes.integer(0x00280120)
    if value is None:
        return None
    limit = attributes.integer(0x00280121)
    first, second = (_as_cell(number, layout) for number in (value, value if limit is None else limit))
    return min(first, second), max(first, second)


def _as_cell(number: int, layout: Layout) -> int:
    """A padding value whose VR has the wrong sign (63536 for -2000) means the same bits."""
    number %= 1 << layout.bits_allocated
    is_negative = layout.is_signed and number >= 1 << (layout.bits_allocated - 1)
    return number - (1 << layout.bits_allocated) if is_negative else number


@dataclass(frozen=True, slots=True)
class _Groups:
    """One place to ask for what CT Image has at its top and Enhanced CT in functional groups (PS3.3 C.7.6.16)."""

    top: Attributes
    own: Attributes | None
    shared: Attributes | None

    def of(self, sequence: int) -> Attributes:
        """The group of this frame, else the one of all frames; for a single-frame object the object itself."""
        if self.own is None:
            return self.top
        for groups in (self.own, self.shared):
            if groups is not None and (group := groups.item(sequence)) is not None:
                return group
        return self.top


def _frame(groups: _Groups, source: Source, common: list[str], *, is_multi: bool) -> _Frame:
    warnings = list(common)
    if _LOCALIZER & {word.upper() for word in (*groups.top.words(0x00080008), *groups.of(0x00189329).words(0x00089007))}:
        raise NotAxialCT(
            "This is a localizer, the overview picture of the scan (Image Type (0008,0008)), and not a slice; please give the "
            "axial slices."
        )
    plane, plane_warnings = _plane(groups, is_multi=is_multi)
    slope, intercept, says_hounsfield, rescale_warnings = _rescale(groups)
    measures = groups.of(0x00289110)
    spacing, spacing_warnings = _spacing(measures)
    thickness = measures.number(0x00180050)
    thickness = thickness if thickness is not None and thickness > 0 else None
    kernel = groups.of(0x00189314).text(0x00181210)
    warnings += [*plane_warnings, *rescale_warnings, *spacing_warnings]
    if thickness is not None and thickness > THICK_SLICE_MM:
        warnings.append(
            f"Thick slice: {thickness:g} mm (Slice Thickness (0018,0050)). Fine reticulation and small cysts are averaged away "
            f"above {THICK_SLICE_MM:g} mm."
        )
    if kernel is not None and is_soft(kernel, source.manufacturer):
        warnings.append(
            f"Soft kernel: {kernel} (Convolution Kernel (0018,1210)). It blurs fine reticulation and small cysts; a lung "
            "kernel shows them."
        )
    return _Frame(
        source=replace(source, kernel=kernel),
        slope=slope,
        intercept=intercept,
        says_hounsfield=says_hounsfield,
        spacing=spacing,
        plane=plane,
        thickness_mm=thickness,
        window=_window(groups.of(0x00289132)),
        warnings=tuple(warnings),
    )


def _common_warnings(attributes: Attributes, syntax: UID) -> list[str]:
    warnings = []
    if attributes.text(0x00282110) == "01" or syntax in LOSSY:
        ratio = attributes.number(0x00282112)
        by = f", about {ratio:.0f} to 1" if ratio is not None and ratio >= 1 else ""
        warnings.append(
            f"Lossy compression{by} (Lossy Image Compression (0028,2110)): fine detail and noise differ from the original."
        )
    elif syntax in (JPEG2000, HTJ2K) and attributes.text(0x00282110) is None:
        warnings.append(
            f"The image may have been compressed with loss: it is stored as {syntax.name}, and Lossy Image Compression "
            "(0028,2110) is missing."
        )
    if syntax == JPEGBaseline8Bit:
        warnings.append("The image was reduced to 8 bits (JPEG Baseline): its Hounsfield units are coarse.")
    if attributes.text(0x00280301) == "YES":
        warnings.append("Text or marks may be burned into the pixels (Burned In Annotation (0028,0301) is YES).")
    if attributes.text(0x00280004) == "MONOCHROME1":
        warnings.append(
            "The file asks to be shown inverted (Photometric Interpretation (0028,0004) is MONOCHROME1), and is; Hounsfield "
            "units and the model are not affected."
        )
    if position := _POSITIONS.get(attributes.text(0x00185100) or ""):
        warnings.append(f"The patient lay {position} (Patient Position (0018,5100)).")
    return warnings


def _plane(groups: _Groups, *, is_multi: bool) -> tuple[Plane | None, list[str]]:
    """Image Plane Module (PS3.3 C.7.6.2), and the refusal of other planes than axial."""
    cosines = groups.of(0x00209116).numbers(0x00200037)
    position = groups.of(0x00209113).numbers(0x00200032)
    if len(cosines) != 6:
        if "AXIAL" in groups.top.words(0x00080008):
            return None, [_TAKEN_AS_AXIAL]
        raise NotAxialCT(
            "This image does not say how it lies in the patient (Image Orientation (Patient) (0020,0037) is missing or "
            "unreadable), so it cannot be taken for an axial slice; please give the original CT slices."
        )
    at = (position[0], position[1], position[2]) if len(position) == 3 else None
    try:
        plane = Plane(at or (0.0, 0.0, 0.0), (cosines[0], cosines[1], cosines[2]), (cosines[3], cosines[4], cosines[5]))
    except ValueError:
        raise NotAxialCT(
            "The direction of this image is damaged: the six numbers of Image Orientation (Patient) (0020,0037) are not two "
            "directions at a right angle; please export it again."
        ) from None
    along = np.abs(plane.normal) / np.linalg.norm(plane.normal)
    tilt = float(np.degrees(np.arccos(min(1.0, float(along[2])))))
    if tilt > LARGEST_TILT_DEGREES:
        kind = ("a sagittal", "a coronal", "an oblique")[int(along.argmax())]
        raise NotAxialCT(
            f"This is {kind} slice, {tilt:.0f} degrees from axial (Image Orientation (Patient) (0020,0037)); the model knows "
            "axial slices only. Please give the axial series."
        )
    warnings = _orientation_warnings(plane)
    if at is None or is_multi:
        warnings.append(
            "The file does not say where the slice lies (Image Position (Patient) (0020,0032) is missing), so it cannot be "
            "put in order."
        )
        return None, warnings
    return plane, warnings


def _orientation_warnings(plane: Plane) -> list[str]:
    """A sentence if rows do not run from the patient's right to left and columns from front to back."""
    shown = "The picture is shown as it is stored."
    row_x, column_y = plane.row[0], plane.column[1]
    if row_x > 0.7 and column_y > 0.7:
        return []
    if row_x < -0.7 and column_y < -0.7:
        how = "turned by 180 degrees, front down, if its labels are right"
    elif plane.normal[2] < 0:
        how = "mirrored, seen from the head: the patient's right is on the right"
    else:
        how = "turned by about 90 degrees" if abs(row_x) < 0.7 else "turned"
    return [f"Unusual orientation: the slice is {how} (Image Orientation (Patient) (0020,0037)). {shown}"]


def _rescale(groups: _Groups) -> tuple[float, float, bool, list[str]]:
    """Slope, intercept, whether the file says that they lead to Hounsfield units, and warnings (PS3.3 C.11.1, C.8.15.3.10)."""
    transformation = groups.of(0x00289145)
    slope, intercept = transformation.number(0x00281053), transformation.number(0x00281052)
    if slope is None or intercept is None or slope == 0:
        if 0x00283000 in transformation or 0x00283000 in groups.top:
            raise NotAxialCT(
                "This image has a table (Modality LUT Sequence (0028,3000)) where a CT has Rescale Slope (0028,1053) and "
                "Intercept (0028,1052), so its values are not known to be Hounsfield units; please give the original CT "
                "slices."
            )
        raise NotAxialCT(
            "Rescale Slope (0028,1053) or Rescale Intercept (0028,1052) is missing or unreadable, so the pixels have no "
            "Hounsfield units; please give the original CT slices."
        )
    kind = (transformation.text(0x00281054) or "HU").upper()
    if other := _OTHER_QUANTITIES.get(kind):
        raise NotAxialCT(
            f"The pixels of this image are {other} and not Hounsfield units (Rescale Type (0028,1054) is {kind}); please give "
            "the CT slices in Hounsfield units."
        )
    if kind == "HU_MOD":
        modified = (
            "The Hounsfield units were modified by processing (Rescale Type (0028,1054) is HU_MOD): lung tissue may look "
            "other than it is."
        )
        return slope, intercept, True, [modified]
    # One vendor's reformats write "Houndsfield Unit".
    says_hounsfield = kind == "HU" or kind.startswith(("HOUNSF", "HOUNDSF"))
    return slope, intercept, says_hounsfield, []


def _spacing(measures: Attributes) -> tuple[PixelSpacing | None, list[str]]:
    values = measures.numbers(0x00280030)
    try:
        if len(values) == 2:
            return PixelSpacing(*values), []
    except ValueError:
        pass  # not positive: as good as missing
    return None, ["The size of a pixel is not known (Pixel Spacing (0028,0030) is missing), so nothing can be given in mm."]


def _window(voi: Attributes) -> Window | None:
    """First window of the VOI LUT Module (PS3.3 C.11.2); None for a function that is not linear."""
    centers, widths = voi.numbers(0x00281050), voi.numbers(0x00281051)
    if not centers or not widths or widths[0] < 1 or (voi.text(0x00281056) or "LINEAR") not in ("LINEAR", "LINEAR_EXACT"):
        return None
    return Window(centers[0], widths[0])


def _decode(described: _Object) -> Iterator[Slice]:
    layout = described.layout
    for frame, stream in zip(described.frames, described.streams, strict=True):
        raw = cells(stream, described.syntax, layout)
        tagged = None if described.padding_range is None else _tagged_padding(raw, described.padding_range, layout)
        hu = _hounsfield(stored_values(raw, layout), frame.slope, frame.intercept)
        padding = find_padding(hu, tagged)
        warnings = frame.warnings
        if not frame.says_hounsfield:
            _check_plausible(hu[~padding])
            warnings = (
                *warnings,
                _TAKEN_AS_HOUNSFIELD,
            )
        yield Slice(
            pixels=hu,
            scale=Scale.HOUNSFIELD,
            source=replace(frame.source, pixel_sha256=hash_pixels(hu)),
            padding=padding,
            spacing=frame.spacing,
            plane=frame.plane,
            thickness_mm=frame.thickness_mm,
            file_window=frame.window,
            inverted=described.inverted,
            warnings=warnings,
        )


def _tagged_padding(raw: npt.NDArray[Any], limits: tuple[int, int], layout: Layout) -> npt.NDArray[np.bool_]:
    """Where a stored value is in the padding range.

    Compared as whole cells too: some scanners fill a 16-bit cell with -2000 while Bits Stored is 12, and masking would turn
    that into something that looks like bone.
    """
    lowest, highest = limits
    whole = raw.view(f"i{layout.bits_allocated // 8}") if layout.is_signed else raw
    found = (whole >= lowest) & (whole <= highest)
    if layout.bits_stored < layout.bits_allocated:
        stored = stored_values(raw, layout)
        found |= (stored >= lowest) & (stored <= highest)
    return np.asarray(found, np.bool_)


def _hounsfield(stored: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[Any]:
    """Slope and intercept in one pass, in place where the result is int16 (PS3.3 C.11.1.1.2)."""
    lowest, highest = sorted((float(stored.min()) * slope + intercept, float(stored.max()) * slope + intercept))
    if max(abs(lowest), abs(highest)) > LARGEST_HU:
        raise NotAxialCT(
            "Rescale Slope (0028,1053) and Intercept (0028,1052) lead to values that no CT has, so they are damaged or this "
            "is not a CT image; please give the original CT slices."
        )
    if slope.is_integer() and intercept.is_integer() and lowest >= -32768 and highest <= 32767:
        # Modulo 65536 an unsigned cell and a signed result are the same bits, whatever happens on the way.
        hu = stored.view(np.uint16) if stored.dtype.itemsize == 2 else stored.astype(np.uint16)
        if slope != 1:
            hu *= np.uint16(int(slope) % 65536)
        hu += np.uint16(int(intercept) % 65536)
        return hu.view(np.int16)
    values = stored.astype(np.float32)
    values *= np.float32(slope)
    values += np.float32(intercept)
    return values


def _check_plausible(measured: npt.NDArray[Any]) -> None:
    """Refuse values of an unnamed unit unless they hold both air and soft tissue where Hounsfield units put them."""
    if measured.size:
        air = np.count_nonzero((measured > -1200) & (measured < -700)) / measured.size
        soft_tissue = np.count_nonzero((measured > -150) & (measured < 150)) / measured.size
        if air >= 0.005 and soft_tissue >= 0.005:
            return
    raise NotAxialCT(
        "The file does not say that its values are Hounsfield units (Rescale Type (0028,1054)), and they do not look like "
        "them; please give the original CT slices."
    )
