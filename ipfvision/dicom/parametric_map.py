"""A heat map on slices as DICOM Parametric Map (PS3.3 A.75)."""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ipfvision.dicom.attributes import quiet
from ipfvision.dicom.codes import UNITS, map_quantity
from ipfvision.dicom.originals import Maker, Original, Written, equipment, frame_numbers, written
from ipfvision.dicom.segmentation_writing import LONGEST_LABEL, geometry


def write_map(
    originals: Sequence[Original],
    maps: Sequence[npt.NDArray[np.float32]],
    maker: Maker,
    series_number: int,
    *,
    method: str,
    explanation: str,
    full_scale: float,
) -> Written:
    """Write a map's own values, without scaling, on the slices' own pixels; a frame for each slice.

    Parameters
    ----------
    maps
        (H, W) float32, at least 0.
    method
        As in `ipfvision.core.findings.Explanation`.
    explanation
        What the values are and of what, in at most 64 characters.
    full_scale
        Value shown in full brightness: the map's window.

    Raises
    ------
    InputRefused
        If a slice does not say where it lies.
    ValueError
        If a map is not of its slice.
    """
    pixels = np.stack(maps).astype(np.float32)
    if pixels.shape != (len(originals), *originals[0].scan.shape):
        raise ValueError(f"maps of {pixels.shape} are not of these slices")
    measures, orientation, positions = geometry(originals)
    with quiet():
        mapping = hd.pm.RealWorldValueMapping(
            lut_label=method[:16],
            lut_explanation=explanation[:LONGEST_LABEL],
            unit=UNITS["1"],
            value_range=(0.0, max(float(pixels.max()), full_scale)),
            slope=1.0,
            intercept=0.0,
            quantity_definition=map_quantity(method),
        )
        made = hd.pm.ParametricMap(
            source_images=[one.reference for one in originals],
            pixel_array=pixels,
            series_instance_uid=generate_uid(),
            series_number=series_number,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[hd.VOILUTTransformation(window_center=full_scale / 2, window_width=full_scale)],
            pixel_measures=measures,
            plane_orientation=orientation,
            plane_positions=positions,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label="MAP",
            content_description=explanation[:LONGEST_LABEL],
            series_description=f"{maker.name}: heat map",
            **equipment(maker),
        )
        made.BodyPartExamined = "CHEST"
        return written(made, originals, frame_numbers(made, originals))
