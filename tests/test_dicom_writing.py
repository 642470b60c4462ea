"""What is written lies on the pixels that it was made of, for every orientation; other programs than this one see it there."""

import logging
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ipfvision import dicom
from ipfvision.core.annotation import Annotation, Finding
from ipfvision.core.placement import place
from ipfvision.core.slice import PixelSpacing, Plane, Series, Slice
from ipfvision.dicom import codes as own_codes
from ipfvision.dicom import originals as module
from ipfvision.dicom.attributes import quiet
from ipfvision.dicom.codes import FINDINGS, Term, map_quantity
from ipfvision.dicom.originals import Maker, Original, Written, find_originals, person_name
from ipfvision.dicom.parametric_map import write_map
from ipfvision.dicom.secondary_capture import write_picture
from ipfvision.dicom.segmentation_writing import Area, write_drawn, write_map_region
from ipfvision.dicom.structured_report import Answer, Group, Number, write_report
from ipfvision.errors import InputRefused
from tests.ct_files import COLUMNS, ROWS, change, chest, dataset, enhanced, scan, to_bytes
from tests.dicom_validators import mismatches, need_tools, problems, run, written_to

MAKER = Maker("ipfvision", "0.1.0", "ipf_resnet50", "ab" * 32, "A. Reader")
PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "4711",
    "PatientSex": "F",
    "PatientBirthDate": "19500102",
    "StudyDate": "20200304",
    "StudyTime": "101112",
    "StudyID": "1",
    "AccessionNumber": "A1",
    "StudyDescription": "Thorax",
    "PatientAge": "070Y",
}
COS, SIN = float(np.cos(np.radians(20))), float(np.sin(np.radians(20)))
PLANES = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial, turned by 180 degrees": (-1, 0, 0, 0, -1, 0),
    "axial, rows reversed": (-1, 0, 0, 0, 1, 0),
    "axial, columns reversed": (1, 0, 0, 0, -1, 0),
    "tilted gantry": (1, 0, 0, 0, COS, -SIN),
    "oblique in two directions": (COS, SIN, 0, -SIN * COS, COS * COS, SIN),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}


def slices(cosines: tuple[float, ...], count: int = 3, **more: Any) -> tuple[list[Dataset], list[Original]]:
    """Files of slices stacked along their normal, 2.5 mm apart, with pixels of 0.7 x 0.8 mm."""
    row, column = np.array(cosines[:3], float), np.array(cosines[3:], float)
    normal = np.cross(row, column)
    files, originals = [], []
    for number in range(count):
        position = np.array([-20.5, -15.25, 30.125]) + 2.5 * number * normal
        one = replace(
            scan(chest(seed=number), number=number + 1),
            plane=Plane(tuple(position), tuple(row), tuple(column)),  # type: ignore[arg-type]
        )
        made = dataset(one, **{**PATIENT, **more})
        files.append(made)
        # The reader refuses other planes than axial ones; what is written must hold for them all the same.
        source = replace(
            one.source,
            sop_instance_uid=str(made.SOPInstanceUID),
            study_instance_uid=str(made.StudyInstanceUID),
            series_instance_uid=str(made.SeriesInstanceUID),
            frame_of_reference_uid=str(made.FrameOfReferenceUID),
        )
        with quiet():
            originals.append(module._original(dcmread(BytesIO(to_bytes(made))), replace(one, source=source)))
    return files, originals


def masks(count: int, seed: int = 0) -> list[npt.NDArray[np.bool_]]:
    made = np.random.default_rng(seed).random((count, ROWS, COLUMNS)) < 0.2
    made[:, 0, 0] = True  # the corner by which positions are compared
    return list(made)


def maps(count: int) -> list[npt.NDArray[np.float32]]:
    return list(np.random.default_rng(5).random((count, ROWS, COLUMNS), np.float32) * 7)


def everything(originals: list[Original]) -> dict[str, Written]:
    count = len(originals)
    drawn = write_drawn(
        originals,
        [
            Area(Finding.HONEYCOMBING, "honeycombing", tuple(masks(count))),
            Area(Finding.GROUND_GLASS, "ground glass", (*masks(1, 1), *[np.zeros((ROWS, COLUMNS), np.bool_)] * (count - 1))),
        ],
        MAKER,
        9001,
    )
    region = write_map_region(
        originals, masks(count, 2), MAKER, 9002, method="gradcam", label="Grad-CAM for IPF", parameters={"threshold": "0.5"}
    )
    heatmap = write_map(originals, maps(count), MAKER, 9003, method="gradcam", explanation="Grad-CAM, in logits", full_scale=5)
    picture = write_picture(originals[0], np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3), MAKER, 9004)
    area = (Number(Term("area", "Area"), 12.5, "mm2"),)
    yes = (Answer(Term("hit", "Peak on the annotation"), Term("yes", "Yes")),)
    groups = [
        Group("answer", 0, (Number(Term("p", "Probability"), 0.83, "1"),), yes, parameters={}, seen_with=(heatmap, picture)),
        Group("honeycombing", count - 1, area, finding=Finding.HONEYCOMBING, region=(drawn, 1), comment="both sides"),
        Group("map", 0, area, method="gradcam", region=(region, 1), parameters={"threshold": "0.5"}),
    ]
    report = write_report(originals, groups, MAKER, 9005)
    return {"drawn": drawn, "region": region, "map": heatmap, "picture": picture, "report": report}


def read(made: Written) -> Dataset:
    return dcmread(BytesIO(made.content))


def places(cosines: Any, position: Any, spacing: Any) -> npt.NDArray[np.float64]:
    """(ROWS, COLUMNS, 3) mm: Equation C.7.6.2.1-1 of PS3.3."""
    row, column = np.array(cosines[:3], float), np.array(cosines[3:], float)
    r, c = np.mgrid[:ROWS, :COLUMNS][..., None]
    return np.array(position, float) + c * float(spacing[1]) * row + r * float(spacing[0]) * column


def frame_places(made: Dataset, number: int) -> npt.NDArray[np.float64]:
    shared, own = made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence[number - 1]
    return places(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient,
        own.PlanePositionSequence[0].ImagePositionPatient,
        shared.PixelMeasuresSequence[0].PixelSpacing,
    )


@pytest.mark.parametrize("name", PLANES)
def test_every_pixel_of_a_seg_lies_where_it_was_drawn(name: str) -> None:
    files, originals = slices(PLANES[name])
    drawn = masks(3)
    made = write_drawn(originals, [Area(Finding.RETICULATION, "reticulation", tuple(drawn))], MAKER, 9001)
    seen = read(made)
    assert sorted(made.frames) == [(1, 0), (1, 1), (1, 2)]
    for (_, index), number in made.frames.items():
        file = files[index]
        assert np.array_equal(seen.pixel_array[number - 1], drawn[index])
        there = places(file.ImageOrientationPatient, file.ImagePositionPatient, file.PixelSpacing)
        assert np.allclose(frame_places(seen, number), there, atol=1e-6)
        source = seen.PerFrameFunctionalGroupsSequence[number - 1].DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == file.SOPInstanceUID


@pytest.mark.parametrize("name", PLANES)
def test_every_value_of_a_map_lies_where_it_was_seen(name: str) -> None:
    files, originals = slices(PLANES[name])
    values = maps(3)
    made = write_map(originals, values, MAKER, 1, method="gradcam", explanation="x", full_scale=5)
    seen = read(made)
    for (_, index), number in made.frames.items():
        file = files[index]
        assert np.array_equal(seen.pixel_array[number - 1], values[index])
        there = places(file.ImageOrientationPatient, file.ImagePositionPatient, file.PixelSpacing)
        assert np.allclose(frame_places(seen, number), there, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in PLANES if name not in ("coronal", "sagittal")])
def test_this_program_reads_its_own_seg_back_onto_the_same_pixels(name: str) -> None:
    files, _ = slices(PLANES[name])
    scans = [dicom.read(to_bytes(file), "ct.dcm")[0] for file in files]
    originals = [find_originals(to_bytes(file), scans)[index] for index, file in enumerate(files)]
    drawn = masks(3)
    made = write_drawn(originals, [Area(Finding.HONEYCOMBING, "honeycombing", tuple(drawn))], MAKER, 9001)
    placed = place(dicom.read_annotations(made.content), [Series(tuple(scans))])
    assert placed.problems == ()
    assert sorted(placed.by_slice) == [(0, 0), (0, 1), (0, 2)]
    for (_, index), (found,) in placed.by_slice.items():
        assert isinstance(found, Annotation)
        assert np.array_equal(found.mask, drawn[index])
        assert found.said.finding is Finding.HONEYCOMBING


@pytest.mark.parametrize("name", PLANES)
def test_gdcm_reads_the_same_mask_at_the_same_place(name: str, tmp_path: Path) -> None:
    _, (original, *_) = slices(PLANES[name], 1)
    (drawn,) = masks(1)
    made = write_drawn([original], [Area(Finding.OTHER, "other", (drawn,))], MAKER, 9001)
    (path,) = written_to(tmp_path, {"seg.dcm": made.content})
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    bits = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.uint8)
    assert np.array_equal(np.unpackbits(bits, bitorder="little")[: drawn.size].reshape(drawn.shape), drawn)
    assert image.GetOrigin()[:3] == pytest.approx(original.plane.position)
    assert image.GetDirectionCosines() == pytest.approx(list(PLANES[name]), abs=1e-9)
    assert image.GetSpacing()[:2] == pytest.approx([0.8, 0.7])  # along rows first


@pytest.mark.parametrize("name", ["axial", "axial, rows reversed", "oblique in two directions", "coronal"])
def test_the_validators_find_no_error(name: str, tmp_path: Path) -> None:
    need_tools()
    files, originals = slices(PLANES[name])
    made = everything(originals)
    paths = written_to(tmp_path, {f"{kind}.dcm": one.content for kind, one in made.items()})
    assert {path.name: problems(path) for path in paths} == {path.name: [] for path in paths}
    sources = written_to(tmp_path, {f"ct{index}.dcm": to_bytes(file) for index, file in enumerate(files)})
    assert mismatches([*sources, *paths]) == []


def test_the_validators_do_find_errors(tmp_path: Path) -> None:
    need_tools()
    files, originals = slices(PLANES["axial"], 1)
    made = read(write_drawn(originals, [Area(Finding.OTHER, "other", tuple(masks(1)))], MAKER, 9001))
    del made.SegmentSequence
    made.PatientName = "Somebody^Else"
    broken, source = written_to(tmp_path, {"seg.dcm": to_bytes(made), "ct.dcm": to_bytes(files[0])})
    assert any("SegmentSequence" in line for line in problems(broken))
    assert any("PatientName" in line for line in mismatches([source, broken]))


def test_the_validators_find_no_error_where_little_is_known_of_the_patient(tmp_path: Path) -> None:
    need_tools()
    nothing = dict.fromkeys(PATIENT, None) | {"PatientID": "", "PatientName": "", "PatientSex": "", "PatientBirthDate": ""}
    nothing |= {"StudyDate": "", "StudyTime": "", "StudyID": "", "AccessionNumber": "", "SliceThickness": None}
    _, originals = slices(PLANES["axial"], 2, **nothing)
    originals = [replace(one, scan=replace(one.scan, thickness_mm=None)) for one in originals]
    for one in originals:
        one.reference.SliceThickness = None
    made = everything(originals)
    paths = written_to(tmp_path, {f"{kind}.dcm": one.content for kind, one in made.items()})
    assert {path.name: problems(path) for path in paths} == {path.name: [] for path in paths}


def enhanced_originals() -> tuple[bytes, list[Slice], list[Original]]:
    made = change(enhanced(np.stack([chest(seed=i) for i in range(4)])), FrameOfReferenceUID="1.2.3", **PATIENT)
    content = to_bytes(made)
    scans = [dicom.read(content, "ct.dcm")[index] for index in (1, 3)]
    found = find_originals(content, scans)
    return content, scans, [found[0], found[1]]


def test_what_is_drawn_on_frames_of_an_enhanced_ct_refers_to_these_frames(tmp_path: Path) -> None:
    content, scans, originals = enhanced_originals()
    whole = dcmread(BytesIO(content))
    made = everything(originals)
    for name in ("drawn", "region", "map"):
        seen = read(made[name])
        for (_, index), number in made[name].frames.items():
            group = seen.PerFrameFunctionalGroupsSequence[number - 1]
            source = group.DerivationImageSequence[0].SourceImageSequence[0]
            assert source.ReferencedSOPClassUID == whole.SOPClassUID
            assert source.ReferencedSOPInstanceUID == whole.SOPInstanceUID
            assert source.ReferencedFrameNumber == scans[index].source.frame
            assert group.PlanePositionSequence[0].ImagePositionPatient == [0, 0, -2 * (scans[index].source.frame - 1)]
        (series,) = seen.ReferencedSeriesSequence
        (instance,) = series.ReferencedInstanceSequence
        assert "ReferencedFrameNumber" not in instance
    stand_ins = {str(one.reference.SOPInstanceUID).encode() for one in originals}
    assert not [name for name, one in made.items() for uid in stand_ins if uid in one.content]
    placed = place(dicom.read_annotations(made["region"].content), [Series(tuple(scans))])
    assert {key[1]: np.array_equal(area.mask, masks(2, 2)[key[1]]) for key, (area,) in placed.by_slice.items()} == {
        0: True,
        1: True,
    }


def test_the_validators_find_no_error_beside_an_enhanced_ct(tmp_path: Path) -> None:
    need_tools()
    _, _, originals = enhanced_originals()
    paths = written_to(tmp_path, {f"{kind}.dcm": one.content for kind, one in everything(originals).items()})
    assert {path.name: problems(path) for path in paths} == {path.name: [] for path in paths}
    assert mismatches(paths) == []


def test_patient_and_study_are_those_of_the_scan_letter_for_letter() -> None:
    files, originals = slices(PLANES["axial"], 2)
    for made in everything(originals).values():
        seen = read(made)
        for keyword in (*PATIENT, "StudyInstanceUID"):
            assert seen[keyword].value == files[0][keyword].value, keyword
        assert seen.SeriesInstanceUID != files[0].SeriesInstanceUID
        if "FrameOfReferenceUID" in seen:
            assert seen.FrameOfReferenceUID == files[0].FrameOfReferenceUID


@pytest.mark.parametrize(
    ("character_set", "name"),
    [("ISO_IR 100", "Müller^Jürgen"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 192", "Łukasz^Żółć")],
)
def test_a_name_in_another_alphabet_stays_the_same(character_set: Any, name: str) -> None:
    files, originals = slices(PLANES["axial"], 1, SpecificCharacterSet=character_set, PatientName=name)
    typed = replace(MAKER, reader="Łucja")
    areas = [Area(Finding.OTHER, "other", tuple(masks(1)))]
    same, unicode = read(write_drawn(originals, areas, MAKER, 1)), read(write_drawn(originals, areas, typed, 1))
    assert same.SpecificCharacterSet == files[0].SpecificCharacterSet
    assert same["PatientName"].value == unicode["PatientName"].value == name
    assert unicode.ContentCreatorName == "Łucja^"


def test_nothing_of_a_patient_reaches_a_log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    odd = {"PatientName": "Secretname no carets at all \x01", "PatientSex": "Secretname", "PatientBirthDate": "Secretname"}
    files, originals = slices(PLANES["axial"], 1)
    for file in files:
        change(file, StudyDescription="Secretname")
    content = to_bytes(files[0])
    for keyword, value in odd.items():
        old = str(files[0][keyword].value).encode()
        content = content.replace(old + b" " * (len(old) % 2), value.encode()[: len(old)].ljust(len(old) + len(old) % 2))
    with quiet():
        original = module._original(dcmread(BytesIO(content)), originals[0].scan)
    made = everything([original])
    assert made["drawn"].content.count(b"Secretname") >= 1
    out = capfd.readouterr()
    assert "Secretname" not in caplog.text + out.out + out.err


def test_the_same_file_with_other_pixels_is_refused() -> None:
    made = dataset()
    (seen,) = dicom.read(to_bytes(made), "a")
    stored = np.frombuffer(made.PixelData, "<u2").copy()
    stored[5] += 1
    made.PixelData = stored.tobytes()
    with pytest.raises(InputRefused, match="other pixels"):
        find_originals(to_bytes(made), [seen])


def test_other_files_are_nobodys_original() -> None:
    (seen,) = dicom.read(to_bytes(dataset()), "a")
    other = to_bytes(dataset(scan(z=3.0, number=9)))
    for content in (other, b"", b"PK\x03\x04", b"\x08\x00\x05\x00CS\x0a\x00ISO", to_bytes(dataset())[:200]):
        assert find_originals(content, [seen]) == {}


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"plane": None}, r"\(0020,0032\)"),
        ({"spacing": None}, r"\(0028,0030\)"),
        ({"frame_of_reference_uid": None}, r"\(0020,0052\)"),
    ],
)
def test_a_slice_without_a_place_gets_no_mask_and_says_why(missing: dict[str, None], said: str) -> None:
    _, (original, *_) = slices(PLANES["axial"], 1)
    if "frame_of_reference_uid" in missing:
        bare = replace(original.scan, source=replace(original.scan.source, frame_of_reference_uid=None))
    else:
        bare = replace(original.scan, **missing)  # type: ignore[arg-type]
    with pytest.raises(InputRefused, match=said):
        write_drawn([replace(original, scan=bare)], [Area(Finding.OTHER, "other", tuple(masks(1)))], MAKER, 1)


def test_an_empty_segment_cannot_be_made() -> None:
    nothing = np.zeros((ROWS, COLUMNS), np.bool_)
    with pytest.raises(ValueError, match="at least one pixel"):
        Area(Finding.OTHER, "other", (nothing,))
    _, originals = slices(PLANES["axial"], 1)
    with pytest.raises(ValueError, match="at least one pixel"):
        write_map_region(originals, [nothing], MAKER, 1, method="gradcam", label="x", parameters={})
    with pytest.raises(ValueError, match="not of these slices"):
        write_map(originals, [np.zeros((3, 3), np.float32)], MAKER, 1, method="gradcam", explanation="x", full_scale=1)


def test_a_reader_s_segments_are_manual_and_the_map_s_names_its_model() -> None:
    _, originals = slices(PLANES["axial"])
    made = everything(originals)
    honeycombing, ground_glass = read(made["drawn"]).SegmentSequence
    assert [honeycombing.SegmentAlgorithmType, ground_glass.SegmentAlgorithmType] == ["MANUAL", "MANUAL"]
    assert honeycombing.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Honeycomb pattern"
    assert ground_glass.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Ground glass opacity"
    (region,) = read(made["region"]).SegmentSequence
    (algorithm,) = region.SegmentationAlgorithmIdentificationSequence
    assert region.SegmentAlgorithmType == "AUTOMATIC"
    assert algorithm.AlgorithmName == "ipf_resnet50"
    assert algorithm.AlgorithmVersion == "ab" * 32


def test_the_map_is_a_gradient_weighted_class_activation() -> None:
    _, originals = slices(PLANES["axial"], 1)
    (mapping,) = read(everything(originals)["map"]).SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    (quantity,) = mapping.QuantityDefinitionSequence
    (code,) = quantity.ConceptCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("130403", "DCM")
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)


def test_public_codes_are_those_of_the_standard() -> None:
    known = {
        own_codes.GRADIENT_WEIGHTED: codes.DCM.GradientWeightedClassActivation,
        own_codes.SALIENCY: codes.DCM.Saliency,
        own_codes.ARTIFICIAL_INTELLIGENCE: codes.DCM.ArtificialIntelligence,
        own_codes.ABNORMAL: codes.cid7150.MorphologicallyAbnormalStructure,
        own_codes.SPATIAL: codes.cid7150.SpatialAndRelationalConcept,
        own_codes.LUNG: codes.SCT.Lung,
        own_codes.CT: codes.cid100.CTUnspecifiedBodyRegion,
        own_codes.AREA: codes.SCT.Area,
        own_codes.COMMENT: codes.DCM.Comment,
        FINDINGS[Finding.HONEYCOMBING]: codes.DCM.HoneycombPattern,
        FINDINGS[Finding.RETICULATION]: codes.DCM.ReticularPattern,
        FINDINGS[Finding.GROUND_GLASS]: codes.DCM.GroundGlassOpacity,
        FINDINGS[Finding.SUBPLEURAL_CYSTS]: codes.cid7159.Cyst,
        FINDINGS[Finding.OTHER]: codes.cid7159.Lesion,
    }
    for ours, theirs in known.items():
        assert (ours.value, ours.scheme_designator) == (theirs.value, theirs.scheme_designator)
    assert set(FINDINGS) == set(Finding)
    assert map_quantity("eigencam") != map_quantity("gradcam")


def test_dcmtk_reads_the_same_map_picture_and_report(tmp_path: Path) -> None:
    need_tools()
    _, originals = slices(PLANES["oblique in two directions"], 1)
    made = everything(originals)
    heatmap, picture, report = written_to(
        tmp_path, {f"{kind}.dcm": made[kind].content for kind in ("map", "picture", "report")}
    )
    dumped = run("dcmdump", "+L", "+P", "7fe0,0008", heatmap).stdout
    values = np.array([float(one) for one in dumped.split("OF ", 1)[1].split("#")[0].strip().split("\\")], np.float32)
    assert np.allclose(values.reshape(ROWS, COLUMNS), maps(1)[0], rtol=1e-6)

    pixels = tmp_path / "picture.ppm"
    assert run("dcm2pnm", "+op", picture, pixels).returncode == 0
    assert pixels.read_bytes().endswith(np.arange(30 * 40 * 3, dtype=np.uint8).tobytes())

    text = run("dsrdump", "+Pl", report).stdout
    for words in ("Imaging Measurement Report", "Honeycomb pattern", "Probability", "0.83", "both sides", "ab" * 32):
        assert words in text, words


def test_the_report_refers_to_the_frames_of_the_segmentations() -> None:
    _, originals = slices(PLANES["axial"])
    made = everything(originals)
    report = read(made["report"])
    named = {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    others = {str(made[kind].reference.SOPInstanceUID) for kind in ("drawn", "region", "map", "picture")}
    assert named == others | {originals[0].sop_instance_uid, originals[2].sop_instance_uid}  # the slices it speaks of
    frames = {}
    for element in report.iterall():
        if element.keyword == "ReferencedSOPSequence":
            for item in element.value:
                if "ReferencedFrameNumber" in item:
                    frames[str(item.ReferencedSOPInstanceUID)] = int(item.ReferencedFrameNumber)
    assert frames[str(made["drawn"].reference.SOPInstanceUID)] == made["drawn"].frames[1, 2]
    assert frames[str(made["region"].reference.SOPInstanceUID)] == made["region"].frames[1, 0]


def test_a_picture_of_pixels_that_name_somebody_says_so() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    for value, said in (("YES", "YES"), ("NO", "NO"), (None, "NO")):
        _, (original, *_) = slices(PLANES["axial"], 1, BurnedInAnnotation=value)
        assert read(write_picture(original, picture, MAKER, 1)).BurnedInAnnotation == said


@pytest.mark.parametrize(
    ("typed", "written"),
    [("Jane Doe", "Jane Doe^"), ("a^b=c\\d\n", "a b c d^"), ("x" * 99, "x" * 63 + "^"), ("Ž" * 99, "Ž" * 31 + "^")],
)
def test_a_typed_name_is_one_component(typed: str, written: str) -> None:
    assert person_name(typed) == written


def test_a_code_fits_its_attributes() -> None:
    with pytest.raises(ValueError, match="16"):
        Term("x" * 17, "too long")
    with pytest.raises(ValueError, match="64"):
        Term("x", "")


@pytest.mark.parametrize("missing", ["ImagePositionPatient", "PixelSpacing", "SliceThickness"])
def test_a_slice_without_a_place_still_gets_a_report_and_a_picture(missing: str, tmp_path: Path) -> None:
    need_tools()
    content = to_bytes(dataset(scan(), **PATIENT | {missing: None}))
    (seen,) = dicom.read(content, "a")
    originals = [find_originals(content, [seen])[0]]
    made = {
        "report": write_report(originals, [Group("answer", 0, (Number(Term("p", "Probability"), 0.5, "1"),))], MAKER, 1),
        "picture": write_picture(originals[0], np.zeros((9, 9, 3), np.uint8), MAKER, 2),
    }
    paths = written_to(tmp_path, {f"{kind}.dcm": one.content for kind, one in made.items()})
    assert {path.name: problems(path) for path in paths} == {path.name: [] for path in paths}


def test_slices_that_are_not_parallel_or_at_one_place_are_refused() -> None:
    _, (first, second, third) = slices(PLANES["axial"])
    areas = [Area(Finding.OTHER, "other", tuple(masks(2)))]
    tilted = Plane((0.0, 0.0, 9.0), (1.0, 0.0, 0.0), (0.0, COS, -SIN))
    with pytest.raises(InputRefused, match="not parallel"):
        write_drawn([first, replace(second, scan=replace(second.scan, plane=tilted))], areas, MAKER, 1)
    with pytest.raises(InputRefused, match="not of one pixel size"):
        write_drawn([first, replace(second, scan=replace(second.scan, spacing=PixelSpacing(0.7, 0.7)))], areas, MAKER, 1)
    with pytest.raises(InputRefused, match="at one place"):
        write_map(
            [third, replace(second, scan=replace(second.scan, plane=third.plane))],
            maps(2),
            MAKER,
            1,
            method="gradcam",
            explanation="x",
            full_scale=1,
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_a_damaged_file_gives_an_original_or_a_sentence(seed: int) -> None:
    draw = np.random.default_rng(seed)
    whole = dataset(SpecificCharacterSet="ISO_IR 100", LossyImageCompression="01", LossyImageCompressionRatio="8.5", **PATIENT)
    content = bytearray(to_bytes(whole))
    (seen,) = dicom.read(bytes(content), "a")
    header = len(content) - 2 * ROWS * COLUMNS
    for at in draw.integers(132, header, int(draw.integers(1, 6))):
        content[at] = int(draw.integers(0, 256))
    with suppress(InputRefused):  # nothing else
        found = find_originals(bytes(content), [seen])
        if 0 in found:
            write_drawn([found[0]], [Area(Finding.OTHER, "other", tuple(masks(1)))], MAKER, 1)
            write_picture(found[0], np.zeros((3, 3, 3), np.uint8), MAKER, 2)
