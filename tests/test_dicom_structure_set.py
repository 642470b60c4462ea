"""RTSTRUCTs of other programs, and made by hand, land on the pixels that they were drawn on."""

import gzip
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from skimage.draw import polygon2mask

from ipfvision import dicom
from ipfvision.core.annotation import Annotation, ContoursInPatient, Finding, PointAnnotation
from ipfvision.core.placement import Placed, place
from ipfvision.core.slice import PixelSpacing, Plane, Series
from ipfvision.dicom import structure_set
from ipfvision.errors import InputRefused, NotAnImage, TooLarge
from ipfvision.workflow.intake import take_in_paths
from tests.ct_files import COLUMNS, ROWS, change, ct, scan

SQUARE = [(2.5, 3.5), (12.5, 3.5), (12.5, 9.5), (2.5, 9.5)]
HOLE = [(5.5, 5.5), (8.5, 5.5), (8.5, 7.5), (5.5, 7.5)]
"""Corners in continuous slice coordinates of `ct_files.scan`, halfway between pixel borders: on pixel centers."""


def open_series(*z: float) -> Series:
    return Series(tuple(dicom.read(ct(scan(z=one)), "ct.dcm")[0] for one in z))


def in_mm(corners: list[tuple[float, float]], z: float) -> list[float]:
    """Of `ct_files.scan`: 0.8 mm to the right, 0.7 mm down."""
    return [number for x, y in corners for number in (-20 + (x - 0.5) * 0.8, -15 + (y - 0.5) * 0.7, z)]


def contour(
    corners: list[tuple[float, float]], z: float = 0.0, kind: str | None = "CLOSED_PLANAR", uid: str | None = None
) -> Dataset:
    numbers = [f"{number:.4f}" for number in in_mm(corners, z)]
    made = change(Dataset(), ContourGeometricType=kind, NumberOfContourPoints=len(corners), ContourData=numbers)
    if uid is not None:
        made.ContourImageSequence = [change(Dataset(), ReferencedSOPInstanceUID=uid)]
    return made


def rtstruct(regions: list[tuple[str, list[Dataset]]], frame: str | None = None) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = structure_set.STRUCTURE_SET
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.Modality = "RTSTRUCT"
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions, 1):
        roi = change(Dataset(), ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame)
        made.StructureSetROISequence.append(roi)
        drawn = change(Dataset(), ReferencedROINumber=number)
        if contours:
            drawn.ContourSequence = contours
        made.ROIContourSequence.append(drawn)
    return made


def content(made: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def placed_on(made: Dataset, *z: float) -> Placed:
    return place(dicom.read_annotations(content(made)), [open_series(*z)])


def only_mask(placed: Placed, index: int = 0) -> npt.NDArray[np.bool_]:
    (annotation,) = placed.by_slice[0, index]
    assert isinstance(annotation, Annotation)
    return annotation.mask


def box(top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.bool_]:
    """Rows `top` to `bottom` and columns `left` to `right`, both ends included."""
    mask = np.zeros((ROWS, COLUMNS), np.bool_)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def test_a_contour_inside_another_on_one_plane_is_a_hole() -> None:
    placed = placed_on(rtstruct([("Honeycombing", [contour(SQUARE), contour(HOLE)])]), 0)
    # Both lines run through pixel centers, and those belong to what was drawn.
    assert np.array_equal(only_mask(placed), box(3, 9, 2, 12) & ~box(6, 6, 6, 7))
    assert placed.problems == ()
    said = placed.by_slice[0, 0][0].said
    assert (said.finding, said.label, said.origin, said.matched_by) == (
        Finding.HONEYCOMBING,
        "Honeycombing",
        "RTSTRUCT",
        "position, 0.0 mm away",
    )


def test_a_keyhole_contour_leaves_its_hole_open() -> None:
    keyhole = [*SQUARE, SQUARE[0], *HOLE[:1], *HOLE[::-1], SQUARE[0]]
    mask = only_mask(placed_on(rtstruct([("region", [contour(keyhole)])]), 0))
    assert not mask[6, 6:8].any()
    assert np.array_equal(mask, box(3, 9, 2, 12) & ~box(6, 6, 6, 7))


def test_contours_of_other_planes_are_no_holes() -> None:
    placed = placed_on(rtstruct([("region", [contour(SQUARE, 0), contour(HOLE, 1)])]), 0, 1)
    assert np.array_equal(only_mask(placed, 0), box(3, 9, 2, 12))
    assert np.array_equal(only_mask(placed, 1), box(5, 7, 5, 8))


def test_two_points_are_a_line_and_a_contour_between_pixel_centers_is_the_pixel_it_lies_in() -> None:
    line = [(2.5, 3.5), (6.5, 3.5)]
    speck = [(20.6, 21.6), (20.9, 21.6), (20.8, 21.9)]
    placed = placed_on(rtstruct([("line", [contour(line)]), ("speck", [contour(speck)])]), 0)
    first, second = placed.by_slice[0, 0]
    assert isinstance(first, Annotation)
    assert isinstance(second, Annotation)
    assert np.array_equal(first.mask, box(3, 3, 2, 6))
    assert np.array_equal(second.mask, box(21, 21, 20, 20))


def test_points_stay_points() -> None:
    made = rtstruct([("tip", [contour([(7.25, 8.75)], kind="POINT"), contour([(9.0, 9.0)])])])
    placed = placed_on(made, 0)
    assert all(isinstance(one, PointAnnotation) for one in placed.by_slice[0, 0])
    places = [(one.x, one.y) for one in placed.by_slice[0, 0] if isinstance(one, PointAnnotation)]
    assert places == [pytest.approx((7.25, 8.75), abs=1e-3), pytest.approx((9.0, 9.0), abs=1e-3)]


def test_open_lines_and_regions_without_contours_are_noted() -> None:
    made = rtstruct([("empty", []), ("open", [contour(SQUARE, kind="OPEN_PLANAR")]), ("closed", [contour(SQUARE, kind=None)])])
    placed = placed_on(made, 0)
    assert np.array_equal(only_mask(placed), box(3, 9, 2, 12))
    assert placed.notes == ("2 regions without a closed contour: nothing to show.",)
    with pytest.raises(InputRefused, match="no closed contour"):
        dicom.read_annotations(content(rtstruct([("open", [contour(SQUARE, kind="OPEN_NONPLANAR")])])))


def test_a_named_slice_is_taken_and_a_contradiction_refused() -> None:
    series = open_series(0, 1, 2, 20)
    uids = [one.source.sop_instance_uid for one in series.slices]
    near = rtstruct([("region", [contour(SQUARE, 1.3, uid=uids[2])])])
    placed = place(dicom.read_annotations(content(near)), [series])
    assert list(placed.by_slice) == [(0, 2)]
    assert placed.by_slice[0, 2][0].said.matched_by == "SOP Instance UID, 0.7 mm away"
    assert placed.notes == (
        "1 annotation up to 0.7 mm away from the slice that the file names by SOP Instance UID: shown on that slice.",
    )
    far = rtstruct([("region", [contour(SQUARE, 20, uid=uids[0])])])
    placed = place(dicom.read_annotations(content(far)), [series])
    assert placed.by_slice == {}
    assert "position elsewhere" in placed.problems[0]


def test_labels_are_short_and_without_control_characters_and_apart() -> None:
    made = rtstruct([("cyst\x1b[31m" + "x" * 50, [contour(SQUARE)]), ("a", [contour(SQUARE)]), ("a", [contour(SQUARE)])])
    items = dicom.read_annotations(content(made))
    labels = [item.said.label for item in items if isinstance(item, ContoursInPatient)]
    assert all(label.isprintable() and len(label) <= 64 for label in labels)
    assert labels[1:] == ["a (2)", "a (3)"]


@pytest.mark.parametrize("data", [["1", "2"], ["1", "2", "x", "1", "2", "3"], ["1e9"] * 9, ["nan"] * 9])
def test_damaged_numbers_are_refused(data: list[str]) -> None:
    made = content(rtstruct([("region", [contour([(1.0, 1.0)] * 3)])]))
    numbers = "\\".join(data).encode()
    old = b"\\".join(f"{number:.4f}".encode() for number in in_mm([(1.0, 1.0)] * 3, 0.0))
    at = made.index(old)
    with pytest.raises(NotAnImage, match="three coordinates"):
        dicom.read_annotations(made[:at] + numbers.ljust(len(old)) + made[at + len(old) :])


def test_too_many_points_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure_set, "MOST_POINTS", 7)
    with pytest.raises(TooLarge, match="more than 7 points"):
        dicom.read_annotations(content(rtstruct([("region", [contour(SQUARE), contour(HOLE)])])))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("has_lengths", [False, True])
def test_a_file_cut_anywhere_gives_all_regions_or_none(syntax: str, has_lengths: bool) -> None:
    made = rtstruct([(f"region {number}", [contour(SQUARE, z) for z in range(4)]) for number in range(3)])
    made.file_meta.TransferSyntaxUID = syntax
    _set_lengths(made, has_lengths=has_lengths)
    whole = content(made)
    items = dicom.read_annotations(whole)
    assert len(items) == 12
    for end in range(200, len(whole), 61):
        with suppress(InputRefused):
            assert len(dicom.read_annotations(whole[:end])) == 12


def _set_lengths(made: Dataset, *, has_lengths: bool) -> None:
    for element in made:
        if element.VR == "SQ":
            element.is_undefined_length = not has_lengths
            for item in element.value:
                item.is_undefined_length_sequence_item = not has_lengths
                _set_lengths(item, has_lengths=has_lengths)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_placed_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(_SMALL)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InputRefused):
        items = dicom.read_annotations(bytes(damaged))
        assert items
        place(items, [_OPEN])


_OPEN = open_series(0)
_SMALL = content(rtstruct([("region", [contour(SQUARE, uid="1.2.3"), contour(HOLE, uid="1.2.3")])], frame="1.2"))


# Real files of two programs.


@pytest.fixture
def phantom(shared_data: Path) -> tuple[Path, tuple[Series, ...]]:
    folder = shared_data / "interop" / "rtutils" / "mock_data"
    return folder, take_in_paths([folder / "ct_1.dcm", folder / "ct_2.dcm"]).series


def _oracle(file: Path, region: int, z: float, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Filled by scikit-image. This program draws around pixels, along their borders, so that no line meets a center."""
    mask = np.zeros(shape, np.bool_)
    for one in dcmread(file).ROIContourSequence[region].ContourSequence:
        points = np.array(one.ContourData, float).reshape(-1, 3)
        if points[0, 2] == z:
            mask ^= polygon2mask(shape, ((points[:, :2] + 125) / 0.488281)[:, ::-1])
    return mask


@pytest.mark.parametrize("name", ["invalid_reference_rt", "non_existent_reference_rt"])
def test_references_to_slices_that_are_not_open_stop_nothing_else(phantom: tuple[Path, tuple[Series, ...]], name: str) -> None:
    folder, series = phantom
    file = folder / f"{name}.dcm"
    placed = place(dicom.read_annotations(file.read_bytes()), series)
    (problem,) = placed.problems
    assert problem.startswith("Not shown: 4 contours on no open slice, neither by SOP Instance UID nor by position;")
    assert sorted(placed.by_slice) == [(0, 0), (0, 1)]
    for (_, index), annotations in placed.by_slice.items():
        assert [one.said.label for one in annotations] == ["ROI-1", "ROI-2", "ROI-3", "ROI-4"]
        for region, one in enumerate(annotations):
            assert isinstance(one, Annotation)
            expected = _oracle(file, region, 60 + 5 * index, one.mask.shape)
            assert expected.sum() > 1000
            assert np.array_equal(one.mask, expected)


def test_a_frame_of_reference_that_a_program_made_up_is_refused_in_words(phantom: tuple[Path, tuple[Series, ...]]) -> None:
    folder, series = phantom
    placed = place(dicom.read_annotations((folder / "rt.dcm").read_bytes()), series)
    assert placed.by_slice == {}
    (problem,) = placed.problems
    assert problem.startswith("Not shown: 2 contours ")
    assert "contradicts itself" in problem


def test_contours_on_an_oblique_series_land_where_they_were_drawn(shared_data: Path) -> None:
    header = dcmread(shared_data / "interop" / "rtutils" / "oriented_data" / "1.dcm", stop_before_pixels=True)
    cosines = tuple(float(one) for one in header.ImageOrientationPatient)
    origin = tuple(float(one) for one in header.ImagePositionPatient)
    row_mm, column_mm = (float(one) for one in header.PixelSpacing)
    right, down = np.array(cosines[:3]) * column_mm, np.array(cosines[3:]) * row_mm
    corners = [np.array(origin) + (x - 0.5) * right + (y - 0.5) * down for x, y in SQUARE]
    made = rtstruct([("region", [contour(SQUARE)])])
    made.ROIContourSequence[0].ContourSequence[0].ContourData = [f"{number:.5f}" for corner in corners for number in corner]

    plane = Plane((origin[0], origin[1], origin[2]), cosines[:3], cosines[3:])
    flat = open_series(0.0).slices[0]
    oblique = replace(flat, plane=plane, spacing=PixelSpacing(row_mm, column_mm))
    placed = place(dicom.read_annotations(content(made)), [Series((oblique,))])
    assert placed.problems == ()
    assert np.array_equal(only_mask(placed), box(3, 9, 2, 12))
    placed = place(
        dicom.read_annotations(content(made)), [Series((replace(flat, plane=Plane(plane.position, (1, 0, 0), (0, 1, 0))),))]
    )
    assert "not parallel" in placed.problems[0]


def test_the_lobes_of_a_real_rtstruct_are_those_of_the_masks_it_was_made_from(shared_data: Path) -> None:
    folder = shared_data / "rtstruct"
    (series,) = take_in_paths(sorted(folder.glob("CT*.dcm"))).series
    placed = place(dicom.read_annotations((folder / "rt-struct-test-data-81-100.dcm").read_bytes()), [series])
    assert placed.problems == ()
    checked = 0
    for file in sorted((folder / "lobes").glob("*.nii.gz")):
        stored = gzip.decompress(file.read_bytes())
        # The header is NIfTI-1's; its affine says that rows run from back to front, which DICOM's do not.
        volume = np.frombuffer(stored[352:], "u1").reshape(20, 512, 512)[:, ::-1] > 0
        for index, expected in enumerate(volume):
            found = [one for one in placed.by_slice[0, index] if one.said.label == file.name.split(".")[0]]
            assert len(found) == int(expected.any())
            for one in found:
                assert isinstance(one, Annotation)
                assert np.array_equal(one.mask, expected)
                checked += 1
    assert checked > 60
