"""What a reader, or the program that drew a synthetic lesion, says is where: on a slice, or not yet put on one.

Annotations *on a slice* (`Annotation`, `PointAnnotation`, `BoxAnnotation`) are in the slice's own pixels. As they come from
files they are not: `MaskInPatient` and `ContoursInPatient` lie in the patient's coordinate system (LPS, mm), `DrawnOnImage` in
the pixels of an image that is known by its name and size. `ipfvision.core.placement` brings the ones to the others.
"""

import re
import unicodedata
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ipfvision.core.slice import PixelSpacing, Plane


class Finding(Enum):
    """Findings that an annotation can name (Fleischner Society glossary, Radiology 2008;246:697-722)."""

    HONEYCOMBING = "honeycombing"
    SUBPLEURAL_CYSTS = "subpleural cysts"
    TRACTION_BRONCHIECTASIS = "traction bronchiectasis"
    RETICULATION = "reticulation"
    GROUND_GLASS = "ground glass"
    OTHER = "other"


_WORDS = (
    (Finding.HONEYCOMBING, r"honey ?comb|waben|rayons? de miel"),
    (Finding.TRACTION_BRONCHIECTASIS, r"bronchi(ol)?[eo]?e[ck]ta|\btraction"),
    (Finding.RETICULATION, r"reticula|retikul"),
    (Finding.GROUND_GLASS, r"ground ?glass|\bggos?\b|milchglas|verre depoli"),
    (Finding.SUBPLEURAL_CYSTS, r"^(?!.*\b(kidney|renal|liver|hepatic|breast|thyroid|pancrea\w*|ovarian)\b).*(cyst|kyst|zyst)"),
)
"""Words of labels, first match first: "honeycomb cysts" are honeycombing. English, then German and French."""


def finding_of(label: str) -> Finding:
    """The finding that a file's own word for a region names; `Finding.OTHER` for any other word, and for none.

    Case, accents, hyphens and underscores do not matter: "Honey-combing_L" is honeycombing. A label that denies a finding
    ("no honeycombing", "non-cystic") names none.
    """
    plain = "".join(character for character in unicodedata.normalize("NFKD", label) if not unicodedata.combining(character))
    words = " ".join(re.findall(r"[^\W_]+", plain.lower()))
    if re.search(r"\b(no|non|not|without|kein|keine|ohne|sans)\b", words):
        return Finding.OTHER
    return next((finding for finding, pattern in _WORDS if re.search(pattern, words)), Finding.OTHER)


@dataclass(frozen=True, slots=True)
class Said:
    """Who says what, and how it came to this slice."""

    finding: Finding
    reader: str
    """Who says so; "synthetic" where the program drew the lesion itself. From a file: its kind, never a person's name."""
    label: str = ""
    """The file's own word for it (Segment Label, ROI Name, COCO category); empty where there is none."""
    origin: str = ""
    """"DICOM SEG", "RTSTRUCT", "NIfTI", "mask", "LabelMe", "COCO", "burned-in mark", "drawn here"."""
    matched_by: str = ""
    """"SOP Instance UID", "position, 0.2 mm away", "file name", "only slice of this size": said to the reader."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One finding on one slice, as an area.

    Raises
    ------
    ValueError
        If the mask is not (H, W) bool.
    """

    mask: npt.NDArray[np.bool_]
    """(H, W) on the slice's own grid; read-only. It may be empty: "looked, and found none"."""
    said: Said

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", _read_only_mask(self.mask))


@dataclass(frozen=True, slots=True)
class PointAnnotation:
    """One finding on one slice, as a point: an arrow's tip, a click."""

    x: float
    """Continuous slice coordinates (`ipfvision.core.geometry`): the center of pixel (column c, row r) is (c + 0.5, r + 0.5)."""
    y: float
    said: Said


@dataclass(frozen=True, slots=True)
class BoxAnnotation:
    """One finding on one slice, as a rectangle in continuous slice coordinates."""

    left: float
    top: float
    right: float
    bottom: float
    said: Said

    def __post_init__(self) -> None:
        if not (self.left < self.right and self.top < self.bottom):
            raise ValueError("a box has a positive width and height")


OnSlice: TypeAlias = Annotation | PointAnnotation | BoxAnnotation


@dataclass(frozen=True, slots=True, eq=False)
class MaskInPatient:
    """A mask on a plane of its own, which need not be a slice's grid: a frame of a DICOM SEG, a plane of a NIfTI volume."""

    mask: npt.NDArray[np.bool_]
    """(h, w), read-only."""
    plane: Plane
    spacing: PixelSpacing
    said: Said
    sop_instance_uids: tuple[str, ...] = ()
    """Of the slices that it says it was drawn on."""
    frame_of_reference_uid: str | None = None
    """None where the file does not say (NIfTI)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", _read_only_mask(self.mask))


@dataclass(frozen=True, slots=True, eq=False)
class ContoursInPatient:
    """The closed planar contours of one region of interest on one plane of an RTSTRUCT; inside is by even-odd (XOR)."""

    contours: tuple[npt.NDArray[np.float64], ...]
    """Each (N, 3): x, y, z in mm, in the patient's coordinate system (LPS)."""
    said: Said
    sop_instance_uid: str | None = None
    """Of the slice that it says it was drawn on."""
    frame_of_reference_uid: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DrawnOnImage:
    """What was drawn on an image that is known only by its name and size: a mask picture, LabelMe, COCO."""

    on: OnSlice
    """In the pixels of that image."""
    image_shape: tuple[int, int]
    """(rows, columns) of that image."""
    image_name: str | None = None
    """Its file name as the annotation gives it; None where the annotation names none."""


FromFile: TypeAlias = MaskInPatient | ContoursInPatient | DrawnOnImage


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationFile:
    """What one file holds."""

    items: tuple[FromFile, ...]
    notes: tuple[str, ...] = ()
    """Sentences for the reader on what was left out or decided: a line without an area, an outline that crosses itself."""


def matched(annotation: OnSlice, by: str) -> OnSlice:
    """The same annotation, with how it was matched to its slice."""
    return replace(annotation, said=replace(annotation.said, matched_by=by))


def _read_only_mask(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"an annotation mask is (H, W) bool, not {mask.shape} {mask.dtype}")
    view = mask.view()
    view.flags.writeable = False
    return view
