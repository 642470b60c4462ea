"""The DICOM files of slices, once more, for the moment in which something is written that belongs to their study.

A `Slice` holds nothing that names a patient, but DICOM wants the patient and the study in every object, letter for letter. So
an export asks for the files again. `Original` holds what it needs of one; nobody keeps, logs or shows it.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import UID, CTImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from ipfvision.core.slice import PixelSpacing, Plane, Slice, Source
from ipfvision.dicom.attributes import Attributes, is_dicom, parse, quiet
from ipfvision.dicom.reading import read
from ipfvision.errors import InputRefused

# highdicom logs names that it finds odd. Nothing of a patient may reach a log, whoever has set up logging.
_log = logging.getLogger("highdicom")
_log.addHandler(logging.NullHandler())
_log.propagate = False

_UTF8 = "ISO_IR 192"
_AFTER_UID = 0x00080018
_PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID",
    "PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup",
    "QualityControlSubject", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "PatientComments",
)  # fmt: skip
_STUDY = (
    "StudyDate", "StudyTime", "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyID", "StudyDescription",
    "ReferringPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight", "Occupation",
    "AdditionalPatientHistory", "PregnancyStatus", "PatientSexNeutered",
)  # fmt: skip
_TRIAL = (
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)  # fmt: skip
"""Patient, General Study, Patient Study and Clinical Trial Modules (PS3.3 C.7.1, C.7.2): a patient and a study are described
alike in all their objects; otherwise archives take them for two."""
_SAME_PATIENT = {
    "PatientID": "Patient ID (0010,0020)",
    "PatientName": "Patient's Name (0010,0010)",
    "PatientBirthDate": "Patient's Birth Date (0010,0030)",
}
_SAME_PLACE = {
    "StudyInstanceUID": "Study Instance UID (0020,000D)",
    "SeriesInstanceUID": "Series Instance UID (0020,000E)",
    "FrameOfReferenceUID": "Frame of Reference UID (0020,0052)",
}
"""What the slices of one object have in common."""


@dataclass(frozen=True, slots=True)
class Maker:
    """What makes the objects: General Equipment Module (PS3.3 C.7.5.1)."""

    name: str
    version: str
    model_name: str
    """Of the network, not of a device."""
    model_sha256: str
    reader: str | None = None
    """Who drew and judged, as typed in; None where nobody did."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Original:
    """A slice and what its file says of patient, study and place."""

    scan: Slice
    sop_class_uid: str
    sop_instance_uid: str
    reference: Dataset
    """A single-frame CT image as highdicom wants it, without a patient. Its SOP Instance UID stands for the frame, and is not
    that of the file where the file has several."""
    identity: tuple[DataElement, ...]
    character_set: str | tuple[str, ...] | None
    burned_in: bool
    """The file says that its pixels name somebody, or may: Burned In Annotation (0028,0301)."""

    @property
    def plane(self) -> Plane:
        """Where the slice lies. Raises InputRefused where the file does not say."""
        if self.scan.plane is None or self.scan.source.frame_of_reference_uid is None:
            raise InputRefused(
                "The file of this slice does not say where it lies (Image Position (Patient) (0020,0032), Image Orientation "
                "(Patient) (0020,0037) or Frame of Reference UID (0020,0052) is missing), so no mask or map can be laid on it; "
                "please export the CT again."
            )
        return self.scan.plane

    @property
    def spacing(self) -> PixelSpacing:
        """Raises InputRefused where the file does not say."""
        if self.scan.spacing is None:
            raise InputRefused(
                "The file of this slice does not say how large its pixels are (Pixel Spacing (0028,0030) is missing), so no "
                "mask or map can be laid on it; please export the CT again."
            )
        return self.scan.spacing


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Written:
    """A DICOM object, made."""

    content: bytes
    """A whole file (PS3.10)."""
    reference: Dataset
    """Its UIDs, for objects that refer to it."""
    frames: Mapping[tuple[int, int], int]
    """Frame number, from 1, by (segment number, index of the slice); the segment is 0 where there is none."""


def find_originals(content: bytes, scans: Sequence[Slice]) -> dict[int, Original]:
    """Which of the slices come from this file.

    Returns
    -------
    By index of the slice; empty if the file is another one, or no DICOM image at all.

    Raises
    ------
    InputRefused
        If it says that it is a slice's file, but holds other pixels, is of another study or series, is damaged, or does not
        name its study and series.
    """
    if not is_dicom(content):
        return {}
    with quiet():
        uid = _sop_instance_uid(content)
        wanted = {index: scan for index, scan in enumerate(scans) if uid is not None and scan.source.sop_instance_uid == uid}
        if not wanted:
            return {}
        now = {one.source.frame: one.source for one in read(content, "")}
        for scan in wanted.values():
            _check_unchanged(now.get(scan.source.frame), scan.source)
        dataset, _ = parse(content)
        return {index: _original(dataset, scan) for index, scan in wanted.items()}


def _check_unchanged(now: Source | None, before: Source) -> None:
    """Whether a slice's file is still the one that was read."""
    if now is None or now.pixel_sha256 != before.pixel_sha256:
        raise InputRefused(
            "This file has the number of a slice that was read (SOP Instance UID (0008,0018)) but other pixels: it was "
            "changed since; please give the file that was read."
        )
    uids = (
        (now.study_instance_uid, before.study_instance_uid),
        (now.series_instance_uid, before.series_instance_uid),
        (now.frame_of_reference_uid, before.frame_of_reference_uid),
    )
    changed = [said for said, (new, old) in zip(_SAME_PLACE.values(), uids, strict=True) if old not in (None, new)]
    if changed:
        raise InputRefused(
            f"This file has the number and the pixels of a slice that was read, but not its {', '.join(changed)}: it was "
            "changed since, or is of an anonymized copy; please give the file that was read."
        )


def check_one_patient(originals: Sequence[Original]) -> None:
    """Refuse files that do not all name one patient, study, series and frame of reference: only the first one's are written.

    Raises
    ------
    InputRefused
        It names the attributes that differ, and no value. What a file lacks is as empty.
    """
    with quiet():
        known = [{element.keyword: _plain(element) for element in one.identity} for one in originals]
    differing = [said for keyword, said in _SAME_PATIENT.items() if len({one.get(keyword, "") for one in known}) > 1]
    differing += [
        said for keyword, said in _SAME_PLACE.items() if len({str(one.reference.get(keyword, "")) for one in originals}) > 1
    ]
    if differing:
        raise InputRefused(
            f"The files of these slices differ in {', '.join(differing)}: they are of more than one patient or series, or some "
            "are of an anonymized copy, so nothing can be written that belongs to all; please give the files of one scan."
        )


def _plain(element: DataElement) -> str:
    """A value without the padding and the empty components at its end, which mean nothing (PS3.5 6.2)."""
    return "" if element.value is None else str(element.value).rstrip(" ^=\0").lstrip(" ")


def _sop_instance_uid(content: bytes) -> str | None:
    try:
        dataset = read_partial(BytesIO(content), stop_when=lambda tag, _vr, _length: int(tag) > _AFTER_UID, force=True)
    except Exception:  # noqa: BLE001  pydicom raises many things on damaged files, and those are nobody's original
        return None
    return Attributes(dataset).uid(_AFTER_UID)


def _original(dataset: Dataset, scan: Slice) -> Original:
    attributes = Attributes(dataset)
    study, series = attributes.uid(0x0020000D), attributes.uid(0x0020000E)
    instance = attributes.uid(_AFTER_UID)
    if study is None or series is None or instance is None:
        raise InputRefused(
            "The file of this slice does not name its study or series (Study Instance UID (0020,000D), Series Instance UID "
            "(0020,000E)), so nothing can be added to them; please export the CT again."
        )
    # Some exports keep the class in the meta information only (0002,0002), and some nowhere; it was read as CT.
    meta = getattr(dataset, "file_meta", None)
    named = None if meta is None else Attributes(meta).uid(0x00020002)
    sop_class = attributes.uid(0x00080016) or named or CTImageStorage
    reference = Dataset()
    reference.SOPClassUID = CTImageStorage
    reference.SOPInstanceUID = instance if scan.source.frame is None else generate_uid()
    reference.StudyInstanceUID, reference.SeriesInstanceUID = study, series
    reference.Modality = "CT"
    reference.Rows, reference.Columns = scan.shape
    for keyword in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
    ):
        setattr(reference, keyword, None)
    if scan.plane is not None:
        reference.ImagePositionPatient = [DSfloat(value, auto_format=True) for value in scan.plane.position]
        cosines = (*scan.plane.row, *scan.plane.column)
        reference.ImageOrientationPatient = [DSfloat(value, auto_format=True) for value in cosines]
    if scan.spacing is not None:
        reference.PixelSpacing = [DSfloat(value, auto_format=True) for value in (scan.spacing.row_mm, scan.spacing.column_mm)]
    reference.SliceThickness = None if scan.thickness_mm is None else DSfloat(scan.thickness_mm, auto_format=True)
    if scan.source.frame_of_reference_uid is not None:
        reference.FrameOfReferenceUID = scan.source.frame_of_reference_uid
        reference.PositionReferenceIndicator = attributes.text(0x00201040) or ""
    if attributes.text(0x00282110) == "01":
        reference.LossyImageCompression = "01"
        if ratios := attributes.numbers(0x00282112):
            reference.LossyImageCompressionRatio = [DSfloat(ratio, auto_format=True) for ratio in ratios]
        if methods := attributes.words(0x00282114):
            reference.LossyImageCompressionMethod = list(methods)
    character_set = attributes.words(0x00080005)
    return Original(
        scan=scan,
        sop_class_uid=sop_class,
        sop_instance_uid=instance,
        reference=reference,
        identity=tuple(_elements(dataset)),
        character_set=character_set if len(character_set) > 1 else "".join(character_set) or None,
        burned_in=attributes.text(0x00280301) == "YES",
    )


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """What describes patient and study, where it can be read."""
    for keyword in (*_PATIENT, *_STUDY, *_TRIAL):
        tag = tag_for_keyword(keyword)
        if tag is not None and tag in dataset:
            try:
                yield dataset[tag]
            except Exception:  # noqa: BLE001, S112  pydicom converts here and raises; what it says may name the patient
                continue


def equipment(maker: Maker) -> dict[str, Any]:
    """Keyword arguments of highdicom's classes. A program has no serial number; its model's hash says which one it was."""
    return {
        "manufacturer": maker.name,
        "manufacturer_model_name": maker.name,
        "software_versions": maker.version,
        "device_serial_number": maker.model_sha256,
    }


def person_name(reader: str) -> str:
    """A typed name as a Person Name of one component (PS3.5 6.2): without the characters that divide components."""
    plain = "".join(" " if character in "^=\\" or not character.isprintable() else character for character in reader)
    # 64 characters are allowed, and some programs count bytes.
    return " ".join(plain.split()).encode()[:63].decode(errors="ignore") + "^"


def finish(made: Dataset, originals: Sequence[Original]) -> bytes:
    """The object as a file: with patient and study of the originals, and references to frames where they have several.

    Use inside `quiet`.
    """
    first = originals[0]
    buffer = BytesIO()
    made.SpecificCharacterSet = _UTF8
    made.save_as(buffer, enforce_file_format=True)
    out = dcmread(BytesIO(buffer.getvalue()))  # a copy in which no two sequences share an item
    _point_to_frames(out, {str(one.reference.SOPInstanceUID): one for one in originals if one.scan.source.frame is not None})
    is_ascii = all(_is_ascii(element) for element in out.iterall() if element.VR not in ("OB", "OW", "OF", "OD", "UN", "SQ"))
    for element in first.identity:
        out[element.tag] = element
    # Names keep their own bytes unless something was typed in that their character set may not hold.
    if is_ascii and first.character_set is not None:
        out.SpecificCharacterSet = first.character_set if isinstance(first.character_set, str) else list(first.character_set)
    elif is_ascii:
        del out.SpecificCharacterSet
    final = BytesIO()
    out.save_as(final, enforce_file_format=True)
    return final.getvalue()


def written(made: Dataset, originals: Sequence[Original], frames: Mapping[tuple[int, int], int] | None = None) -> Written:
    """`finish`, with what others need to refer to it."""
    reference = Dataset()
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        setattr(reference, keyword, made[keyword].value)
    return Written(finish(made, originals), reference, frames or {})


def frame_numbers(made: Dataset, originals: Sequence[Original]) -> dict[tuple[int, int], int]:
    """Which frame of a multi-frame object shows which segment on which slice, as `Written.frames` has it."""
    indices = {str(one.reference.SOPInstanceUID): index for index, one in enumerate(originals)}
    shared = made.SharedFunctionalGroupsSequence[0]
    found = {}
    for number, group in enumerate(made.PerFrameFunctionalGroupsSequence, 1):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        segment = 0
        for one in (group, shared):
            if "SegmentIdentificationSequence" in one:
                segment = int(one.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        found[segment, indices[str(source.ReferencedSOPInstanceUID)]] = number
    return found


def _is_ascii(element: DataElement) -> bool:
    return str(element.value).isascii()


def _point_to_frames(dataset: Dataset, frames: Mapping[str, Original], *, is_evidence: bool = False) -> None:
    """Put the file and the frame number in the place of each stand-in. Lists of whole instances name each once (PS3.3 10.3)."""
    if not frames:
        return
    for element in dataset:
        if element.VR != "SQ":
            continue
        items: Iterable[Dataset] = element.value
        kept: list[Dataset] = []
        named: set[str] = set()
        for item in items:
            original = frames.get(str(item.get("ReferencedSOPInstanceUID", "")))
            if original is not None:
                item.ReferencedSOPClassUID = UID(original.sop_class_uid)
                item.ReferencedSOPInstanceUID = UID(original.sop_instance_uid)
                if is_evidence:
                    if original.sop_instance_uid in named:
                        continue
                    named.add(original.sop_instance_uid)
                else:
                    item.ReferencedFrameNumber = original.scan.source.frame
            _point_to_frames(item, frames, is_evidence=is_evidence or element.keyword == "ReferencedSeriesSequence")
            kept.append(item)
        if len(kept) < len(element.value):
            element.value = kept
