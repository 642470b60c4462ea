"""SEGs as highdicom writes them, and as other programs do, land on the pixels that they were drawn on."""

import zlib
from contextlib import suppress
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.coding import Code
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from ipfvision import dicom
from ipfvision.core.annotation import Annotation, Finding, MaskInPatient
from ipfvision.core.placement import Placed, place
from ipfvision.core.slice import Series
from ipfvision.errors import InputRefused, NotAnImage, TooLarge, UnsupportedEncoding
from tests.ct_files import COLUMNS, ROWS, chest, ct, dataset, scan, to_bytes

DRAWN = Code("49755003", "SCT", "Morphologically Abnormal Structure")
BRONCHIECTASIS = Code("12295008", "SCT", "Traction bronchiectasis")


def cts(count: int, rows: int = ROWS, columns: int = COLUMNS) -> list[Dataset]:
    """Slices 1 mm apart, as files."""
    made = [scan(chest(rows, columns, seed=z), z=float(z), number=z) for z in range(count)]
    return [dataset(one, PatientName="Nobody^") for one in made]


def series(files: list[Dataset]) -> Series:
    return Series(tuple(dicom.read(to_bytes(file), "ct.dcm")[0] for file in files))


def segment(number: int, label: str, kind: Code = DRAWN) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(number, label, DRAWN, kind, "MANUAL")


def seg(
    files: list[Dataset],
    pixels: npt.NDArray[Any],
    kind: str = "BINARY",
    segments: list[hd.seg.SegmentDescription] | None = None,
    syntax: str = ExplicitVRLittleEndian,
    **more: Any,
) -> Dataset:
    """A SEG by highdicom. The orders of slices and frames are different on purpose: highdicom sorts."""
    uid = hd.UID
    made = hd.seg.Segmentation(
        files,
        pixels,
        kind,
        segments or [segment(1, "Honeycombing")],
        uid(),
        1,
        uid(),
        1,
        "maker",
        "model",
        "1",
        "1",
        transfer_syntax_uid=syntax,
        omit_empty_frames=False,
        **more,
    )
    buffer = BytesIO()
    made.save_as(buffer)
    return dcmread(BytesIO(buffer.getvalue()))


def content(made: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, made)
    return buffer.getvalue()


def masks(placed: Placed) -> dict[int, npt.NDArray[np.bool_]]:
    """By slice, where each has one annotation."""
    found = {}
    for (_, index), (annotation,) in placed.by_slice.items():
        assert isinstance(annotation, Annotation)
        found[index] = annotation.mask
    return found


def assert_lands(made: Dataset, files: list[Dataset], drawn: npt.NDArray[np.bool_]) -> Placed:
    placed = place(dicom.read_annotations(content(made)), [series(files)])
    assert placed.problems == ()
    found = masks(placed)
    assert sorted(found) == list(range(len(drawn)))
    for index, mask in enumerate(drawn):
        assert np.array_equal(found[index], mask)
    return placed


def spots(count: int = 3, seed: int = 0) -> npt.NDArray[np.bool_]:
    return np.random.default_rng(seed).random((count, ROWS, COLUMNS)) < 0.3


@settings(max_examples=25, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, min_side=3, max_side=11)))
def test_every_pixel_of_a_binary_seg_comes_back(drawn: npt.NDArray[np.bool_]) -> None:
    # Frames whose bits do not end with a byte; of fewer than 8 pixels highdicom 0.28 writes them wrong.
    files = cts(*drawn.shape)
    assert_lands(seg(files, drawn), files, drawn)


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("FRACTIONAL", RLELossless),
        ("FRACTIONAL", JPEGLSLossless),
        ("LABELMAP", RLELossless),
        ("LABELMAP", ExplicitVRLittleEndian),
    ],
)
def test_compressed_frames_and_label_maps_come_back(kind: str, syntax: str) -> None:
    files, drawn = cts(3), spots()
    pixels = drawn.astype(np.float32) if kind == "FRACTIONAL" else drawn.astype(np.uint8)
    assert_lands(seg(files, pixels, kind, syntax=syntax), files, drawn)


def test_single_bits_deflated_frame_by_frame_come_back() -> None:
    files, drawn = cts(3), spots()
    made = seg(files, drawn)
    size = ROWS * COLUMNS // 8
    streams = []
    for number in range(3):
        squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        streams.append(squeeze.compress(made.PixelData[number * size : (number + 1) * size]) + squeeze.flush())
    placed = place(dicom.read_annotations(with_deflated_frames(made, streams)), [series(files)])
    assert np.array_equal(np.stack([mask for _, mask in sorted(masks(placed).items())]), drawn)
    for damaged in ([b"\xff" * 20] * 3, [streams[0][:100]] * 3, streams[:2]):
        with pytest.raises(NotAnImage, match="damaged"):
            dicom.read_annotations(with_deflated_frames(made, damaged))


def with_deflated_frames(made: Dataset, streams: list[bytes]) -> bytes:
    """Deflated Image Frame Compression, which pydicom 3.0 does not write: another syntax's UID of its length is replaced."""
    made.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2) for stream in streams])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = JPEGLSLossless
    written = content(made)
    assert written.count(b"1.2.840.10008.1.2.4.80") == 1
    return written.replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.8.1\0")


def test_a_fraction_counts_from_half_of_the_maximum_and_the_label_says_so() -> None:
    files = cts(1)
    fractions = np.zeros((1, ROWS, COLUMNS), np.float32)
    fractions[0, 5, 5:9] = np.array([0, 50, 51, 100]) / 101
    made = seg(files, fractions, "FRACTIONAL", max_fractional_value=101)
    (item,) = dicom.read_annotations(content(made))
    assert isinstance(item, MaskInPatient)
    assert item.said.label == "Honeycombing (at least 50%)"
    drawn = np.zeros((1, ROWS, COLUMNS), np.bool_)
    drawn[0, 5, 7:9] = True
    assert_lands(made, files, drawn)


def test_segments_keep_their_labels_and_name_their_findings() -> None:
    files = cts(2)
    drawn = np.stack([spots(2, seed=seed) for seed in range(4)], axis=-1)
    named = [
        segment(1, "HC left\x07"),
        segment(2, "B", BRONCHIECTASIS),
        segment(3, "Ground-glass opacity"),
        segment(4, "HC left\x07"),
    ]
    placed = place(dicom.read_annotations(content(seg(files, drawn, segments=named))), [series(files)])
    assert placed.problems == ()
    for index in range(2):
        said = {one.said.label: one for one in placed.by_slice[0, index]}
        assert list(said) == ["HC left (1)", "B", "Ground-glass opacity", "HC left (4)"]
        assert [one.said.finding for one in said.values()] == [
            Finding.OTHER,
            Finding.TRACTION_BRONCHIECTASIS,
            Finding.GROUND_GLASS,
            Finding.OTHER,
        ]
        for number, one in enumerate(said.values()):
            assert isinstance(one, Annotation)
            assert np.array_equal(one.mask, drawn[index, ..., number])
            assert one.said.matched_by == "SOP Instance UID"


def test_segments_of_a_label_map_are_apart() -> None:
    files = cts(2)
    labels = np.random.default_rng(0).integers(0, 3, (2, ROWS, COLUMNS)).astype(np.uint8)
    named = [segment(1, "Reticulation"), segment(2, "Honeycombing")]
    placed = place(dicom.read_annotations(content(seg(files, labels, "LABELMAP", named))), [series(files)])
    for index in range(2):
        for one in placed.by_slice[0, index]:
            assert isinstance(one, Annotation)
            number = ["Reticulation", "Honeycombing"].index(one.said.label) + 1
            assert np.array_equal(one.mask, labels[index] == number)
        assert len(placed.by_slice[0, index]) == 2


def test_frames_in_any_order_come_back() -> None:
    files, drawn = cts(5), spots(5)
    made = seg(files, drawn)
    order = np.random.default_rng(1).permutation(5)
    frames = np.frombuffer(made.PixelData, np.uint8).reshape(5, -1)
    made.PixelData = frames[order].tobytes()
    made.PerFrameFunctionalGroupsSequence = [made.PerFrameFunctionalGroupsSequence[i] for i in order]
    assert_lands(made, files, drawn)


def test_a_segment_number_in_the_shared_or_in_each_frames_groups_is_read_and_one_segment_needs_none() -> None:
    files, drawn = cts(2), spots(2)
    made = seg(files, drawn)
    shared = made.SharedFunctionalGroupsSequence[0]
    identification = shared.SegmentIdentificationSequence
    assert_lands(made, files, drawn)
    del shared.SegmentIdentificationSequence
    assert_lands(made, files, drawn)
    for group in made.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence = identification
    assert_lands(made, files, drawn)
    del made.PerFrameFunctionalGroupsSequence[1].SegmentIdentificationSequence
    other = Dataset()
    other.SegmentNumber = 2
    made.SegmentSequence = [*made.SegmentSequence, other]
    with pytest.raises(NotAnImage, match="Referenced Segment Number"):
        dicom.read_annotations(content(made))


def test_geometry_in_the_shared_groups_is_read() -> None:
    files, drawn = cts(1), spots(1)
    made = seg(files, drawn)
    shared, (own,) = made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence
    for keyword in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
        home, other = (own, shared) if keyword in own else (shared, own)
        setattr(other, keyword, getattr(home, keyword))
        delattr(home, keyword)
    assert_lands(made, files, drawn)


def test_without_references_the_position_decides() -> None:
    files, drawn = cts(3), spots()
    made = seg(files, drawn)
    for group in made.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
        group.PlanePositionSequence[0].ImagePositionPatient[2] += 0.2
    placed = assert_lands(made, files, drawn)
    assert {one.said.matched_by for (one,) in placed.by_slice.values()} == {"position, 0.2 mm away"}


def test_a_seg_that_does_not_say_where_it_lies_is_refused() -> None:
    made = seg(cts(2), spots(2))
    for group in made.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    with pytest.raises(InputRefused, match="does not say where it lies"):
        dicom.read_annotations(content(made))


def test_another_frame_of_reference_is_refused() -> None:
    files = cts(2)
    made = seg(files, spots(2))
    made.FrameOfReferenceUID = "1.2.3"
    placed = place(dicom.read_annotations(content(made)), [series(files)])
    assert placed.by_slice == {}
    (problem,) = placed.problems
    assert problem.startswith("Not shown: 2 masks ")
    assert "(0020,0052)" in problem


def turned(
    pixels: npt.NDArray[Any], plane: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], how: tuple[bool, bool, bool]
) -> tuple[npt.NDArray[Any], tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
    """Pixels and geometry turned together. `plane`: position, and mm along one column and along one row, as vectors."""
    position, right, down = plane
    transpose, mirror, upside_down = how
    rows, columns = pixels.shape[-2:]
    if mirror:
        pixels, position, right = pixels[..., ::-1], position + right * (columns - 1), -right
    if upside_down:
        pixels, position, down = pixels[..., ::-1, :], position + down * (rows - 1), -down
    if transpose:
        pixels, right, down = np.swapaxes(pixels, -1, -2), down, right
    return pixels, (position, right, down)


def turned_seg(files: list[Dataset], drawn: npt.NDArray[np.bool_], how: tuple[bool, bool, bool]) -> Dataset:
    positions = []
    for file in files:
        cosines = np.array(file.ImageOrientationPatient, float)
        row_mm, column_mm = (float(mm) for mm in file.PixelSpacing)
        plane = (np.array(file.ImagePositionPatient, float), cosines[:3] * column_mm, cosines[3:] * row_mm)
        pixels, (position, right, down) = turned(drawn, plane, how)
        positions.append(hd.PlanePositionSequence("PATIENT", position.tolist()))
    spacing = [float(np.linalg.norm(down)), float(np.linalg.norm(right))]
    cosines = np.concatenate([right / np.linalg.norm(right), down / np.linalg.norm(down)])
    return seg(
        files,
        np.ascontiguousarray(pixels),
        plane_positions=positions,
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", cosines.tolist()),
        pixel_measures=hd.PixelMeasuresSequence(spacing, 1.0),
    )


@pytest.mark.parametrize("how", list(product([False, True], repeat=3)))
def test_pixels_turned_and_flipped_with_their_geometry_land_on_the_same_tissue(how: tuple[bool, bool, bool]) -> None:
    files, drawn = cts(3), spots()
    assert_lands(turned_seg(files, drawn, how), files, drawn)


@pytest.mark.parametrize("finer", [2, 3, 5])
def test_a_finer_grid_comes_back_and_a_coarser_one_is_enlarged(finer: int) -> None:
    files, drawn = cts(2), spots(2)
    row_mm, column_mm = (float(mm) for mm in files[0].PixelSpacing)

    def regridded(pixels: npt.NDArray[np.bool_], scale: float) -> Dataset:
        # The corners of the first pixels coincide, not their centers.
        shift = np.array([column_mm, row_mm, 0]) * (scale - 1) / 2
        places = [np.array(file.ImagePositionPatient, float) + shift for file in files]
        return seg(
            files,
            pixels,
            plane_positions=[hd.PlanePositionSequence("PATIENT", place.tolist()) for place in places],
            plane_orientation=hd.PlaneOrientationSequence("PATIENT", [1, 0, 0, 0, 1, 0]),
            pixel_measures=hd.PixelMeasuresSequence([row_mm * scale, column_mm * scale], 1.0),
        )

    assert_lands(regridded(np.kron(drawn, np.ones((1, finer, finer), np.bool_)), 1 / finer), files, drawn)
    coarse = drawn[:, : ROWS // finer, : COLUMNS // finer]
    enlarged = np.zeros_like(drawn)
    blocks = np.kron(coarse, np.ones((1, finer, finer), np.bool_))
    enlarged[:, : blocks.shape[1], : blocks.shape[2]] = blocks
    assert_lands(regridded(coarse, finer), files, enlarged)


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 25).tolist())
def test_a_truncated_seg_is_refused(share: float) -> None:
    whole = content(seg(cts(3), spots()))
    with pytest.raises(InputRefused):
        dicom.read_annotations(whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    "changes", [{"NumberOfFrames": 2**17}, {"Rows": 5000}, {"NumberOfFrames": 60000, "Columns": 4000, "Rows": 4000}]
)
def test_absurd_sizes_are_refused_before_anything_is_decoded(changes: dict[str, int]) -> None:
    made = seg(cts(1), spots(1))
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    with pytest.raises(TooLarge, match="Number of Frames"):
        dicom.read_annotations(content(made))


def test_a_description_of_fewer_frames_and_bits_that_are_not_read_here_are_refused() -> None:
    made = seg(cts(2), spots(2))
    made.PerFrameFunctionalGroupsSequence = made.PerFrameFunctionalGroupsSequence[:1]
    with pytest.raises(NotAnImage, match="describes 1"):
        dicom.read_annotations(content(made))
    made = seg(cts(2), spots(2))
    made.BitsAllocated = 32
    with pytest.raises(UnsupportedEncoding, match="32 bits"):
        dicom.read_annotations(content(made))


def test_what_a_file_is_is_told_by_its_content() -> None:
    made = seg(cts(1), spots(1))
    assert dicom.is_annotation(content(made))
    assert not dicom.is_annotation(ct())
    assert not dicom.is_annotation(b"")
    assert not dicom.is_annotation(b"\x08\x00" + b"\xff" * 40)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert dicom.is_annotation(content(made))
    assert len(dicom.read_annotations(content(made))) == 1
    with pytest.raises(InputRefused, match="neither a segmentation"):
        dicom.read_annotations(ct())


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


_OPEN = series(cts(2, 8, 8))
_SMALL = content(seg(cts(2, 8, 8), np.eye(8, dtype=np.bool_)[None].repeat(2, axis=0)))


@pytest.mark.parametrize("how", [(False, False, False), (True, False, True), (False, True, False)])
def test_a_seg_of_a_real_ct_lands_on_its_own_tissue(shared_data: Path, how: tuple[bool, bool, bool]) -> None:
    files = [dcmread(path) for path in sorted((shared_data / "rtstruct").glob("CT*.dcm"))[4:8]]
    for file in files:
        file.PatientName = "Nobody^"
    files.sort(key=lambda file: float(file.ImagePositionPatient[2]))
    open_series = series(files)
    air = np.stack([one.pixels < -900 for one in open_series.slices])
    assert_lands(turned_seg(files, air, how), files, air)
