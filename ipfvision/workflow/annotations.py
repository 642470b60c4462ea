"""From annotation files (DICOM SEG and RTSTRUCT, NIfTI, mask pictures, LabelMe, COCO, .zip of these) to slices.

What a file is, is told by its content and never by its name. The scan stays whatever happens: nothing is raised for what
cannot be read.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ipfvision import dicom, images, json_annotations, nifti
from ipfvision.core.annotation import Annotation, AnnotationFile, DrawnOnImage, FromFile, OnSlice, Said
from ipfvision.core.placement import place, stem
from ipfvision.core.slice import Series
from ipfvision.errors import AnnotationUnusable, InputRefused, NotAnAnnotation, TooLarge
from ipfvision.workflow.uploads import (
    Basket,
    File,
    Progress,
    Refusal,
    Upload,
    gather,
    gather_paths,
    is_junk,
    is_zip,
    read_all,
    refuse_zip_in_zip,
)

MOST_RATIO = 1100
"""Unpacked over packed size of one .zip: an empty mask packs 1,000 to 1, and no honest one more (RFC 1951 allows 1,032)."""
MOST_PIXELS = 2**30
"""Held of all masks on slices: 4,096 areas of 512 x 512, 1 GB."""
_MASK_WORDS = re.compile(r"mask|annot|label|(?<![a-z])(seg|segmentation|roi)(?![a-z])")


@dataclass(frozen=True, slots=True)
class Annotated:
    """What was read, on its slices. One bad file never stops the others."""

    by_slice: Mapping[tuple[int, int], tuple[OnSlice, ...]]
    """By (index of the series, index of the slice in it); only slices that have an annotation."""
    refusals: tuple[Refusal, ...]
    """Files of which nothing is shown, with the reason."""
    notes: tuple[str, ...]
    """Sentences on what is shown of the others, and what of them is not."""
    labels: Mapping[str, int]
    """How many masks, contours, boxes and points have each label, before any was chosen; "" is for those without one."""

    def joined(self, other: "Annotated") -> "Annotated":
        """Both, for the same scan; of what both say, the first comes first."""
        places = sorted({*self.by_slice, *other.by_slice})
        return Annotated(
            {place: (*self.by_slice.get(place, ()), *other.by_slice.get(place, ())) for place in places},
            (*self.refusals, *other.refusals),
            (*self.notes, *other.notes),
            dict(Counter(self.labels) + Counter(other.labels)),
        )


def take_in_annotations(
    uploads: Iterable[Upload],
    series: Sequence[Series],
    progress: Progress | None = None,
    *,
    labels: Collection[str] | None = None,
) -> Annotated:
    """Read annotation files of any kind and put them on the slices of a scan.

    Parameters
    ----------
    uploads
        DICOM SEG or RTSTRUCT, NIfTI, mask pictures, LabelMe, COCO, or .zip of these. In a .zip or with a folder, what is no
        annotation is passed over.
    series
        The open scan, as `ipfvision.workflow.intake.take_in` gives it.
    progress
        Called after each file, those inside a .zip counted.
    labels
        Keep only annotations whose label, or the finding it names, contains one of these words, whatever their case; those
        without a label are kept too. None keeps all.
    """
    with gather(uploads, MOST_RATIO) as basket:
        return _read_all(basket, series, progress, labels)


def take_in_annotation_paths(
    paths: Iterable[Path],
    series: Sequence[Series],
    progress: Progress | None = None,
    *,
    labels: Collection[str] | None = None,
) -> Annotated:
    """The same for files and folders (searched recursively) on this machine."""
    with gather_paths(paths, MOST_RATIO) as basket:
        return _read_all(basket, series, progress, labels)


def _read_all(basket: Basket, series: Sequence[Series], progress: Progress | None, labels: Collection[str] | None) -> Annotated:
    desk = _Desk(series, None if labels is None else tuple(label.casefold() for label in labels))

    def keep(file: File) -> int | None:
        read = _read(file, desk.stems, desk.normal)
        return None if read is None else desk.put(read)

    read_all(
        basket,
        keep,
        progress,
        most_pixels=MOST_PIXELS,
        too_many=f"More than {MOST_PIXELS // 2**18:,} areas on slices of 512 x 512 were given; this file and those after it "
        "were not read. Please give fewer annotations, or choose some of their labels.",
        nothing_found="No annotation was found in it; please give DICOM SEG or RTSTRUCT, NIfTI, a mask as PNG or TIFF, or the "
        "JSON of LabelMe or COCO.",
    )
    return Annotated(
        {target: tuple(desk.by_slice[target]) for target in sorted(desk.by_slice)},
        tuple(basket.refusals),
        tuple(f"{note} ({many} files)" if many > 1 else note for note, many in desk.notes.items()),
        dict(desk.labels),
    )


@dataclass(slots=True)
class _Desk:
    """The open scan, and everything that was put on it so far."""

    series: Sequence[Series]
    wanted: tuple[str, ...] | None
    stems: frozenset[str] = field(init=False)
    normal: npt.NDArray[np.float64] = field(init=False)
    by_slice: dict[tuple[int, int], list[OnSlice]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        slices = [scan for one in self.series for scan in one.slices]
        self.stems = frozenset(stem(scan.source.file) for scan in slices)
        normals = (scan.plane.normal for scan in slices if scan.plane is not None)
        self.normal = next(normals, np.array([0.0, 0.0, 1.0]))

    def put(self, read: AnnotationFile) -> int:
        """Put what is wanted of a file on its slices.

        Returns
        -------
        The pixels of the masks that are held from now on.

        Raises
        ------
        AnnotationUnusable
            If nothing of it is shown.
        TooLarge
            If its masks would be too many.
        """
        own = Counter(_said(item).label for item in read.items)
        self.labels.update(own)
        items = [item for item in read.items if self._is_wanted(_said(item))]
        if not items:
            raise AnnotationUnusable(f"None of the {len(own):,} labels of this file was asked for; please choose among them.")
        largest = max((scan.pixels.size for one in self.series for scan in one.slices), default=0)
        if len(items) * largest > MOST_PIXELS:
            raise TooLarge(
                f"This file holds {len(items):,} areas on single planes, too many to show at once; please choose some of its "
                f"{len(own):,} labels."
            )
        placed = place(items, self.series)
        if not placed.by_slice:
            raise AnnotationUnusable(" ".join(placed.problems or placed.notes))
        self.notes.update((*read.notes, *placed.notes, *placed.problems))
        held = 0
        for target, annotations in placed.by_slice.items():
            self.by_slice.setdefault(target, []).extend(annotations)
            held += sum(one.mask.size for one in annotations if isinstance(one, Annotation))
        return held

    def _is_wanted(self, said: Said) -> bool:
        if self.wanted is None or not said.label:
            return True
        words = (said.label.casefold(), said.finding.value.casefold())
        return any(wanted in word for wanted in self.wanted for word in words)


def _said(item: FromFile) -> Said:
    return item.on.said if isinstance(item, DrawnOnImage) else item.said


def _read(file: File, stems: Collection[str], normal: npt.NDArray[np.float64]) -> AnnotationFile | None:
    """What one file holds; None if it is no annotation and nobody asked for it by name."""
    if not file.is_named and is_junk(file.name):
        return None
    try:
        return _parsed(file.name, file.load(), stems, normal)
    except NotAnAnnotation:
        if file.is_named:
            raise
        return None


def _parsed(name: str, content: bytes, stems: Collection[str], normal: npt.NDArray[np.float64]) -> AnnotationFile:
    if dicom.is_annotation(content):
        return AnnotationFile(dicom.read_annotations(content))
    if images.is_mask_format(content):
        return images.read_mask(content, name)
    if nifti.is_nifti(content):
        return nifti.read(content, name, normal)
    if json_annotations.is_json(content):
        return json_annotations.read(content, lambda image: stem(image) in stems, images.read_drawn)
    if dicom.is_dicom(content):
        raise NotAnAnnotation(
            "This DICOM file is neither a segmentation (SEG) nor contours (RTSTRUCT), so it is no annotation."
        )
    if images.is_image(content):
        raise NotAnAnnotation(
            "JPEG changes the values of a mask where it is stored, so none is read from it; please save the mask as PNG."
        )
    if is_zip(content):
        refuse_zip_in_zip()
    raise NotAnAnnotation(
        "This file is empty, damaged or no annotation; please give DICOM SEG or RTSTRUCT, NIfTI, a mask as PNG or TIFF, or the "
        "JSON of LabelMe or COCO."
    )


def split_uploads(uploads: Iterable[Upload]) -> tuple[tuple[Upload, ...], tuple[Upload, ...]]:
    """Tell scans from annotations that were dropped together.

    DICOM SEG and RTSTRUCT, NIfTI, LabelMe and COCO are annotations, and TIFF if it was given by itself. A picture is one if it
    has so few colors that it cannot be a CT slice (`ipfvision.images.FEW_COLORS`), or if its name or folder speaks of a mask,
    label or segmentation and another picture or DICOM file of the same name without that word came along. Everything else is
    a scan, JPEG always; so a grey label picture of many values goes with the scans unless it is named like a mask beside its
    slice. A .zip that holds both is opened, and its files go their ways with the .zip as their folder. What is neither goes
    with the others of its folder, or else with the scans, where it gets its sentence.

    Returns
    -------
    (scans, annotations), each in the order given.
    """
    files: list[_Dropped] = []
    for upload in uploads:
        files += _opened(upload)
    return _sorted(files)


class _Kind(Enum):
    SCAN = "scan"
    PICTURE = "picture"
    """A scan as far as its content tells, and perhaps a mask by its name."""
    ANNOTATION = "annotation"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class _Dropped:
    upload: Upload
    kind: _Kind


def _sorted(files: Sequence[_Dropped]) -> tuple[tuple[Upload, ...], tuple[Upload, ...]]:
    beside = {
        stem(one.upload.name) for one in files if one.kind in (_Kind.SCAN, _Kind.PICTURE) and not _speaks_of_mask(one.upload)
    }
    kinds = [
        _Kind.ANNOTATION
        if one.kind is _Kind.PICTURE and _speaks_of_mask(one.upload) and stem(one.upload.name) in beside
        else one.kind
        for one in files
    ]
    folders: defaultdict[str | None, set[_Kind]] = defaultdict(set)
    for one, kind in zip(files, kinds, strict=True):
        folders[one.upload.folder].add(_Kind.SCAN if kind is _Kind.PICTURE else kind)
    scans: list[Upload] = []
    annotations: list[Upload] = []
    for one, kind in zip(files, kinds, strict=True):
        among_annotations = one.upload.folder is not None and folders[one.upload.folder] == {_Kind.ANNOTATION, _Kind.NEITHER}
        goes_along = kind is _Kind.NEITHER and among_annotations
        (annotations if kind is _Kind.ANNOTATION or goes_along else scans).append(one.upload)
    return tuple(scans), tuple(annotations)


def _speaks_of_mask(upload: Upload) -> bool:
    return bool(_MASK_WORDS.search(upload.name.lower()))


def _kind(content: bytes, folder: str | None) -> _Kind:
    if images.is_mask_format(content):
        is_own_tiff = folder is None and not images.is_image(content)
        return _Kind.ANNOTATION if is_own_tiff or images.has_few_colors(content) else _Kind.PICTURE
    if dicom.is_annotation(content) or nifti.is_nifti(content) or json_annotations.is_annotation(content):
        return _Kind.ANNOTATION
    return _Kind.SCAN if dicom.is_dicom(content) or images.is_image(content) else _Kind.NEITHER


def _opened(upload: Upload) -> list[_Dropped]:
    """The upload itself, or the files of a .zip that holds both scans and annotations."""
    if not is_zip(upload.content):
        return [_Dropped(upload, _kind(upload.content, upload.folder))]
    try:
        # Twice, so that of a .zip of scans alone only one file at a time is unpacked.
        told = [_Dropped(Upload(file.name, b"", upload.name), _kind(file.load(), upload.name)) for file in _members(upload)]
        scans, annotations = _sorted(told)
        if scans and annotations:
            loaded = (Upload(file.name, file.load(), upload.name) for file in _members(upload))
            return [replace(one, upload=member) for one, member in zip(told, loaded, strict=True)]
    except InputRefused:
        annotations = ()  # and the intake of scans says why
    return [_Dropped(upload, _Kind.ANNOTATION if annotations else _Kind.SCAN)]


def _members(upload: Upload) -> Iterator[File]:
    with gather([upload], MOST_RATIO) as basket:
        yield from (file for file in basket.files if not is_junk(file.name))
