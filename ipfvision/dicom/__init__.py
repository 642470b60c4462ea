"""DICOM in and out: bytes to `Slice` and back. pydicom and the pixel decoders are imported nowhere else."""

from ipfvision.dicom.attributes import is_dicom
from ipfvision.dicom.reading import read
from ipfvision.dicom.writing import write_ct

__all__ = ["is_dicom", "read", "write_ct"]
