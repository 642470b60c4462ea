"""DICOM in and out: bytes to `Slice` and back. pydicom and the pixel decoders are imported nowhere else."""

from ipfvision.dicom.writing import write_ct

__all__ = ["write_ct"]
