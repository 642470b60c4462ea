"""NIfTI masks in. nibabel is imported nowhere else."""

import gzip
import struct
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from ipfvision.core.annotation import AnnotationFile, Finding, FromFile, MaskInPatient, Said, finding_of
from ipfvision.core.slice import PixelSpacing, Plane
from ipfvision.errors import AnnotationUnusable, NotAnAnnotation, TooLarge

MOST_BYTES = 2**30
"""Of an unpacked volume, counted from its header before anything is unpacked: 1,000 planes of 512 x 512 in 16 bits are half."""
MOST_LABELS = 255
"""Of one volume: programs that label the whole body use about 120."""
LARGEST_LABEL = 2**16 - 1
SHARE_IN = 0.5
"""Probability from which a voxel of a probability map is annotated."""

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = {1: 348, 2: 540}
_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By the spatial part of xyzt_units: unknown, taken as mm like every program does, meters, millimeters, micrometers."""


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def is_nifti(content: bytes) -> bool:
    """Whether the content is NIfTI-1, NIfTI-2 or the Analyze format before them, packed by gzip or not."""
    return _version(_beginning(content)) is not None


def read(content: bytes, file: str, normal: npt.NDArray[np.float64]) -> AnnotationFile:
    """Read a mask or label volume as masks on planes.

    NIfTI's axes point to the patient's right, anterior and superior where DICOM's point to the left, posterior and superior:
    x and y change their sign. The sform is used, or else the qform. Fractions in [0, 1] are probabilities and annotated from
    `SHARE_IN` on.

    Parameters
    ----------
    content
        A .nii or .nii.gz file.
    file
        What the user calls it: the finding of a volume with one label is read from it, and it stands in no message.
    normal
        (3,) normal of the slices in LPS: the planes are those across the axis of the volume that is closest to it.

    Returns
    -------
    For each label and each plane that has it a mask, cut to what is drawn with a border of one pixel. Of several labels each
    is named "value 3"; a single one has no name.

    Raises
    ------
    NotAnAnnotation
        If it is no NIfTI, or a volume of an image.
    AnnotationUnusable
        If it is damaged, empty, not one volume, or does not say where in the patient it lies.
    TooLarge
        If its header asks for more than `MOST_BYTES`; nothing more is unpacked then.
    """
    version = _version(_beginning(content))
    if version is None:
        raise NotAnAnnotation("This file is no NIfTI; please give a mask as .nii or .nii.gz.")
    stream = _open(content)
    header = _Header(_take(stream, _HEADER_BYTES[abs(version)]), version)
    _take(stream, header.offset - _HEADER_BYTES[abs(version)])
    volume, labels, notes = _labels(stream, header)
    reader = "NIfTI"
    if len(labels) == 1:
        names = {1: Said(finding_of(PurePosixPath(file.replace("\\", "/")).name), reader, "", "NIfTI")}
    else:
        names = {code: Said(Finding.OTHER, reader, f"value {label}", "NIfTI") for code, label in enumerate(labels, start=1)}
    return AnnotationFile(tuple(_planes(volume, header.to_lps, normal, names)), notes)


class _Header:
    """What the header says, checked.

    Raises
    ------
    AnnotationUnusable, TooLarge
    """

    def __init__(self, content: bytes, version: int) -> None:
        if version < 0:
            raise AnnotationUnusable(
                "This is an Analyze file or the header of a NIfTI in two files (.hdr and .img); please save the mask as one "
                ".nii or .nii.gz file."
            )
        # Late, because it takes half a second and few sessions need it.
        from nibabel.nifti1 import Nifti1Header  # noqa: PLC0415
        from nibabel.nifti2 import Nifti2Header  # noqa: PLC0415

        kind: Any = Nifti1Header if version == 1 else Nifti2Header
        try:
            header = kind(content, check=False)
            shape = [int(size) for size in header.get_data_shape()]
            dtype = np.dtype(header.get_data_dtype())
            offset = float(header["vox_offset"])
            scale, shift = header.get_slope_inter()
            sform, sform_code = header.get_sform(coded=True)
            qform, qform_code = header.get_qform(coded=True)
            to_mm = _TO_MM.get(int(header["xyzt_units"]) & 7)
        except Exception:  # noqa: BLE001  the one seam around nibabel: HeaderDataError, KeyError, ValueError and more
            _refuse_damaged()
        self.scale, self.shift = (1.0, 0.0) if scale is None else (float(scale), float(shift))
        self.dtype = dtype
        self.shape = self._checked_shape(shape)
        if not _HEADER_BYTES[version] <= offset <= MOST_BYTES:
            _refuse_damaged()
        self.offset = int(offset)
        size = self.offset + int(np.prod([*self.shape, self.dtype.itemsize], dtype=object))
        if size > MOST_BYTES:
            raise TooLarge(
                f"This NIfTI of {' x '.join(f'{side:,}' for side in self.shape)} voxels unpacks to {size / 2**20:,.0f} MB, and "
                f"at most {MOST_BYTES // 2**20:,} MB are read; please save the mask in 8 bits, or cut to the open scan."
            )
        affine = sform if sform_code > 0 else qform if qform_code > 0 else None
        if affine is None:
            raise AnnotationUnusable(
                "This NIfTI does not say where in the patient it lies (its sform and qform codes are 0), so it cannot be put "
                "on the CT; please export it again with its position."
            )
        if to_mm is None or not np.isfinite(affine).all():
            _refuse_damaged()
        to_lps = np.diag([-1.0, -1.0, 1.0]) @ np.asarray(affine, np.float64)[:3] * to_mm
        sizes = np.linalg.norm(to_lps[:, :3], axis=0)
        if not ((sizes > 0) & (sizes < 1000)).all():
            _refuse_damaged()
        axes = to_lps[:, :3] / sizes
        if not np.allclose(axes.T @ axes, np.eye(3), atol=0.01):
            raise AnnotationUnusable(
                "The axes of this NIfTI are not at right angles to each other, so its planes are no CT slices; please resample "
                "the mask to the CT."
            )
        self.to_lps = to_lps

    def _checked_shape(self, shape: list[int]) -> tuple[int, int, int]:
        if not shape or min(shape) < 1 or self.dtype.kind not in "biuf":
            _refuse_damaged()
        while len(shape) > 3 and shape[-1] == 1:
            shape.pop()
        if len(shape) > 3:
            raise AnnotationUnusable(
                f"This NIfTI has {len(shape)} dimensions ({' x '.join(map(str, shape))}), and a mask has 3; please give one "
                "volume with one number for each voxel."
            )
        width, height, depth = [*shape, 1, 1][:3]
        return width, height, depth


def _refuse_damaged() -> NoReturn:
    raise AnnotationUnusable("This NIfTI is damaged, incomplete or no mask; please export it again.") from None


def _open(content: bytes) -> _Stream:
    return gzip.GzipFile(fileobj=BytesIO(content)) if content.startswith(_GZIP) else BytesIO(content)


def _take(stream: _Stream, size: int) -> bytes:
    try:
        taken = stream.read(size)
    except Exception:  # noqa: BLE001  zlib.error, EOFError and OSError on damaged gzip
        _refuse_damaged()
    if len(taken) < size:
        _refuse_damaged()
    return taken


def _beginning(content: bytes) -> bytes:
    """As much as a header has; what is no gzip and no header gives anything or nothing."""
    try:
        return _open(content).read(max(_HEADER_BYTES.values()))
    except Exception:  # noqa: BLE001  as above
        return b""


def _version(beginning: bytes) -> int | None:
    """1 or 2; -1 for Analyze and for a header whose voxels are in another file; None for anything else."""
    if len(beginning) < _HEADER_BYTES[1]:
        return None
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", beginning)
        if size == 540 and beginning[4:7] in (b"n+2", b"ni2"):
            return 2 if beginning[4:7] == b"n+2" else -1
        if size == 348:
            return 1 if beginning[344:348] == b"n+1\0" else -1
    return None


def _labels(stream: _Stream, header: _Header) -> tuple[npt.NDArray[np.uint8], list[int], tuple[str, ...]]:
    """The volume plane by plane of its last axis, as it is stored, so that only one plane is held in its own type.

    Returns
    -------
    (depth, height, width) uint8: 0 or the number, from 1, of a label; the labels; and notes.
    """
    width, height, depth = header.shape
    codes = np.zeros((depth, height, width), np.uint8)
    code_of: dict[int, int] = {}
    has_shares = False
    for plane in codes:
        stored = np.frombuffer(_take(stream, plane.size * header.dtype.itemsize), header.dtype).reshape(height, width)
        if not stored.any() and header.shift == 0:
            continue
        values, is_shares = _whole(stored, header)
        has_shares |= is_shares
        found = np.flatnonzero(np.bincount(values.ravel()))
        for label in found[found != 0].tolist():
            code_of.setdefault(label, len(code_of) + 1)
        if len(code_of) > MOST_LABELS:
            _refuse_image()
        table = np.zeros(LARGEST_LABEL + 1, np.uint8)
        table[found] = [code_of.get(label, 0) for label in found.tolist()]
        plane[:] = table[values]
    if has_shares and set(code_of) - {1}:
        _refuse_image()
    if not code_of:
        raise AnnotationUnusable("This NIfTI is empty: no voxel of it is annotated.")
    ordered = sorted(code_of)
    renumbered = np.zeros(MOST_LABELS + 1, np.uint8)
    for new, label in enumerate(ordered, start=1):
        renumbered[code_of[label]] = new
    note = f"This NIfTI holds probabilities: voxels of at least {SHARE_IN:g} were taken as annotated."
    return renumbered[codes], ordered, (note,) if has_shares else ()


def _whole(stored: npt.NDArray[Any], header: _Header) -> tuple[npt.NDArray[np.int64], bool]:
    """The plane's labels, and whether they were probabilities."""
    if header.dtype.kind in "biu" and (header.scale, header.shift) == (1, 0):
        if int(stored.min()) < 0 or int(stored.max()) > LARGEST_LABEL:
            _refuse_image()
        return stored.astype(np.int64), False
    with np.errstate(all="ignore"):
        values = stored.astype(np.float64) * header.scale + header.shift
    if not ((values >= 0) & (values <= LARGEST_LABEL)).all():
        _refuse_image()
    whole = np.rint(values)
    # A scale of 1/255 turns 255 into 1 but for float error.
    if np.allclose(values, whole, rtol=0, atol=1e-4):
        return whole.astype(np.int64), False
    if float(values.max()) > 1 + 1e-4:
        _refuse_image()
    return (values >= SHARE_IN).astype(np.int64), True


def _refuse_image() -> NoReturn:
    raise NotAnAnnotation(
        f"This NIfTI holds an image and not a mask (negative or large numbers, fractions or more than {MOST_LABELS} values); "
        "please give a volume with 0 outside the annotated areas and one whole number for each label."
    )


def _planes(
    volume: npt.NDArray[np.uint8], to_lps: npt.NDArray[np.float64], normal: npt.NDArray[np.float64], names: dict[int, Said]
) -> list[FromFile]:
    """Masks on the planes across the axis closest to the normal.

    Parameters
    ----------
    volume
        (k, j, i) numbers of labels.
    to_lps
        (3, 4) from (i, j, k) of a voxel's center to mm.
    """
    sizes = np.linalg.norm(to_lps[:, :3], axis=0)
    axes = (to_lps[:, :3] / sizes).T
    across = int(np.argmax(np.abs(axes @ normal)))
    # Rows run along the axis closest to the patient's left, so that a mask lies as CT slices do.
    right, down = sorted((axis for axis in range(3) if axis != across), key=lambda axis: -abs(float(axes[axis][0])))
    # Copied at once where the planes are not stored as such: one by one it would take ten times as long.
    stack = np.ascontiguousarray(volume.transpose(2 - across, 2 - down, 2 - right))
    items: list[FromFile] = []
    for number, plane in enumerate(stack):
        for code in np.flatnonzero(np.bincount(plane[plane != 0])).tolist():
            mask = plane == code
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            top, left = max(0, int(rows[0]) - 1), max(0, int(columns[0]) - 1)
            voxel = np.zeros(4)
            voxel[[across, down, right, 3]] = number, top, left, 1
            items.append(
                MaskInPatient(
                    mask=mask[top : rows[-1] + 2, left : columns[-1] + 2].copy(),
                    plane=Plane(_three(to_lps @ voxel), _three(axes[right]), _three(axes[down])),
                    spacing=PixelSpacing(row_mm=float(sizes[down]), column_mm=float(sizes[right])),
                    said=names[code],
                )
            )
    return items


def _three(vector: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z
