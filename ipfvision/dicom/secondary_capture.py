"""A picture as DICOM Secondary Capture, in the study that it was made of (PS3.3 A.8.1)."""

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ipfvision.core.orientation import edges
from ipfvision.dicom.attributes import quiet
from ipfvision.dicom.originals import Maker, Original, Written, equipment, written


def write_picture(original: Original, picture: npt.NDArray[np.uint8], maker: Maker, series_number: int) -> Written:
    """Write an (H, W, 3) RGB picture of one slice, pixel for pixel."""
    with quiet():
        kept = equipment(maker)
        made = hd.sc.SCImage.from_ref_dataset(
            original.reference,
            pixel_array=picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            series_instance_uid=generate_uid(),
            series_number=series_number,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=kept.pop("manufacturer"),
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description=f"{maker.name}: picture",
            **kept,
        )
        plane = original.scan.plane
        seen = None if plane is None else edges(plane)
        made.PatientOrientation = [] if seen is None else [seen.right, seen.bottom]
        made.BodyPartExamined = "CHEST"
        made.ConversionType = "WSD"
        # The words that are added name nobody; what the slice itself has burned in is in the picture, too.
        made.BurnedInAnnotation = "YES" if original.burned_in else "NO"
        made.DerivationDescription = "CT slice, heat map over it, annotations. Research use only, not for diagnosis."
        source = Dataset()
        source.ReferencedSOPClassUID = original.reference.SOPClassUID
        source.ReferencedSOPInstanceUID = original.reference.SOPInstanceUID
        made.SourceImageSequence = [source]
        return written(made, [original])
