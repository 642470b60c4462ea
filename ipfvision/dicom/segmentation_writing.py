"""Masks on slices as DICOM Segmentation (SEG): what a reader drew, and where a map is high."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from ipfvision.core.annotation import Finding
from ipfvision.dicom.attributes import quiet
from ipfvision.dicom.codes import ABNORMAL, ARTIFICIAL_INTELLIGENCE, FINDINGS, LUNG, SPATIAL, map_quantity
from ipfvision.dicom.originals import Maker, Original, Written, equipment, frame_numbers, person_name, written
from ipfvision.errors import InputRefused

Mask = npt.NDArray[np.bool_]
LONGEST_LABEL = 64
SAME_COSINE = 1e-4
"""Largest difference between directions that count as one: 0.05 mm across a slice of 500 mm."""


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """One finding, on all slices."""

    finding: Finding
    label: str
    masks: tuple[Mask, ...]
    """(H, W) of each slice, in the order of the originals; at least one pixel is set."""

    def __post_init__(self) -> None:
        if not any(mask.any() for mask in self.masks):
            raise ValueError("a segment has at least one pixel")


def write_drawn(originals: Sequence[Original], areas: Sequence[Area], maker: Maker, series_number: int) -> Written:
    """What a person drew: one MANUAL segment for each finding (PS3.3 C.8.20.2), on the slices' own pixels.

    Frames on which nothing of a segment was drawn are left out.

    Raises
    ------
    InputRefused
        If a slice does not say where it lies.
    ValueError
        If there is no area, or a mask is not of its slice.
    """
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=area.label[:LONGEST_LABEL],
            segmented_property_category=ABNORMAL,
            segmented_property_type=FINDINGS[area.finding],
            algorithm_type="MANUAL",
            tracking_id=area.label[:LONGEST_LABEL],
            tracking_uid=generate_uid(),
            anatomic_regions=[LUNG],
        )
        for number, area in enumerate(areas, 1)
    ]
    return _write(originals, [area.masks for area in areas], descriptions, maker, series_number, "READER", "Drawn by a reader")


def write_map_region(
    originals: Sequence[Original],
    masks: Sequence[Mask],
    maker: Maker,
    series_number: int,
    *,
    method: str,
    label: str,
    parameters: Mapping[str, str],
) -> Written:
    """Where a map is high: one AUTOMATIC segment, with the model's name, and its SHA-256 as the algorithm's version.

    Parameters
    ----------
    masks
        (H, W) of each slice; at least one pixel is set.
    method
        As in `ipfvision.core.findings.Explanation`.

    Raises
    ------
    InputRefused
        If a slice does not say where it lies.
    ValueError
        If no pixel is set, or a mask is not of its slice.
    """
    if not any(mask.any() for mask in masks):
        raise ValueError("a segment has at least one pixel")
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=label[:LONGEST_LABEL],
        segmented_property_category=SPATIAL,
        segmented_property_type=map_quantity(method),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm(maker, parameters),
        tracking_id=label[:LONGEST_LABEL],
        tracking_uid=generate_uid(),
        anatomic_regions=[LUNG],
    )
    return _write(originals, [masks], [description], maker, series_number, "MAP", "Where the map is high")


def algorithm(maker: Maker, parameters: Mapping[str, str]) -> hd.AlgorithmIdentificationSequence:
    """Algorithm Identification Macro (PS3.3 10.16): the network by name and by its weights' hash."""
    return hd.AlgorithmIdentificationSequence(
        name=maker.model_name[:LONGEST_LABEL],
        family=ARTIFICIAL_INTELLIGENCE,
        version=maker.model_sha256,
        source=maker.name,
        parameters=dict(parameters),
    )


def geometry(
    originals: Sequence[Original],
) -> tuple[hd.PixelMeasuresSequence, hd.PlaneOrientationSequence, list[hd.PlanePositionSequence]]:
    """Pixel Measures, Plane Orientation and Plane Position of the slices themselves (PS3.3 C.7.6.16.2).

    Raises
    ------
    InputRefused
        If one of them does not say where it lies, or they do not lie apart in one direction.
    """
    planes, spacings = [one.plane for one in originals], [one.spacing for one in originals]
    # One orientation and one spacing describe all frames here, so they must be those of each.
    sides = np.array([(*plane.row, *plane.column) for plane in planes])
    sizes = np.array([(spacing.row_mm, spacing.column_mm) for spacing in spacings])
    if np.abs(sides - sides[0]).max() > SAME_COSINE or np.abs(sizes / sizes[0] - 1).max() > SAME_COSINE:
        raise InputRefused(
            "The slices are not parallel or not of one pixel size (Image Orientation (Patient) (0020,0037), Pixel Spacing "
            "(0028,0030)), so no mask or map can be laid on all of them; please send them in parts."
        )
    if len({tuple(np.round(plane.position, 3)) for plane in planes}) < len(planes):
        raise InputRefused(
            "Two of the slices lie at one place (Image Position (Patient) (0020,0032)), so it would not be known on which of "
            "them a mask or map lies; please send one of them."
        )
    return (
        hd.PixelMeasuresSequence((spacings[0].row_mm, spacings[0].column_mm), originals[0].scan.thickness_mm),
        hd.PlaneOrientationSequence("PATIENT", (*planes[0].row, *planes[0].column)),
        [hd.PlanePositionSequence("PATIENT", plane.position) for plane in planes],
    )


def _references(originals: Sequence[Original]) -> list[Dataset]:
    """With a Slice Thickness (0018,0050), which a SEG must have: where the scan has none, the smallest gap, or a pixel's side.

    highdicom takes it from here, and not from the Pixel Measures that it is given.
    """
    references = [one.reference for one in originals]
    if originals[0].scan.thickness_mm is not None:
        return references
    normal, spacing = originals[0].plane.normal, originals[0].spacing
    gaps = np.diff(np.sort([float(normal @ np.asarray(one.plane.position)) for one in originals]))
    thickness = min([float(gap) for gap in gaps if gap > 0], default=min(spacing.row_mm, spacing.column_mm))
    copies = [copy(one) for one in references]
    for one in copies:
        one.SliceThickness = DSfloat(thickness, auto_format=True)
    return copies


def _write(
    originals: Sequence[Original],
    segments: Sequence[Sequence[Mask]],
    descriptions: Sequence[hd.seg.SegmentDescription],
    maker: Maker,
    series_number: int,
    content_label: str,
    description: str,
) -> Written:
    pixels = np.stack([np.stack(masks) for masks in segments], axis=-1)
    if pixels.shape[:3] != (len(originals), *originals[0].scan.shape):
        raise ValueError(f"masks of {pixels.shape[:3]} are not of these slices")
    measures, orientation, positions = geometry(originals)
    with quiet():
        made = hd.seg.Segmentation(
            source_images=_references(originals),
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=list(descriptions),
            series_instance_uid=generate_uid(),
            series_number=series_number,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            pixel_measures=measures,
            plane_orientation=orientation,
            plane_positions=positions,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label=content_label,
            content_description=description,
            content_creator_name=None if maker.reader is None else person_name(maker.reader),
            series_description=f"{maker.name}: {description[0].lower()}{description[1:]}",
            **equipment(maker),
        )
        return written(made, originals, frame_numbers(made, originals))
