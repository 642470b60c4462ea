"""What a reader or a program drew on CT slices, from DICOM: SEG and RTSTRUCT."""

from io import BytesIO
from typing import Any

from pydicom.filereader import read_partial

from ipfvision.core.annotation import FromFile
from ipfvision.dicom.attributes import Attributes, is_dicom, parse, quiet
from ipfvision.dicom.segmentation import LABEL_MAP, SEGMENTATION, read_segmentation
from ipfvision.dicom.structure_set import STRUCTURE_SET, read_structure_set
from ipfvision.errors import InputRefused, NotAnImage

_SOP_CLASS = 0x00080016
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def is_annotation(content: bytes) -> bool:
    """Whether the content is a DICOM SEG or RTSTRUCT, by its SOP Class UID; cheap, so that it can be asked of every file."""
    if not is_dicom(content):
        return False
    with quiet():
        try:
            if _DEFLATED in content[:1024]:
                dataset, _ = parse(content)  # pydicom would inflate all of it, without a limit
            else:
                dataset = read_partial(BytesIO(content), stop_when=_is_after_sop_class, force=True)
        except Exception:  # noqa: BLE001  pydicom raises many things on damaged files, and those are no annotation
            return False
        return _sop_class(dataset) in (SEGMENTATION, LABEL_MAP, STRUCTURE_SET)


def read_annotations(content: bytes) -> tuple[FromFile, ...]:
    """Read a DICOM SEG or RTSTRUCT, without asking whether the slices that it was drawn on are there.

    Returns
    -------
    At least one `MaskInPatient` or `ContoursInPatient`; `ipfvision.core.placement.place` puts them on slices.

    Raises
    ------
    InputRefused
        If it is neither, is damaged or truncated, does not say where it lies, or holds nothing.
    TooLarge
        If its sizes ask for too much; nothing is decoded then.
    """
    with quiet():
        dataset, syntax = parse(content)
        sop_class = _sop_class(dataset)
        try:
            if sop_class == STRUCTURE_SET:
                return read_structure_set(dataset)
            if sop_class in (SEGMENTATION, LABEL_MAP):
                return read_segmentation(Attributes(dataset), syntax)
        except InputRefused:
            raise
        except Exception:  # noqa: BLE001  pydicom converts an element when it is asked for it, and raises many things
            raise NotAnImage("This DICOM annotation is damaged or incomplete; please export it again.") from None
    raise InputRefused(
        "This DICOM file is neither a segmentation (SEG) nor a set of contours (RTSTRUCT) by its SOP Class (0008,0016); please "
        "give one of these, drawn on the open CT."
    )


def _is_after_sop_class(tag: Any, _vr: str | None, _length: int) -> bool:
    return int(tag) > _SOP_CLASS


def _sop_class(dataset: Any) -> str | None:
    """SOP Class UID (0008,0016), else that of the File Meta Information (0002,0002)."""
    meta = getattr(dataset, "file_meta", None)
    return Attributes(dataset).uid(_SOP_CLASS) or (None if meta is None else Attributes(meta).uid(0x00020002))
