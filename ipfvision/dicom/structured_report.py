"""What was measured and said of slices, as a DICOM SR document by template TID 1500 (PS3.16)."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ipfvision.core.annotation import Finding
from ipfvision.dicom.attributes import quiet
from ipfvision.dicom.codes import COMMENT, CT, FINDINGS, IPF, LUNG, OWN_SCHEME, UNITS, Term, map_quantity, own
from ipfvision.dicom.originals import Maker, Original, Written, equipment, person_name, written


@dataclass(frozen=True, slots=True)
class Number:
    """One measurement. What is not defined is left out by the caller: there is no number for it."""

    what: Term
    value: float
    unit: str
    """A key of `ipfvision.dicom.codes.UNITS`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question with its answer from a fixed list."""

    question: Term
    answer: Term


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """What is said of one slice, or of one region on it."""

    name: str
    """What it is, in words: the tracking identifier."""
    original: int
    """Index of the slice."""
    numbers: tuple[Number, ...] = ()
    answers: tuple[Answer, ...] = ()
    comment: str = ""
    finding: Finding | None = None
    """Of the region; None where the whole slice is meant, whose question is IPF."""
    method: str | None = None
    """Of the map, where the region is the map's."""
    region: tuple[Written, int] | None = None
    """A segmentation and the number of a segment that is on this slice."""
    parameters: Mapping[str, str] | None = None
    """Of the network, where it says so; None where a person does."""
    seen_with: tuple[Written, ...] = ()
    """Images made of the slice: the map, the picture."""


def write_report(originals: Sequence[Original], groups: Sequence[Group], maker: Maker, series_number: int) -> Written:
    """Write a Comprehensive SR, by TID 1500, in the study of the slices; complete but not verified. It lists the slices meant.

    Raises
    ------
    ValueError
        If there is no group.
    """
    with quiet():
        others = {id(one): one for group in groups for one in _others(group)}
        meant = [originals[index] for index in sorted({group.original for group in groups})]
        made = sr.ComprehensiveSR(
            evidence=[*(one.reference for one in meant), *(one.reference for one in others.values())],
            content=sr.MeasurementReport(
                observation_context=_observers(maker),
                procedure_reported=CT,
                imaging_measurements=[_group(group, originals, maker) for group in groups],
                referenced_images=[_listed(one) for one in meant],
            )[0],
            series_instance_uid=generate_uid(),
            series_number=series_number,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            is_complete=True,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            coding_schemes=[CodingSchemeIdentificationItem(OWN_SCHEME, name="ipfvision", responsible_organization="ipfvision")],
            series_description=f"{maker.name}: report",
            **equipment(maker),
        )
        return written(made, originals)


def _others(group: Group) -> list[Written]:
    return [*(() if group.region is None else (group.region[0],)), *group.seen_with]


def _listed(original: Original) -> Dataset:
    """For the image library. highdicom describes the place and thickness of a CT, and fails where they are not known."""
    scan = original.scan
    if scan.plane is not None and scan.spacing is not None and scan.thickness_mm is not None:
        return original.reference
    bare = copy(original.reference)
    bare.Modality = "OT"
    return bare


def _observers(maker: Maker) -> sr.ObservationContext:
    device = sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=[maker.name, maker.version, maker.model_sha256]),
            name=maker.name,
            manufacturer_name=maker.name,
            model_name=maker.model_name,
            serial_number=maker.model_sha256,
        ),
    )
    if maker.reader is None:
        return sr.ObservationContext(observer_device_context=device)
    person = sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name=person_name(maker.reader)))
    return sr.ObservationContext(observer_person_context=person, observer_device_context=device)


def _group(
    group: Group, originals: Sequence[Original], maker: Maker
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations:
    reference = originals[group.original].reference
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=generate_uid(), identifier=group.name),
        "finding_sites": [sr.FindingSite(LUNG)],
        "measurements": [sr.Measurement(name=own(one.what), value=one.value, unit=UNITS[one.unit]) for one in group.numbers],
        "qualitative_evaluations": [sr.QualitativeEvaluation(own(one.question), own(one.answer)) for one in group.answers],
        "algorithm_id": None
        if group.parameters is None
        else sr.AlgorithmIdentification(
            name=maker.model_name,
            version=maker.model_sha256,
            parameters=[f"{name}={value}" for name, value in group.parameters.items()],
        ),
    }
    made: sr.PlanarROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations
    if group.region is None:
        sources = [reference, *(one.reference for one in group.seen_with)]
        made = sr.MeasurementsAndQualitativeEvaluations(
            finding_type=IPF,
            source_images=[sr.SourceImageForMeasurementGroup(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in sources],
            **common,
        )
    else:
        segmentation, number = group.region
        referenced = sr.ReferencedSegmentationFrame(
            sop_class_uid=str(segmentation.reference.SOPClassUID),
            sop_instance_uid=str(segmentation.reference.SOPInstanceUID),
            frame_number=segmentation.frames[number, group.original],
            segment_number=number,
            source_image=sr.SourceImageForSegmentation(str(reference.SOPClassUID), str(reference.SOPInstanceUID)),
        )
        # A frame is of one segment, so that its number is not given beside that of the frame (PS3.3 10.3, Table 10-3).
        del referenced[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
        made = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            finding_type=FINDINGS[group.finding] if group.finding is not None else map_quantity(group.method or ""),
            referenced_segment=referenced,
            **common,
        )
    if group.comment:
        made[0].ContentSequence.append(
            sr.TextContentItem(name=COMMENT, value=group.comment, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        )
    return made
