"""Whatever cannot be read is refused in a sentence with its tag, and no sentence or source names a patient."""

import logging
import struct
import tracemalloc
import warnings
import zlib
from dataclasses import fields

import ct_files
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from ipfvision import dicom
from ipfvision.dicom import attributes
from ipfvision.errors import InputRefused, NotAnImage, NotAxialCT, TooLarge, UnsupportedEncoding


def no_pixels(**changes):
    return ct_files.ct(PixelData=None, **changes)


def modality_lut():
    made = ct_files.dataset(RescaleSlope=None, RescaleIntercept=None)
    made.ModalityLUTSequence = [Dataset()]
    return ct_files.to_bytes(made)


def one_of_two_frames_described():
    made = ct_files.enhanced(np.stack([ct_files.chest()] * 2))
    made.PerFrameFunctionalGroupsSequence = made.PerFrameFunctionalGroupsSequence[:1]
    return ct_files.to_bytes(made)


REFUSALS = {
    "empty": (b"", NotAnImage, "empty"),
    "magnetic resonance": (ct_files.ct(Modality="MR"), NotAxialCT, "(0008,0060)"),
    "MR class": (ct_files.ct(SOPClassUID=MRImageStorage), NotAxialCT, "(0008,0016)"),
    "PET class": (ct_files.ct(SOPClassUID=PositronEmissionTomographyImageStorage), NotAxialCT, "(0008,0016)"),
    "private class": (ct_files.ct(SOPClassUID="1.2.3"), NotAxialCT, "(0008,0016)"),
    "contours": (no_pixels(Modality="RTSTRUCT", SOPClassUID=RTStructureSetStorage), NotAxialCT, "drawn contours"),
    "segmentation": (ct_files.ct(Modality="SEG"), NotAxialCT, "a segmentation"),
    "screen capture": (ct_files.ct(SOPClassUID=SecondaryCaptureImageStorage), NotAxialCT, "screen capture"),
    "DICOMDIR": (no_pixels(SOPClassUID=MediaStorageDirectoryStorage), NotAxialCT, "give the images themselves"),
    "localizer": (ct_files.ct(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), NotAxialCT, "(0008,0008)"),
    "enhanced localizer": (
        ct_files.to_bytes(ct_files.enhanced(ct_files.chest()[None], frame_type="LOCALIZER")),
        NotAxialCT,
        "(0008,0008)",
    ),
    "coronal": (ct_files.ct(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), NotAxialCT, "a coronal slice"),
    "sagittal": (ct_files.ct(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), NotAxialCT, "a sagittal slice"),
    "oblique": (ct_files.ct(ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6]), NotAxialCT, "37 degrees"),
    "no orientation": (ct_files.ct(ImageOrientationPatient=None, ImageType=["DERIVED"]), NotAxialCT, "(0020,0037)"),
    "skewed": (ct_files.ct(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), NotAxialCT, "right angle"),
    "no pixels": (no_pixels(), NotAnImage, "(7FE0,0010)"),
    "empty pixels": (ct_files.ct(PixelData=b""), NotAnImage, "(7FE0,0010)"),
    "no slope": (ct_files.ct(RescaleSlope=None), NotAxialCT, "(0028,1053)"),
    "no intercept": (ct_files.ct(RescaleIntercept=None), NotAxialCT, "(0028,1052)"),
    "slope 0": (ct_files.ct(RescaleSlope=0), NotAxialCT, "(0028,1053)"),
    "enormous slope": (ct_files.ct(RescaleSlope="1e30"), NotAxialCT, "no CT has"),
    "table instead of slope": (modality_lut(), NotAxialCT, "(0028,3000)"),
    "electron density": (ct_files.ct(RescaleType="ED"), NotAxialCT, "electron density"),
    "unnamed unit that does not fit": (ct_files.ct(RescaleType="US", RescaleIntercept=0), NotAxialCT, "(0028,1054)"),
    "palette": (ct_files.ct(PhotometricInterpretation="PALETTE COLOR"), NotAxialCT, "(0028,0004)"),
    "no photometric interpretation": (ct_files.ct(PhotometricInterpretation=None), NotAxialCT, "(0028,0004)"),
    "color": (ct_files.ct(SamplesPerPixel=3, PhotometricInterpretation="RGB"), NotAxialCT, "(0028,0002)"),
    "no rows": (ct_files.ct(Rows=None), NotAnImage, "(0028,0010)"),
    "0 columns": (ct_files.ct(Columns=0), NotAnImage, "(0028,0011)"),
    "no bits allocated": (ct_files.ct(BitsAllocated=None), NotAnImage, "(0028,0100)"),
    "1 bit": (ct_files.ct(BitsAllocated=1, BitsStored=1, HighBit=0), UnsupportedEncoding, "(0028,0100)"),
    "more stored than allocated": (ct_files.ct(BitsStored=17, HighBit=16), UnsupportedEncoding, "(0028,0101)"),
    "too many rows": (ct_files.ct(Rows=5000), TooLarge, "(0028,0010)"),
    "too many frames": (ct_files.ct(NumberOfFrames=100_000, Rows=512, Columns=512), TooLarge, "(0028,0008)"),
    "short pixels": (ct_files.ct(Rows=49), NotAnImage, "truncated"),
    "too few frames described": (one_of_two_frames_described(), NotAnImage, "(5200,9230)"),
    "enhanced without groups": (ct_files.ct(SOPClassUID=EnhancedCTImageStorage), NotAnImage, "(5200,9230)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_with_what_was_found_and_the_tag(name):
    content, kind, words = REFUSALS[name]
    with pytest.raises(InputRefused) as refused:
        dicom.read(content, "made.dcm")
    assert type(refused.value) is kind
    assert words in str(refused.value)
    assert str(refused.value).endswith(".")
    assert "made.dcm" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_dicom_without_any_class_or_modality_is_refused():
    made = ct_files.dataset(Modality=None)
    content = ct_files.to_bytes(made)
    uid = made.SOPClassUID.encode()
    content = content.replace(b"\x08\x00\x16\x00UI", b"\x08\x00\x17\x00UI").replace(
        b"\x02\x00\x02\x00UI", b"\x02\x00\x04\x00UI"
    )
    assert uid in content
    with pytest.raises(NotAxialCT, match=r"\(0008,0060\).*\(0008,0016\)"):
        dicom.read(content, "made.dcm")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_truncated_file_is_refused(share):
    content = ct_files.ct()
    with pytest.raises(InputRefused):
        dicom.read(content[: int(share * len(content))], "made.dcm")


def test_a_lying_size_costs_no_memory():
    content = ct_files.ct(Rows=4096, Columns=4096, NumberOfFrames=16)
    tracemalloc.start()
    try:
        with pytest.raises(NotAnImage, match="truncated"):
            dicom.read(content, "made.dcm")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_a_deflated_bomb_is_refused_while_it_unpacks(monkeypatch):
    monkeypatch.setattr(attributes, "LARGEST_DATASET", 100_000)
    made = ct_files.dataset()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = ct_files.to_bytes(made)
    assert dicom.read(content, "made.dcm")
    head = content[: 144 + int.from_bytes(content[140:144], "little")]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = head + squeeze.compress(b"\0" * 10_000_000) + squeeze.flush()
    with pytest.raises(TooLarge, match="unpacks"):
        dicom.read(bomb, "made.dcm")


IDENTIFIERS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "ID4711X",
    "PatientBirthDate": "19511224",
    "OtherPatientNames": "Nebenname",
    "PatientAddress": "Musterweg 17",
    "PatientTelephoneNumbers": "0815471100",
    "AccessionNumber": "ACC998877",
    "StudyDate": "20190423",
    "SeriesDate": "20190424",
    "AcquisitionDate": "20190425",
    "ContentDate": "20190426",
    "StudyTime": "101112",
    "ReferringPhysicianName": "Hausarzt^Hans",
    "OperatorsName": "Assistent^Anna",
    "InstitutionName": "Klinikum Musterstadt",
    "StationName": "CTSTATION9",
    "DeviceSerialNumber": "SER123456",
    "StudyDescription": "Thorax von Erika",
    "SeriesDescription": "Serie Erika",
    "PatientComments": "Kommentar Erika",
    "StudyID": "STUD5566",
    "ProtocolName": "Protokoll Erika",
}
SECRETS = {part for value in IDENTIFIERS.values() for part in value.replace("^", " ").split() if len(part) > 3}


def leaks(text):
    return {secret for secret in SECRETS if secret.lower() in text.lower()}


def named(**changes):
    made = ct_files.dataset()
    ct_files.change(made, **IDENTIFIERS)
    return ct_files.change(made, **changes)


def test_a_source_names_no_patient_date_or_place():
    content = ct_files.to_bytes(named())
    assert leaks(content.decode("latin-1")) == SECRETS
    (scan,) = dicom.read(content, "made.dcm")
    everything = " ".join(str(getattr(scan.source, field.name)) for field in fields(scan.source)) + " ".join(scan.warnings)
    assert not leaks(everything)


@pytest.mark.parametrize(
    "changes",
    [
        {"Modality": "ERIKA"},
        {"Modality": None, "SOPClassUID": "1.2.3.4711"},
        {"RescaleSlope": None},
        {"RescaleType": "Erika", "RescaleIntercept": 0},
        {"PhotometricInterpretation": "ERIKA"},
        {"ImageType": ["ERIKA", "LOCALIZER"]},
        {"PixelData": b"12"},
        {"ImageOrientationPatient": None, "ImageType": ["ERIKA"]},
    ],
    ids=str,
)
def test_no_refusal_and_no_log_names_a_patient(changes, caplog):
    content = ct_files.to_bytes(named(**changes))
    with caplog.at_level(logging.DEBUG), pytest.raises(InputRefused) as refused:
        dicom.read(content, "made.dcm")
    assert not leaks(str(refused.value))
    assert not leaks(caplog.text)


def test_values_that_pydicom_warns_of_reach_neither_warnings_nor_log(caplog, capfd):
    """A date, a time, a UID and numbers that pydicom calls invalid, by printing them."""
    content = bytearray(ct_files.to_bytes(named()))
    for old, new in ((b"19511224", b"1951ERIK"), (b"101112", b"ERIKA1"), (b"20190423", b"ERIKA423")):
        content = content.replace(old, new)
    thickness = content.index(b"\x18\x00\x50\x00DS")
    length = struct.unpack_from("<H", content, thickness + 6)[0]
    content[thickness + 8 : thickness + 8 + length] = b"E" * length
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        (scan,) = dicom.read(bytes(content), "made.dcm")
    assert scan.thickness_mm is None
    assert not warned
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_damaged_uids_are_not_kept_since_they_may_be_anything():
    content = ct_files.to_bytes(named(StudyInstanceUID="1.2.3.44444")).replace(b"1.2.3.44444", b"Mustermann1")
    (scan,) = dicom.read(content, "made.dcm")
    assert scan.source.study_instance_uid is None


def test_two_threads_read_at_once_without_a_warning_escaping():
    from concurrent.futures import ThreadPoolExecutor

    contents = [ct_files.to_bytes(named(InstanceNumber=i)).replace(b"19511224", b"1951ERIK") for i in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda content: dicom.read(content, "made.dcm"), contents))
    assert sorted(scan.source.instance_number for (scan,) in read) == list(range(40))
