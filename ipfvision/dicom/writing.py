"""A slice as a CT Image Storage object: for the sample scans and the tests."""

from io import BytesIO

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from ipfvision.core.slice import Scale, Slice

INTERCEPT_HU = -1024
"""Hounsfield units of a stored 0, as most scanners write it: 12 unsigned bits then hold -1024 to 3071 HU."""
HIGHEST_STORED = 4095


def write_ct(scan: Slice, *, uid_seed: str) -> bytes:
    """Write a slice as a minimal valid CT Image Storage object (PS3.3 A.3), explicit little endian.

    12 bits are stored with a slope of 1 and an intercept of -1024: Hounsfield units are rounded, and those outside -1024 to
    3071 are clipped. If the slice has padding, 0 is the Pixel Padding Value (0028,0120) and measured values start at -1023.

    Parameters
    ----------
    scan
        In Hounsfield units. Its Study, Series, Frame of Reference and SOP Instance UID are kept where it has them.
    uid_seed
        The same seed gives the same UIDs, and so the same bytes. Slices of one series need the same Series Instance UID in
        their `source`, or the same seed; then instance number and plane tell them apart.

    Returns
    -------
    A DICOM file with preamble, of a patient named "Anonymous" and without any date.

    Raises
    ------
    ValueError
        If the slice has no Hounsfield units.
    """
    if scan.scale is not Scale.HOUNSFIELD:
        raise ValueError("a CT image needs Hounsfield units, and this slice has none")
    source = scan.source
    number = 1 if source.instance_number is None else source.instance_number

    def uid(kept: str | None, *words: str) -> UID:
        return UID(kept) if kept else generate_uid(entropy_srcs=["ipfvision", uid_seed, *words])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid(source.sop_instance_uid, "instance", str(number), repr(scan.plane))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = generate_uid(entropy_srcs=["ipfvision", "implementation"])
    meta.ImplementationVersionName = "IPFVISION"

    out = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    out.SOPClassUID = CTImageStorage
    out.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    # Type 2 attributes: present, and empty where nothing is known.
    out.PatientName = "Anonymous"
    for keyword in ("PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"):
        setattr(out, keyword, "")
    out.ReferringPhysicianName = ""
    out.PatientIdentityRemoved = "YES"
    out.DeidentificationMethod = "no patient: written by ipfvision"
    out.StudyInstanceUID = uid(source.study_instance_uid, "study")
    out.SeriesInstanceUID = uid(source.series_instance_uid, "series")
    out.FrameOfReferenceUID = uid(source.frame_of_reference_uid, "frame of reference")
    out.PositionReferenceIndicator = ""
    out.SeriesNumber = 1
    out.InstanceNumber = number
    out.AcquisitionNumber = 1
    out.PatientPosition = "HFS"
    out.Modality = "CT"
    out.Manufacturer = source.manufacturer or ""
    out.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    out.BodyPartExamined = "CHEST"
    out.KVP = ""
    out.BurnedInAnnotation = "NO"
    if source.kernel:
        out.ConvolutionKernel = source.kernel.split("\\")
    _describe_geometry(out, scan)
    _describe_pixels(out, scan)

    buffer = BytesIO()
    dcmwrite(buffer, out, enforce_file_format=True)
    return buffer.getvalue()


def _describe_geometry(out: Dataset, scan: Slice) -> None:
    """Image Plane Module (PS3.3 C.7.6.2). Where the slice knows no place, it is axial with its first pixel at the origin."""
    plane, spacing = scan.plane, scan.spacing
    out.SliceThickness = "" if scan.thickness_mm is None else DSfloat(scan.thickness_mm, auto_format=True)
    if spacing is not None:
        out.PixelSpacing = [DSfloat(value, auto_format=True) for value in (spacing.row_mm, spacing.column_mm)]
    orientation = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0) if plane is None else (*plane.row, *plane.column)
    position = (0.0, 0.0, 0.0) if plane is None else plane.position
    out.ImageOrientationPatient = [DSfloat(value, auto_format=True) for value in orientation]
    out.ImagePositionPatient = [DSfloat(value, auto_format=True) for value in position]


def _describe_pixels(out: Dataset, scan: Slice) -> None:
    """Image Pixel and CT Image Modules (PS3.3 C.7.6.3, C.8.2.1)."""
    has_padding = bool(scan.padding.any())
    hu = np.rint(scan.pixels).astype(np.float64)
    stored = np.clip(hu - INTERCEPT_HU, 1 if has_padding else 0, HIGHEST_STORED).astype("<u2")
    if has_padding:
        stored[scan.padding] = 0
        out.PixelPaddingValue = 0
    out.SamplesPerPixel = 1
    out.PhotometricInterpretation = "MONOCHROME1" if scan.inverted else "MONOCHROME2"
    out.Rows, out.Columns = scan.shape
    out.BitsAllocated = 16
    out.BitsStored = 12
    out.HighBit = 11
    out.PixelRepresentation = 0
    out.RescaleIntercept = INTERCEPT_HU
    out.RescaleSlope = 1
    out.RescaleType = "HU"
    if scan.file_window is not None:
        out.WindowCenter = DSfloat(scan.file_window.center, auto_format=True)
        out.WindowWidth = DSfloat(scan.file_window.width, auto_format=True)
    out.PixelData = stored.tobytes()
