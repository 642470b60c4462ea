"""DICOM in and out: bytes to `Slice` and back. pydicom and the pixel decoders are imported nowhere else."""

from ipfvision.dicom.annotations import is_annotation, read_annotations
from ipfvision.dicom.attributes import is_dicom
from ipfvision.dicom.reading import read
from ipfvision.dicom.writing import write_ct

__all__ = ["is_annotation", "is_dicom", "read", "read_annotations", "write_ct"]
